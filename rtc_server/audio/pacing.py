"""When each call's next 20 ms frame leaves: one wheel for all calls of a process. Pure: times are given in.

The frame is divided into `PHASES` slots, so that a hundred calls do not all encode in the same millisecond, and the
process wakes at most once per occupied slot. An empty wheel has nothing due: the process sleeps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Generic, TypeVar

from .pcm import FRAME_MS

PHASES = 4  # 5 ms slots: a frame waits 2.5 ms for its slot on average, and a slot costs one wake-up
SLOT_SECONDS = FRAME_MS / 1_000 / PHASES
MAX_LATE_FRAMES = 1  # a frame late by more is skipped: timestamps follow the wall clock, nothing leaves in a burst

Member = TypeVar("Member")


class PacingWheel(Generic[Member]):
    """Members are due once per frame, each in one slot. All times are monotonic seconds."""

    def __init__(self, frame_ms: int = FRAME_MS, phases: int = PHASES, max_late_frames: int = MAX_LATE_FRAMES) -> None:
        self._frame = frame_ms / 1_000
        self._slot = self._frame / phases
        self._max_late = max_late_frames
        self._slots: list[dict[Member, None]] = [{} for _ in range(phases)]
        self._due = [0.0] * phases
        self._slot_of: dict[Member, int] = {}

    def __len__(self) -> int:
        return len(self._slot_of)

    def add(self, member: Member, now: float) -> None:
        """Put `member` into the emptiest slot, of several the one that is due first. It is due within one frame.

        Raises ValueError when it is in already."""
        if member in self._slot_of:
            raise ValueError(f"{member!r} is on the wheel already")
        position = math.floor(now / self._slot) + 1  # the first slot boundary after now, on a grid that never moves
        phases = len(self._slots)
        soonest = sorted(range(phases), key=lambda phase: (len(self._slots[phase]), (phase - position) % phases))[0]
        slot = self._slots[soonest]
        if not slot:
            self._due[soonest] = (position + (soonest - position) % phases) * self._slot
        slot[member] = None
        self._slot_of[member] = soonest

    def discard(self, member: Member) -> None:
        """Take `member` off; nothing happens when it is not there."""
        phase = self._slot_of.pop(member, None)
        if phase is not None:
            del self._slots[phase][member]

    def next_due(self) -> float | None:
        """When to call `advance`; None while nobody is on the wheel."""
        return min((due for due, slot in zip(self._due, self._slots, strict=True) if slot), default=None)

    def advance(self, now: float) -> Iterator[tuple[tuple[Member, ...], float, int]]:
        """(members, when they were due, frames skipped before this one) of every slot that is due, oldest first.

        A slot that is late by more than `max_late_frames` skips what it missed: each member then gets one frame and
        the number of frames by which its clock moved on. Members may be added and discarded while iterating."""
        for phase in sorted(range(len(self._slots)), key=self._due.__getitem__):
            while self._slots[phase] and self._due[phase] <= now:
                late_frames = int((now - self._due[phase]) / self._frame)
                skipped = late_frames if late_frames > self._max_late else 0
                due = self._due[phase] + skipped * self._frame
                self._due[phase] = due + self._frame
                yield tuple(self._slots[phase]), due, skipped
