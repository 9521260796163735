"""Credentials for TURN servers that expire: the REST API for access to TURN services (draft-uberti-behave-turn-rest),
which coturn calls `use-auth-secret`. They are made from a secret that both sides know; nothing is stored.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rtc_server.errors import ConfigError

MIN_SECRET_CHARS = 32
NAME_CHARS = 16  # of a hash: enough to tell callers apart for coturn's user-quota, and it leads back to nobody


class Credentials(NamedTuple):
    """As `RTCIceServer` takes them."""

    username: str
    """When it expires, in seconds of the wall clock, a colon, and a name for whoever asked."""
    credential: str


class TurnSecret:
    """The secret of a file: what the first of its lines holds. Others are secrets that the TURN server also takes,
    while one takes the place of another."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError when the file cannot be used."""
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(f"turn.secret_file = {str(path)!r} cannot be read: {reason}.") from error
        shortest = min(map(len, lines), default=0)
        if shortest < MIN_SECRET_CHARS:
            raise ConfigError(
                f"turn.secret_file = {str(path)!r} has a secret of {shortest} characters; at least {MIN_SECRET_CHARS} "
                "are needed: openssl rand -hex 32 makes good ones."
            )
        self._secret = lines[0].encode()

    def credentials(self, caller: Iterable[str], expires_at: int) -> Credentials:
        """For whoever `caller` is: the same words give the same name, so that quotas count; nobody else can tell who
        it is."""
        name = hmac.new(self._secret, "/".join(caller).encode(), hashlib.sha256).hexdigest()[:NAME_CHARS]
        username = f"{expires_at}:{name}"
        digest = hmac.new(self._secret, username.encode(), hashlib.sha1).digest()  # what TURN servers expect
        return Credentials(username, base64.b64encode(digest).decode())
