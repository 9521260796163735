"""Where a TURN server is, out of its URL (RFC 7065)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rtc_server.config.kinds import TURN_EXAMPLE, TURN_URL

Way = Literal["udp", "tcp", "tls"]

PORT, TLS_PORT = 3478, 5349  # what the RFC says where the URL names none


@dataclass(frozen=True, slots=True)
class RelayAddress:
    """One TURN server, over one transport."""

    host: str
    """A name or an IP address, without brackets."""
    port: int
    way: Way
    """How callers reach it: datagrams, TCP, or TLS over TCP."""

    @classmethod
    def of(cls, url: str) -> RelayAddress:
        """Raises ValueError for what is no such URL, and for DTLS, which no browser speaks to a TURN server."""
        found = TURN_URL.fullmatch(url)
        if found is None:
            raise ValueError(f"{url!r} is no TURN server; write for example {TURN_EXAMPLE}")
        is_secure = found["scheme"] == "turns"
        transport = found["transport"] or ("tcp" if is_secure else "udp")
        if is_secure and transport == "udp":
            raise ValueError(f"{url!r} means DTLS, which no browser speaks to a TURN server; use ?transport=tcp")
        port = int(found["port"]) if found["port"] else (TLS_PORT if is_secure else PORT)
        way: Way = "tls" if is_secure else "tcp" if transport == "tcp" else "udp"
        return cls(found["host"].strip("[]"), port, way)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port} over {self.way.upper()}"
