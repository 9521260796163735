"""The one media timer of a process: wakes the calls whose frame is due, and sleeps while there are none."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from rtc_server.audio.pacing import SLOT_SECONDS, PacingWheel

log = logging.getLogger(__name__)

TICK_SECONDS = SLOT_SECONDS  # it wakes at whole multiples of this, when anything is due


class Paced(Protocol):
    """Something that does its work once per 20 ms frame."""

    def tick(self, now: float, due: float, skipped_frames: int) -> None:
        """The frame that was due at `due`; `skipped_frames` before it were missed for good. Must not raise."""


class Pacer:
    """Owns the timer. Made once per event loop; every method belongs to that loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wheel: PacingWheel[Paced] = PacingWheel()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._wheel)

    @property
    def is_asleep(self) -> bool:
        """No timer is armed."""
        return self._timer is None

    def add(self, member: Paced) -> None:
        """Tick `member` from now on, within the next 20 ms for the first time."""
        self._wheel.add(member, self._loop.time())
        self._arm()

    def discard(self, member: Paced) -> None:
        """Never tick `member` again. Idempotent."""
        self._wheel.discard(member)
        if not len(self._wheel) and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        due = self._wheel.next_due()
        if due is None:
            return
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._loop.time()
        # The loop calls a timer up to its clock's resolution early.
        for members, due, skipped in self._wheel.advance(now + 0.0005):
            for member in members:
                try:
                    member.tick(now, due, skipped)
                except Exception:  # one call's bug must not silence the others; tick is written not to raise
                    log.exception("a paced call failed")
        self._arm()
