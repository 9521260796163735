"""How often somebody may ask: the generic cell rate algorithm (GCRA) over a bounded table, on the caller's clock.

The algorithm is a leaky bucket that keeps one number per key: the time at which the key would be back to a full burst.
A key whose time has passed is the same as a key that was never seen, so forgetting it changes nothing; no other key is
ever forgotten. A flood of new keys can therefore not push a limited one out and set it free: keys that find the table
full share a fixed set of buckets, chosen by a secret hash, where they are limited together, never less than alone.

Libraries that were looked at: `limits` expires its memory storage with a timer thread; `throttled-py` (GCRA too) drops
the least recently used key when its table is full, which is the hole above; `aiolimiter` makes callers wait and has no
keys. None takes the time as an argument.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Hashable
from dataclasses import dataclass

MAX_KEYS = 10_000  # about 1 MB; beyond it keys share buckets
OVERFLOW_BUCKETS = 1_024
SWEEP_SECONDS = 1.0  # looking through a full table costs about a millisecond
ROUNDING_SECONDS = 1e-6  # sums of floats: who waited as long as it was told is not late by a rounding error


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_minute` requests in the long run, `burst` of them at once."""

    per_minute: float
    burst: int

    def __post_init__(self) -> None:
        if self.per_minute <= 0 or self.burst < 1:
            raise ValueError(f"a rate needs per_minute above 0 and a burst of at least 1, got {self}")


class RateLimiter:
    """One rate for many keys. `now` is in seconds and never goes back."""

    def __init__(self, rate: Rate, max_keys: int = MAX_KEYS) -> None:
        self._interval = 60.0 / rate.per_minute
        self._tolerance = self._interval * (rate.burst - 1)
        self._max_keys = max_keys
        self._full_at: dict[Hashable, float] = {}  # least recently used first
        self._overflow = [-math.inf] * OVERFLOW_BUCKETS
        self._next_sweep = -math.inf

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: Hashable, now: float) -> float:
        """Seconds to wait before the key may ask again; 0.0 = it may, and this request is counted."""
        wait = self.wait(key, now)
        if wait == 0.0:
            self._count(key, now)
        return wait

    def wait(self, key: Hashable, now: float) -> float:
        """As `take`, without counting anything."""
        full_at = self._full_at.get(key)
        if full_at is None and len(self._full_at) >= self._max_keys:
            full_at = self._overflow[self._bucket(key)]
        if full_at is None:
            return 0.0
        wait = full_at - self._tolerance - now
        return wait if wait > ROUNDING_SECONDS else 0.0

    def _count(self, key: Hashable, now: float) -> None:
        full_at = self._full_at.pop(key, None)
        if full_at is None and len(self._full_at) >= self._max_keys:
            self._forget_refilled(now)
            if len(self._full_at) >= self._max_keys:
                bucket = self._bucket(key)
                self._overflow[bucket] = max(self._overflow[bucket], now) + self._interval
                return
        self._full_at[key] = (now if full_at is None else max(full_at, now)) + self._interval

    def _forget_refilled(self, now: float) -> None:
        while self._full_at and (oldest := next(iter(self._full_at))) is not None and self._full_at[oldest] <= now:
            del self._full_at[oldest]
        if len(self._full_at) >= self._max_keys and now >= self._next_sweep:
            self._next_sweep = now + SWEEP_SECONDS
            for key in [key for key, full_at in self._full_at.items() if full_at <= now]:
                del self._full_at[key]

    @staticmethod
    def _bucket(key: Hashable) -> int:
        return hash(("overflow", key)) % OVERFLOW_BUCKETS  # Python salts the hashes of strings, anew in each process


def retry_after(wait: float) -> int:
    """Whole seconds for the header `Retry-After`: after that long the next request passes."""
    return max(1, math.ceil(wait - ROUNDING_SECONDS))


def address_key(address: str) -> str:
    """What one subscriber has: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False))
