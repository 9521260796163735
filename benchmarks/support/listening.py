"""Somebody who listens to a reply as it comes: what he has heard, when his buffer ran dry, and the credit he gives.

No clock: all methods are told the time, in seconds.
"""

from __future__ import annotations

import numpy as np

SMALLEST_GRANT_MS, LARGEST_GRANT_MS = 20, 100


class Listener:
    """Plays from the first sound on. An underrun is a time without sound before the reply is complete."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._granted_ms = 0
        self._next_grant_ms = self._draw()
        self._dry_at = 0.0
        """When all that came will have been played."""
        self.received_ms = 0.0
        self.num_underruns = 0
        self.underrun_ms = 0.0

    def receive(self, piece_ms: float, now: float) -> None:
        """More sound came."""
        if not self.received_ms:
            self._dry_at = now
        elif now > self._dry_at:
            self.num_underruns += 1
            self.underrun_ms += (now - self._dry_at) * 1000
            self._dry_at = now
        self._dry_at += piece_ms / 1000
        self.received_ms += piece_ms

    def stop(self, now: float) -> None:
        """No more will come although the reply is not complete."""
        if self.received_ms and now > self._dry_at:
            self.num_underruns += 1
            self.underrun_ms += (now - self._dry_at) * 1000

    def played_ms(self, now: float) -> float:
        return self.received_ms - max(0.0, self._dry_at - now) * 1000

    def grant(self, now: float) -> int:
        """Milliseconds of credit for what was played since the last grant; 0: not yet."""
        grant = 0
        while self.played_ms(now) >= self._granted_ms + self._next_grant_ms:
            grant += self._next_grant_ms
            self._granted_ms += self._next_grant_ms
            self._next_grant_ms = self._draw()
        return grant

    def next_grant_at(self) -> float:
        """When `grant` will have something, unless new sound comes; infinity without enough sound for that."""
        left_ms = self.received_ms - self._granted_ms - self._next_grant_ms
        return self._dry_at - left_ms / 1000 if left_ms >= 0 else float("inf")

    def _draw(self) -> int:
        return int(self._random.integers(SMALLEST_GRANT_MS, LARGEST_GRANT_MS + 1))
