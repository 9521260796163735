"""OpenAI's Realtime words, pure: `events` (parse and build), `session` (settings), `conversation` (items)."""
