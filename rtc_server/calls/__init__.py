"""Calls: `core` (rules, pure), `call` (shell), `registry` (admission and slots)."""
