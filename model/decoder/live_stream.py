"""Decodes live replies piece by piece, so that the pieces of each join into one sound.

What is exact: every unit's encoding once its block is complete; the length; the noise of a frame and of a sample; the
phase of the harmonics. What is not: the flow sees a window and not the whole reply, so the frames at the end of a piece
are held back, computed again with what follows, and blended, in the mel and for one frame in the samples. How well that
works is measured by benchmarks/decoder_holdback.py.

Here is what a caller sees and how far each reply is; live_batch.py computes, on the state of live_state.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .decoder import Decoder
from .live_batch import LiveJob, compute
from .live_state import LiveState
from .live_window import LiveOptions, LiveWindow, kept_frames


class LiveStream:
    """One reply. Not for several threads at once.

    Pieces of any size work; those that `ChunkPlan` gives end with an encoder block, which is best.
    """

    def __init__(
        self, decoder: Decoder, options: LiveOptions | None = None, on_mel: Callable[[Tensor], None] | None = None
    ) -> None:
        """`on_mel` is called with the mel frames [1, mel bins, n] of each piece that is given out; for measurements.

        Allocates nothing: the first piece does, on the CUDA stream that decodes it."""
        self._decoder = decoder
        self._on_mel = on_mel
        self._options = options or LiveOptions()
        self._kept_frames = kept_frames(decoder.config, self._options)
        self._state: LiveState | None = None
        self._num_units = 0
        self._num_computed = 0  # units that the held-back frames were computed from
        self._border = 0
        self._is_final = False
        self._is_closed = False

    @property
    def num_units(self) -> int:
        """Units received."""
        return self._num_units

    @property
    def num_heard_units(self) -> int:
        """Units whose sound has been given out completely; all of them after the final piece."""
        return self._num_units if self._is_final else self._decoder.config.token_of_frame(self._border)

    @property
    def num_samples(self) -> int:
        """Samples given out."""
        return self._border * self._decoder.config.vocoder.frame_samples

    def close(self) -> None:
        """Free all tensors. May be called again; everything else raises afterwards."""
        self._is_closed = True
        self._state = None

    def decode(self, codes: Sequence[int], is_final: bool) -> NDArray[np.float32]:
        """The reply's next units → the samples that are new: float32 in -1..1 at `decoder.sample_rate`, maybe none.

        `is_final` says that no more will come and gives out what was held back; `codes` may then be empty.
        Raises ValueError for a code that is no speech token (the stream stays as it was) and RuntimeError after the
        final piece or after `close`.
        """
        return decode_together([Piece(self, codes, is_final)])[0].cpu().numpy()

    def _check(self, codes: Sequence[int]) -> None:
        """Raises as `decode` does."""
        if self._is_closed:
            raise RuntimeError("this LiveStream is closed; use a new one for the next reply")
        if self._is_final:
            raise RuntimeError(
                "the final piece of this reply has been decoded; use a new LiveStream for the next reply"
            )
        self._decoder.check(codes)

    def _take(self, codes: Sequence[int], is_final: bool) -> LiveJob | None:
        """Count in the next units, which have been checked; None where nothing is heard of them yet."""
        if self._state is None:
            self._state = LiveState.begin(self._decoder)
        self._state.open_block += codes
        self._num_units += len(codes)
        self._is_final = is_final
        window = LiveWindow.plan(self._decoder.config, self._options, self._border, self._num_units, is_final)
        if window is None:
            return None
        is_computed = self._num_computed == self._num_units
        self._num_computed = self._num_units
        self._border = window.next_border
        return LiveJob(self._state, window, self._options.ode_steps, self._kept_frames, is_computed)

    def _tell(self, mel: Tensor) -> None:
        if self._on_mel is not None:
            self._on_mel(mel)


@dataclass(frozen=True, slots=True)
class Piece:
    """What `LiveStream.decode` takes, with the stream that it is for."""

    stream: LiveStream
    codes: Sequence[int]
    is_final: bool


@torch.inference_mode()
def decode_together(pieces: Sequence[Piece]) -> list[Tensor]:
    """The next pieces of different replies → the new samples of each, as `LiveStream.decode` gives them, but [S]
    float32 on the device and perhaps not computed yet: nothing here waits for the device.

    Pieces with windows of equal length are computed as one batch; results do not depend, but for rounding, on what is
    decoded together. All work goes to the current CUDA stream, which must be the same in all calls for one decoder.
    Copy the samples out soon: each result keeps the memory of its whole batch.

    All pieces are checked before any stream changes: where one of them raises what `LiveStream.decode` raises, and for
    a stream that is given twice or streams of different decoders (ValueError), every stream stays as it was. After any
    other error (memory, say) the streams of this call are good for `close` only.
    """
    if not pieces:
        return []
    decoder = pieces[0].stream._decoder
    if len({id(piece.stream) for piece in pieces}) < len(pieces):
        raise ValueError("a stream was given twice; join its codes to one piece")
    for piece in pieces:
        if piece.stream._decoder is not decoder:
            raise ValueError("streams of different decoders cannot be decoded together; call once per decoder")
        piece.stream._check(piece.codes)
    taken = [(piece.stream, piece.stream._take(piece.codes, piece.is_final)) for piece in pieces]
    jobs = {stream: job for stream, job in taken if job is not None}
    mels, sounds = compute(decoder, list(jobs.values()))
    for stream, mel in zip(jobs, mels, strict=True):
        stream._tell(mel)
    new = dict(zip(jobs, sounds, strict=True))
    nothing = torch.zeros((1, 0), device=decoder.device)
    return [new.get(piece.stream, nothing)[0] for piece in pieces]
