"""Short tones in silence, and where they begin in what came back: how a round trip is measured. Pure.

One byte of G.711 is one sample at 8 kHz, so an onset is known to an eighth of a millisecond on both sides. Each tone
begins elsewhere within its frame of 20 ms, so that no path is measured at its lucky moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.interface import Pcm16
from rtc_server.codecs import g711

RATE = 8_000
FRAME = RATE // 50
FRAME_SECONDS = 0.02
TONE_HZ = 1_000.0
TONE_SECONDS = 0.06
EVERY_SECONDS = 0.5
LEVEL = 12_000
LOUD = 2_500
QUIET_SECONDS = 0.1  # before an onset
LONGEST_SECONDS = 0.45  # a later match would be the next tone
FIRST_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Heard:
    """One RTP packet of 20 ms of G.711."""

    at: float
    """Monotonic seconds when it came."""
    sequence: int
    payload: bytes


def bursts(count: int) -> tuple[list[bytes], list[int]]:
    """`count` tones as payloads of 20 ms PCMU, and the sample at which each begins."""
    step, tone_samples = round(EVERY_SECONDS * RATE), round(TONE_SECONDS * RATE)
    samples = np.zeros(-(-(round(FIRST_SECONDS * RATE) + count * step) // FRAME) * FRAME, np.int16)
    tone = (LEVEL * np.sin(2 * np.pi * TONE_HZ * np.arange(1, tone_samples + 1) / RATE)).astype(np.int16)
    # 37 samples are prime to the 160 of a frame: onsets go through every place in it.
    onsets = [round(FIRST_SECONDS * RATE) + number * step + number * 37 % FRAME for number in range(count)]
    for onset in onsets:
        samples[onset : onset + tone_samples] = tone
    data = g711.encode("PCMU", samples)
    return [data[start : start + FRAME] for start in range(0, len(data), FRAME)], onsets


def onsets_in(samples: Pcm16) -> list[int]:
    """Samples at which loudness begins after at least `QUIET_SECONDS` of quiet."""
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > LOUD)
    if not len(loud):
        return []
    gaps = np.diff(loud, prepend=-round(QUIET_SECONDS * RATE) - 1)
    return [int(sample) for sample in loud[gaps > QUIET_SECONDS * RATE]]


def heard_onsets(heard: Sequence[Heard]) -> list[float]:
    """Moments at which tones began to arrive. A packet's samples count from its arrival, on both paths alike."""
    packets = sorted({packet.sequence: packet for packet in heard}.values(), key=lambda packet: packet.at)
    packets = [packet for packet in packets if len(packet.payload) == FRAME]
    if not packets:
        return []
    samples = g711.decode("PCMU", b"".join(packet.payload for packet in packets))
    return [packets[onset // FRAME].at + onset % FRAME / RATE for onset in onsets_in(samples)]


def round_trips_ms(sent_at: Sequence[float], onsets: Sequence[int], heard: Sequence[Heard]) -> list[float]:
    """One value per tone that came back. `sent_at`: when each packet left, in monotonic seconds."""
    returned = heard_onsets(heard)
    found = []
    for onset in onsets:
        if onset // FRAME >= len(sent_at):
            break
        left = sent_at[onset // FRAME] + onset % FRAME / RATE
        later = [moment - left for moment in returned if 0.0 < moment - left < LONGEST_SECONDS]
        if later:
            found.append(1e3 * min(later))
    return found


def share_returned(sent: Sequence[bytes], heard: Sequence[Heard]) -> float:
    """Of the tones that were sent, how many came back as the same tones: 0 to 1."""
    said = len(onsets_in(g711.decode("PCMU", b"".join(sent))))
    return len(heard_onsets(heard)) / said if said else 0.0
