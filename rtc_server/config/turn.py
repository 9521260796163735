"""The section of TURN: relays for callers whose network lets no datagram through to the server."""

from __future__ import annotations

from pydantic import Field, model_validator

from .kinds import Section, TurnUrl


class TurnSection(Section):
    """TURN servers that callers are told of, with credentials that expire. See turn.md."""

    urls: tuple[TurnUrl, ...] = ()
    """Where they are: "turn:turn.example.org:3478?transport=udp", "turns:turn.example.org:443?transport=tcp"."""
    secret_file: str = ""
    """File with the secret that the TURN servers know too (coturn's `static-auth-secret`), at least 32 characters. Of
    several lines the first makes credentials; all are for the TURN server, so that a secret can be replaced."""
    ttl_seconds: int = Field(3600, ge=60, le=86_400)
    """How long credentials are good for a new allocation; a call that has one keeps it."""

    @model_validator(mode="after")
    def _check(self) -> TurnSection:
        if self.urls and not self.secret_file:
            raise ValueError("turn.urls needs turn.secret_file: an open relay is abused within days")
        return self
