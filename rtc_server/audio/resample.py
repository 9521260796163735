"""Sample-rate conversion of a stream, over FFmpeg's resampler (through PyAV, which WebRTC needs anyway)."""

from __future__ import annotations

import numpy as np
from av import AudioFrame, AudioResampler

from model.interface import Pcm16

EMPTY = np.zeros(0, np.int16)


class StreamResampler:
    """Converts one stream of int16 mono PCM from `in_rate` to `out_rate` Hz, in pieces of any length.

    The pieces joined are what the whole stream would have given. At equal rates it hands its input through."""

    def __init__(self, in_rate: int, out_rate: int) -> None:
        self.in_rate = in_rate
        self.out_rate = out_rate
        self._resampler = None
        if in_rate != out_rate:
            self._resampler = AudioResampler(format="s16", layout="mono", rate=out_rate)

    def resample(self, pcm: Pcm16) -> Pcm16:
        """The next piece, int16 mono [samples]; what comes back may lag by about a millisecond."""
        if self._resampler is None or not len(pcm):
            return pcm
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(pcm).reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = self.in_rate
        return _joined(self._resampler.resample(frame))

    def flush(self) -> Pcm16:
        """What is still inside. The stream is over; later pieces start a new one."""
        if self._resampler is None:
            return EMPTY
        rest = _joined(self._resampler.resample(None))
        self._resampler = AudioResampler(format="s16", layout="mono", rate=self.out_rate)
        return rest


def _joined(frames: list[AudioFrame]) -> Pcm16:
    if not frames:
        return EMPTY
    pieces = [np.asarray(frame.to_ndarray(), np.int16).reshape(-1) for frame in frames]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
