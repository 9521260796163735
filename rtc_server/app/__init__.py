"""The aiohttp application: `server` (wiring), `calls` (signaling), `health`, `middleware`."""
