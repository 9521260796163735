"""Where engines run: `client` (contract and supervision), `process` (default), `thread` (tests)."""
