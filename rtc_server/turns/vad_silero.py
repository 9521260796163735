"""Silero VAD v6 as ONNX: no false alarms down to 3 dB SNR on our recordings. Frames of many calls in one run.

The model takes exactly 512 samples (32 ms) with the 64 samples before them, and carries a recurrent state. One frame
alone costs 70 us, one of ten 33 us: most of a run is the runtime's own. Few calls are judged at once; when there are
many, frames wait for `flush` (the next media tick) and go through the model together.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from model.interface import INPUT_SAMPLE_RATE, Pcm16

from .onnx_session import load_session
from .vad import check_length

FRAME_SAMPLES = 512
CONTEXT_SAMPLES = 64
STATE_SIZE = 128
FIRST_ROWS = 8  # streams that there is room for at first; doubled when they are not enough
MAX_INLINE_STREAMS = 12  # as many are judged at once: together they cost 1-2 % of a core, and nobody waits


class SileroBatch:
    """The streams of one process. `on_waiting(flush)` is called when the first of several frames begins to wait; call
    `flush` soon."""

    def __init__(
        self,
        model_path: Path,
        on_waiting: Callable[[Callable[[], None]], None] | None = None,
        max_inline_streams: int = MAX_INLINE_STREAMS,
    ) -> None:
        """Without `on_waiting` every frame is judged at once."""
        self._session = load_session(model_path)
        self._on_waiting = on_waiting
        self._max_inline = max_inline_streams
        self._rate = np.array(INPUT_SAMPLE_RATE, np.int64)
        # One row per stream: context and frame, and the model's recurrent state. Reused for the process's life.
        self._inputs = np.zeros((FIRST_ROWS, CONTEXT_SAMPLES + FRAME_SAMPLES), np.float32)
        self._states = np.zeros((2, FIRST_ROWS, STATE_SIZE), np.float32)
        self._free = list(range(FIRST_ROWS))
        self._waiting: dict[SileroVoiceDetector, None] = {}

    @property
    def num_streams(self) -> int:
        """Streams that are open."""
        return len(self._inputs) - len(self._free)

    def stream(self, on_answer: Callable[[], None] | None = None) -> SileroVoiceDetector:
        """A new stream; see `vad.VadFactory` for `on_answer`."""
        return SileroVoiceDetector(self, on_answer)

    def flush(self) -> None:
        """Judge every frame that waits, and those that their owners ask for on being told."""
        while self._waiting:
            streams, self._waiting = list(self._waiting), {}
            try:
                answers = self._run([stream.row for stream in streams])
            except Exception as error:  # what the runtime raises; each call must end by it, none may go deaf
                for stream in streams:
                    stream.answer_with(error)
            else:
                for stream, answer in zip(streams, answers, strict=True):
                    stream.answer_with(answer)

    # --- for the streams

    def take_row(self) -> int:
        if not self._free:
            rows = len(self._inputs)
            self._inputs = np.concatenate([self._inputs, np.zeros_like(self._inputs)])
            self._states = np.concatenate([self._states, np.zeros_like(self._states)], axis=1)
            self._free = list(range(rows, 2 * rows))
        return self._free.pop()

    def give_row_back(self, row: int) -> None:
        self._free.append(row)

    def clear(self, row: int) -> None:
        self._inputs[row] = 0
        self._states[:, row] = 0

    def judge(self, stream: SileroVoiceDetector, frame: Pcm16) -> float | None:
        """The answer, or None: `stream` will be told."""
        np.multiply(frame, 1 / 32_768, out=self._inputs[stream.row, CONTEXT_SAMPLES:], casting="unsafe")
        if self._on_waiting is None or self.num_streams <= self._max_inline:
            return self._run([stream.row])[0]
        self._waiting[stream] = None
        if len(self._waiting) == 1:
            self._on_waiting(self.flush)
        return None

    def forget(self, stream: SileroVoiceDetector) -> None:
        self._waiting.pop(stream, None)

    def _run(self, rows: list[int]) -> list[float]:
        inputs, states = self._inputs[rows], self._states[:, rows]  # float32 [B, 576], [2, B, 128]
        output, states = self._session.run(None, {"input": inputs, "state": states, "sr": self._rate})
        self._states[:, rows] = states
        self._inputs[rows, :CONTEXT_SAMPLES] = inputs[:, -CONTEXT_SAMPLES:]
        found: list[float] = output[:, 0].tolist()
        return found


class SileroVoiceDetector:
    """One stream of a `SileroBatch`. A `VoiceDetector`."""

    frame_samples = FRAME_SAMPLES

    def __init__(self, batch: SileroBatch, on_answer: Callable[[], None] | None = None) -> None:
        self._batch = batch
        self._on_answer = on_answer
        self.row = batch.take_row()
        """Where its state lies in the batch; -1 once it is closed."""
        batch.clear(self.row)
        self._is_waiting = False
        self._answer: float | Exception | None = None

    def probability(self, frame: Pcm16) -> float | None:
        """See `VoiceDetector`. Raises what the model's runtime raised."""
        check_length(frame, FRAME_SAMPLES)
        if self.row < 0:
            return 0.0  # the last packets of a call that is being closed
        answer, self._answer = self._answer, None
        if isinstance(answer, Exception):
            raise answer
        if answer is None and not self._is_waiting:
            answer = self._batch.judge(self, frame)
            self._is_waiting = answer is None
        return answer

    def answer_with(self, answer: float | Exception) -> None:
        """The batch has run; tells the stream's owner."""
        if self._is_waiting:
            self._is_waiting = False
            self._answer = answer
            if self._on_answer is not None:
                self._on_answer()

    def reset(self) -> None:
        """See `VoiceDetector`."""
        if self.row >= 0:
            self._batch.forget(self)
            self._is_waiting, self._answer = False, None
            self._batch.clear(self.row)

    def close(self) -> None:
        """See `VoiceDetector`."""
        if self.row >= 0:
            self._batch.forget(self)
            self._is_waiting, self._answer = False, None
            self._batch.give_row_back(self.row)
            self.row = -1
