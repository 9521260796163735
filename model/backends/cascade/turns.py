"""Which parts of a user's turn must be recognised, and what is known from earlier requests on the same turn.

While somebody speaks, every short pause may bring a speculative request; when they go on, a longer request for
the same turn follows. What an earlier request recognised is kept, so that only the rest is left to do. That
pays where it is long: recognition costs about 20 ms per second of speech and each cut costs context, so parts
shorter than `MIN_SEGMENT_SECONDS` are recognised again together with what follows. Pure.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from model.interface import INPUT_SAMPLE_RATE, Pcm16

MIN_SEGMENT_SECONDS = 5.0
"""Shortest part that is kept for a later request: saves at least 100 ms and is long enough to stand alone."""
MAX_SEGMENT_SECONDS = 25.0
"""Moonshine was trained on up to 30 s; beyond it drops words."""
FORCED_CUT_SECONDS = 10.0
"""Without a pause, a long turn is cut at the quietest place in the last this many seconds of a segment."""
MIN_TAIL_SECONDS = 0.5
"""A shorter rest is recognised with what stands before it; alone it invites invented words."""
PAUSE_TOLERANCE_SECONDS = 0.5
"""A request ends up to this long after the pause that caused it."""
MAX_ENTRIES = 64

_QUIET_WINDOW = INPUT_SAMPLE_RATE // 10


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a turn: samples [start, end) at 16 kHz."""

    start: int
    end: int


def _samples(seconds: float) -> int:
    return int(seconds * INPUT_SAMPLE_RATE)


class TurnMemory:
    """Texts of recognised segments, by turn. Bounded: the least recently used is forgotten."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._texts: OrderedDict[tuple[str, int, int], tuple[int, str]] = OrderedDict()
        self._max_entries = max_entries

    def __len__(self) -> int:
        return len(self._texts)

    def plan(self, turn_id: str, audio: Pcm16, pauses: tuple[int, ...]) -> list[Segment]:
        """Cut a turn into segments of at most MAX_SEGMENT_SECONDS, along what is known and along pauses."""
        ends = sorted(end for turn, _, end in self._texts if turn == turn_id)
        segments: list[Segment] = []
        start = 0
        while start < len(audio):
            end = self._next_end(turn_id, audio, start, ends, pauses)
            segments.append(Segment(start, end))
            start = end
        return segments

    def get(self, turn_id: str, audio: Pcm16, segment: Segment) -> str | None:
        """The text of a segment if exactly these samples were recognised before."""
        key = (turn_id, segment.start, segment.end)
        known = self._texts.get(key)
        if known is None or known[0] != _checksum(audio, segment):
            return None
        self._texts.move_to_end(key)
        return known[1]

    def put(self, turn_id: str, audio: Pcm16, segment: Segment, text: str) -> None:
        self._texts[(turn_id, segment.start, segment.end)] = (_checksum(audio, segment), text)
        self._texts.move_to_end((turn_id, segment.start, segment.end))
        if len(self._texts) > self._max_entries:
            self._texts.popitem(last=False)

    def _next_end(self, turn_id: str, audio: Pcm16, start: int, ends: list[int], pauses: tuple[int, ...]) -> int:
        total = len(audio)
        if self.get(turn_id, audio, Segment(start, total)) is not None:
            return total
        last_cut = total - _samples(MIN_TAIL_SECONDS)
        known = [
            end
            for end in ends
            if start + _samples(MIN_SEGMENT_SECONDS) <= end <= last_cut
            and _is_at_pause(end, pauses)
            and self.get(turn_id, audio, Segment(start, end)) is not None
        ]
        if known:
            return known[-1]
        if total - start <= _samples(MAX_SEGMENT_SECONDS):
            return total
        limit = min(start + _samples(MAX_SEGMENT_SECONDS), last_cut)
        fitting = [pause for pause in pauses if start + _samples(MIN_SEGMENT_SECONDS) <= pause <= limit]
        return fitting[-1] if fitting else _quietest(audio, limit - _samples(FORCED_CUT_SECONDS), limit)


def _checksum(audio: Pcm16, segment: Segment) -> int:
    return zlib.crc32(audio[segment.start : segment.end].tobytes())


def _is_at_pause(end: int, pauses: tuple[int, ...]) -> bool:
    tolerance = _samples(PAUSE_TOLERANCE_SECONDS)
    return any(pause - tolerance <= end <= pause + tolerance for pause in pauses)


def _quietest(audio: Pcm16, start: int, end: int) -> int:
    """Middle of the 100 ms of least energy in audio[start:end]."""
    windows = (end - start) // _QUIET_WINDOW
    span = audio[start : start + windows * _QUIET_WINDOW].astype(np.float32).reshape(windows, _QUIET_WINDOW)
    return start + int(np.square(span).mean(axis=1).argmin()) * _QUIET_WINDOW + _QUIET_WINDOW // 2
