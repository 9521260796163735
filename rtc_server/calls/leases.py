"""Places for calls, held as leases: taken before any work is done for a caller, given back in one place. Pure.

A lease is a number that is used once, so giving it back twice, or too late, frees nobody else's place.
"""

from __future__ import annotations

from collections import OrderedDict

START_SECONDS = 30.0  # longer than signaling waits for a media worker (20 s): whoever asked has been refused by then


class Leases:
    """The places of one process. `now` is monotonic seconds."""

    def __init__(self, start_seconds: float = START_SECONDS) -> None:
        """A place that holds no call `start_seconds` after it was taken is free again."""
        self._start_seconds = start_seconds
        self._last = 0
        self._starting: OrderedDict[int, float] = OrderedDict()  # until when; in this order, as all wait equally long
        self._running: set[int] = set()

    def __len__(self) -> int:
        """Places held, by calls that run and calls that are set up."""
        return len(self._starting) + len(self._running)

    @property
    def num_running(self) -> int:
        """Places that hold a call."""
        return len(self._running)

    def take(self, now: float) -> int:
        """A place for a call that is going to be set up. Whether there is one is the business of `admission`."""
        self.expire(now)
        self._last += 1
        self._starting[self._last] = now + self._start_seconds
        return self._last

    def start(self, lease: int, now: float) -> bool:
        """The call is set up, and holds its place until it ends. False: it took too long, and the place is gone."""
        self.expire(now)
        if self._starting.pop(lease, None) is None:
            return False
        self._running.add(lease)
        return True

    def give_back(self, lease: int) -> bool:
        """The call is over, or never came to be. False when the place was free already."""
        if lease in self._running:
            self._running.remove(lease)
            return True
        return self._starting.pop(lease, None) is not None

    def expire(self, now: float) -> int:
        """Free the places of calls that never came to be; how many there were."""
        num_expired = 0
        while self._starting and next(iter(self._starting.values())) <= now:
            self._starting.popitem(last=False)
            num_expired += 1
        return num_expired
