"""The aiohttp application: `server` (wiring), `calls` (signaling), `health`, and what stands in front of every handler:
`middleware` (errors), `guard` (origins, keys, limits), `connections`."""
