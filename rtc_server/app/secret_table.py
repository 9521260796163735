"""Ephemeral secrets: made for one browser, good for a few minutes, known here only as a hash.

They live in the memory of the signaling process: a restart forgets them, as it ends the calls.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass

from rtc_server.errors import RateLimitedError
from rtc_server.limits import retry_after
from rtc_server.media.owners import Owner
from rtc_server.realtime.session import SessionConfig

PREFIX = "ek_"  # browser SDKs refuse others
MAX_BYTES = 64 * 1024 * 1024  # of all bound sessions together, by the size of the requests that made them


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """What is known of one."""

    secret_id: str
    owner: Owner
    """Who made it."""
    session: SessionConfig | None
    expires_at: int
    """Wall clock, in whole seconds."""
    num_bytes: int


class SecretTable:
    """`now` is the wall clock in seconds: the time at which a secret ends is told to clients."""

    def __init__(self, max_secrets: int) -> None:
        self._max_secrets = max_secrets
        self._secrets: OrderedDict[bytes, ClientSecret] = OrderedDict()
        self._num_bytes = 0

    def __len__(self) -> int:
        return len(self._secrets)

    def mint(
        self, owner: Owner, session: SessionConfig | None, seconds: int, now: float, num_bytes: int = 0
    ) -> tuple[str, ClientSecret]:
        """A new secret and what is kept of it. Raises RateLimitedError when there are too many that still hold."""
        self._expire(now)
        if len(self._secrets) >= self._max_secrets or self._num_bytes + num_bytes > MAX_BYTES:
            first = min((secret.expires_at for secret in self._secrets.values()), default=now)
            raise RateLimitedError(
                f"{len(self._secrets)} client secrets are valid at the moment; wait until one ends.",
                retry_after=retry_after(first - now),
            )
        value = PREFIX + secrets.token_urlsafe(32)
        secret = ClientSecret(secrets.token_hex(8), owner, session, int(now) + seconds, num_bytes)
        self._secrets[_hash(value)] = secret
        self._num_bytes += num_bytes
        return value, secret

    def find(self, value: str, now: float) -> ClientSecret | None:
        """The secret, if it is known and not over. Looked up by its hash, so the time taken tells nothing about it."""
        secret = self._secrets.get(_hash(value))
        return secret if secret is not None and now < secret.expires_at else None

    def _expire(self, now: float) -> None:
        """Looks at all of them, but only when one may be over or there is no room."""
        oldest = next(iter(self._secrets.values()), None)
        is_full = len(self._secrets) >= self._max_secrets or self._num_bytes > MAX_BYTES // 2
        if oldest is None or (oldest.expires_at > now and not is_full):
            return
        for key in [key for key, secret in self._secrets.items() if secret.expires_at <= now]:
            self._num_bytes -= self._secrets.pop(key).num_bytes


def _hash(value: str) -> bytes:
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).digest()
