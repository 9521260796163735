"""A bad network, decided in advance: when each packet leaves, whether at all, and whether twice. Pure and seeded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FRAME_MS = 20.0


@dataclass(frozen=True, slots=True)
class Impairment:
    """What happens to packets on their way to the server. All zero = a clean link."""

    loss: float = 0.0
    """Share of packets that never arrive."""
    burst: float = 1.0
    """Mean number of packets lost in a row (Gilbert model); 1 = independent losses."""
    jitter_ms: float = 0.0
    """Each packet is late by up to this, uniformly: beyond 20 ms packets overtake each other."""
    reorder: float = 0.0
    """Share of packets that arrive after the next one."""
    duplicate: float = 0.0
    """Share of packets that arrive twice."""
    until_seconds: float | None = None
    """The link is clean from then on."""

    def __post_init__(self) -> None:
        if not (0 <= self.loss < 1 and 0 <= self.reorder <= 1 and 0 <= self.duplicate <= 1):
            raise ValueError("loss, reorder and duplicate are shares from 0 to 1")
        if self.burst < 1 or self.jitter_ms < 0:
            raise ValueError("burst is at least 1 packet, and jitter at least 0 ms")

    @property
    def is_clean(self) -> bool:
        return not (self.loss or self.jitter_ms or self.reorder or self.duplicate)


def plan(num_packets: int, impairment: Impairment, seed: int) -> NDArray[np.float32]:
    """float32 [num_packets, 2]: delay in ms of each packet and of its copy; NaN = not sent."""
    rng = np.random.default_rng(seed)
    delays = np.zeros(num_packets)
    if impairment.jitter_ms:
        delays = rng.uniform(0.0, impairment.jitter_ms, num_packets)
    delays[rng.random(num_packets) < impairment.reorder] += 1.25 * FRAME_MS
    copies = np.where(rng.random(num_packets) < impairment.duplicate, delays + rng.uniform(0, 10, num_packets), np.nan)
    lost = _losses(num_packets, impairment, rng)
    delays[lost] = np.nan
    copies[lost] = np.nan
    if impairment.until_seconds is not None:
        end = int(impairment.until_seconds * 1_000 / FRAME_MS)
        delays[end:], copies[end:] = 0.0, np.nan
    return np.stack([delays, copies], axis=1).astype(np.float32)


def _losses(num_packets: int, impairment: Impairment, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Two states, good and bad, every packet in the bad one lost; the share and the mean run are as asked for."""
    lost = np.zeros(num_packets, bool)
    if not impairment.loss:
        return lost
    leave = 1.0 / impairment.burst
    enter = impairment.loss * leave / (1.0 - impairment.loss)
    draws = rng.random(num_packets)
    is_bad = False
    for index in range(num_packets):
        is_bad = draws[index] >= leave if is_bad else draws[index] < enter
        lost[index] = is_bad
    return lost
