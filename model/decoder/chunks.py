"""How a reply is cut into pieces to decode. Plain numbers only: no torch.

Two ways: the reference's (34 frames kept back, Hamming window), for parity; and ours, which takes a small first piece
and then as much as the listener's buffer leaves time to wait for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .config import DecoderConfig

_REFERENCE_OVERLAP_TOKENS = 5


@dataclass(frozen=True, slots=True)
class ReferenceOverlap:
    """What the reference keeps back at the end of a piece and blends with the start of the next."""

    frames: int
    """34 mel frames, 395 ms."""
    window: NDArray[np.float64]
    """Hamming window of twice that length. Its halves add up to about 1.07, not 1: a quirk that parity needs."""

    @classmethod
    def of(cls, config: DecoderConfig) -> ReferenceOverlap:
        frames = config.frames(_REFERENCE_OVERLAP_TOKENS)
        return cls(frames, np.hamming(2 * frames))

    def new_frames(self, frames: int, is_final: bool) -> int:
        """How many of a piece's `frames` are voiced now. Raises ValueError for none, where the reference fails."""
        left = frames if is_final else frames - self.frames
        if left <= 0:
            raise ValueError(
                f"a piece of {frames} mel frames leaves nothing beside the {self.frames} that are kept back; "
                "give more speech tokens at once"
            )
        return left


HEARD_SHARE = 0.5
"""How much of what was made a listener is taken to have heard already, where nobody asks him. A reply is made faster
than it is heard; and equal replies are then cut equally, however the listener's credit came."""


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """When to decode, and how many speech tokens (units). The first sound comes after one block; later pieces grow."""

    block_units: int = 10
    """Units of one encoder block. Pieces end where a block ends, so that no unit is encoded twice."""
    max_units: int = 30
    """Largest piece before the end: 2.4 s. With 50 a busy engine, tested on virtual time, could not collect a piece
    before its listener ran dry; and longer ones cost a barge-in more thrown-away work."""
    arrival_ms: float = 80.0
    """Time between two new units at worst. 80 ms is their playing time; a slower generator stutters anyway."""
    margin_ms: float = 200.0
    """Sound that must still be buffered when decoding starts: covers decoding and the way to the listener."""

    def __post_init__(self) -> None:
        if self.block_units < 1 or self.max_units < self.block_units or self.arrival_ms <= 0 or self.margin_ms < 0:
            raise ValueError(
                f"{self} cannot be followed: block_units must be at least 1, max_units at least block_units, "
                "arrival_ms positive and margin_ms not negative"
            )

    def next_units(self, num_decoded: int, num_waiting: int, buffered_ms: float, is_final: bool) -> int:
        """Units to decode now; 0 means wait for more, and ask again when some have come or the buffer has drained.

        num_decoded: units decoded so far; num_waiting: units that are there and not decoded; buffered_ms: sound that
        the listener can still play without new samples; is_final: no more units will come.
        """
        if is_final:
            return num_waiting
        if num_decoded == 0:
            return self.block_units if num_waiting >= self.block_units else 0
        # A piece that ended inside a block (only a caller who did not follow the plan makes one) is completed first.
        to_block = -num_decoded % self.block_units
        ready = self._whole(num_waiting, to_block)
        if ready >= self.max_units:
            return self._whole(self.max_units, to_block)
        larger = ready + self.block_units if ready else to_block or self.block_units
        wait_ms = (larger - num_waiting) * self.arrival_ms
        if buffered_ms - wait_ms >= self.margin_ms:
            return 0
        return ready

    def _whole(self, units: int, to_block: int) -> int:
        """The largest piece of at most `units` that ends where a block ends."""
        if units < to_block:
            return 0
        return to_block + (units - to_block) // self.block_units * self.block_units
