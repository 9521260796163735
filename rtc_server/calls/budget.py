"""How many responses one call may have: a bucket that refills over a minute, and what the client learns of it. Pure."""

from __future__ import annotations

from typing import Any


class ResponseBudget:
    """`per_minute` responses at once, and as many more per minute. Times are monotonic seconds."""

    def __init__(self, per_minute: int) -> None:
        self._limit = per_minute
        self._interval = 60.0 / per_minute
        self._full_at = float("-inf")

    def remaining(self, now: float) -> int:
        """Responses that may begin at once."""
        missing = max(0.0, self._full_at - now) / self._interval
        return max(0, int(self._limit - missing + 1e-9))

    def take(self, now: float) -> None:
        """One begins. Those that the user's voice begins are counted and never refused."""
        self._full_at = max(self._full_at, now) + self._interval

    def wait(self, now: float) -> float:
        """Seconds until one may begin; 0.0 = now."""
        return 0.0 if self.remaining(now) else max(0.0, self._full_at - (self._limit - 1) * self._interval - now)

    def to_event(self, now: float) -> list[dict[str, Any]]:
        """`rate_limits` of `rate_limits.updated`."""
        reset = round(max(0.0, self._full_at - now), 3)
        return [
            {"name": "requests", "limit": self._limit, "remaining": self.remaining(now), "reset_seconds": reset},
        ]
