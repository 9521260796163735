"""Finds voice in PCM by energy, in what the caller says and in what it hears. Pure: samples and times are given in.

Voice here means sound, not speech: a 10 ms window whose level is above a threshold. One threshold of -45 dBFS
(`VOICED_DBFS`, the server's own) serves all received audio: between replies a server sends digital silence, and
what a codec makes of that is far below. Recordings may hold room noise, so `voice_bounds` lifts the threshold above
the recording's own noise floor.

The edges are exact to the sample: in the first (last) voiced window, the first (last) sample that reaches the
threshold's amplitude. The same rule is applied to what was sent and to what was heard, so their difference is
a delay and nothing else.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.interface import Pcm16

VOICED_DBFS = -45.0  # quieter is the noise floor of a codec or of a quiet room
WINDOW_MS = 10  # half a frame: short enough for an edge, long enough for one period of a low voice
MERGE_MS = 100  # a gap this short is inside a word
MIN_STRETCH_WINDOWS = 2  # one loud window alone is a click
NOISE_MARGIN_DB = 10.0  # voice stands out of the noise floor of its recording by more than this
LOUD_MARGIN_DB = 15.0  # the threshold stays this far below the loudest tenth, even in a recording without a pause
MAX_STRETCHES = 10_000  # hours of talk
FULL_SCALE = 32_768.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """One stretch of voice: samples `start` up to `end` (exclusive) of the received stream, and when they were heard.

    `start_at` and `end_at` are monotonic seconds of the first and of the last voiced sample."""

    start: int
    end: int
    start_at: float
    end_at: float


def window_levels(pcm: Pcm16, window: int) -> NDArray[np.float64]:
    """Level of each full window of `window` samples in dBFS, shape [len(pcm) // window]; digital silence is -inf."""
    count = len(pcm) // window
    blocks = pcm[: count * window].astype(np.float64).reshape(count, window)
    power = np.mean(blocks * blocks, axis=1) / FULL_SCALE**2
    with np.errstate(divide="ignore"):
        return np.asarray(10.0 * np.log10(power))


def amplitude(dbfs: float) -> float:
    """The sample magnitude, in int16 steps, that belongs to a level."""
    return FULL_SCALE * math.pow(10.0, dbfs / 20.0)


def recording_threshold(levels: NDArray[np.float64]) -> float:
    """The level in dBFS above which a recording holds voice, from the levels of its windows."""
    if not len(levels):
        return VOICED_DBFS
    floor, loud = np.percentile(np.maximum(levels, -120.0), (10, 90))
    return float(max(VOICED_DBFS, min(floor + NOISE_MARGIN_DB, loud - LOUD_MARGIN_DB)))


def voice_bounds(pcm: Pcm16, sample_rate: int) -> tuple[int, int] | None:
    """(first voiced sample, last voiced sample) of a whole recording, int16 mono; None when it holds no voice."""
    window = sample_rate * WINDOW_MS // 1000
    padded = np.concatenate([pcm, np.zeros(-len(pcm) % window, np.int16)])
    levels = window_levels(padded, window)
    threshold = recording_threshold(levels)
    voiced = np.flatnonzero(levels > threshold)
    # A voiced window with a voiced neighbour; single ones are clicks.
    runs = voiced[np.isin(voiced + 1, voiced) | np.isin(voiced - 1, voiced)]
    if not len(runs):
        return None
    first, last = int(runs[0]) * window, int(runs[-1]) * window
    limit = amplitude(threshold)
    start, _ = _loud_edges(padded[first : first + window], limit)
    _, end = _loud_edges(padded[last : last + window], limit)
    return first + start, last + end


class Listener:
    """Collects the voiced stretches of a received stream, int16 mono at `sample_rate` Hz."""

    def __init__(self, sample_rate: int, threshold_dbfs: float = VOICED_DBFS) -> None:
        self._rate = sample_rate
        self._window = sample_rate * WINDOW_MS // 1000
        self._threshold = threshold_dbfs
        self._limit = amplitude(threshold_dbfs)
        self._merge = sample_rate * MERGE_MS // 1000
        self._done: deque[Stretch] = deque(maxlen=MAX_STRETCHES)
        self._open: Stretch | None = None
        self._open_windows = 0
        self._pending = np.zeros(0, np.int16)
        self._pending_at = 0  # stream position of _pending[0]
        self._marks: deque[tuple[int, float]] = deque(maxlen=64)  # (position, monotonic seconds) of recent frames
        self._heard_until = 0

    @property
    def stretches(self) -> Sequence[Stretch]:
        """All voiced stretches so far, oldest first; the last one may still grow. Clicks are left out."""
        if self._open is None or self._open_windows < MIN_STRETCH_WINDOWS:
            return tuple(self._done)
        return (*self._done, self._open)

    @property
    def silence_ms(self) -> float:
        """How much has been received since the last voiced sample; infinity before the first."""
        if self._open is not None:
            last = self._open.end
        elif self._done:
            last = self._done[-1].end
        else:
            return math.inf
        return (self._heard_until - last) * 1000 / self._rate

    def receive(self, pcm: Pcm16, position: int, at: float) -> None:
        """The next frame: `position` of its first sample in the stream, `at` (monotonic seconds) when it was handed
        out. Its sample i counts as heard at `at` + i / rate. Missing samples are taken as silence, old ones dropped."""
        late = self._heard_until - position
        if self._heard_until and late > 0:
            pcm, position = pcm[late:], self._heard_until
            if not len(pcm):
                return
        self._marks.append((position, at))
        if position != self._pending_at + len(self._pending):
            self._close_gap()
            self._pending_at = position
        self._heard_until = position + len(pcm)
        self._pending = pcm if not len(self._pending) else np.concatenate([self._pending, pcm])
        count = len(self._pending) // self._window
        levels = window_levels(self._pending, self._window)
        for index in np.flatnonzero(levels > self._threshold):
            start = int(index) * self._window
            self._voiced(self._pending[start : start + self._window], self._pending_at + start)
        self._pending = self._pending[count * self._window :]
        self._pending_at += count * self._window

    def _close_gap(self) -> None:
        """The stream jumped: what waits for a full window is judged with silence after it."""
        if len(self._pending):
            padded = np.concatenate([self._pending, np.zeros(self._window - len(self._pending), np.int16)])
            if window_levels(padded, self._window)[0] > self._threshold:
                self._voiced(padded, self._pending_at)
        self._pending = np.zeros(0, np.int16)

    def _voiced(self, window: Pcm16, position: int) -> None:
        first, last = _loud_edges(window, self._limit)
        start, end = position + first, position + last
        if self._open is not None and start - self._open.end < self._merge:
            self._open = replace(self._open, end=end + 1, end_at=self._time_of(end))
            self._open_windows += 1
            return
        if self._open is not None and self._open_windows >= MIN_STRETCH_WINDOWS:
            self._done.append(self._open)
        self._open = Stretch(start, end + 1, self._time_of(start), self._time_of(end))
        self._open_windows = 1

    def _time_of(self, position: int) -> float:
        found = self._marks[0]
        for mark in self._marks:
            if mark[0] > position:
                break
            found = mark
        return found[1] + (position - found[0]) / self._rate


def _loud_edges(window: Pcm16, limit: float) -> tuple[int, int]:
    """(first, last) sample that reaches the threshold's amplitude; there is one, because the RMS is above it."""
    loud = np.flatnonzero(np.abs(window.astype(np.int32)) >= limit)
    return int(loud[0]), int(loud[-1])
