"""TURN servers: where they are, the credentials for them, and whether they do their work."""
