"""From the client's log to figures. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .speech import FRAME, decode, tone_onsets

FRAME_MS = 20.0
LONG_GAP_MS = 40.0
MAX_ECHO_MS = 900.0  # tones come once a second: a later match is the next one
TICKS_PER_MS = 48.0  # the RTP clock of Opus (RFC 7587)
CLOCK_PACKETS = 50  # the median of as many at each end of a run: one late packet is no drift
ARRIVAL = np.dtype([("call", "<u2"), ("sequence", "<u2"), ("timestamp", "<u4"), ("at", "<f8")])
SENT = np.dtype([("call", "<u2"), ("index", "<u4"), ("at", "<f8")])


@dataclass(frozen=True, slots=True)
class Payload:
    """One packet that a probe call received."""

    call: int
    sequence: int
    timestamp: int
    at: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class Audio:
    """What came back, over all calls, inside the window."""

    delivered: float
    """Packets received, as a share of 50 per second."""
    gap_ms: Mapping[str, float]
    """p50, p95, p99, max of the time between two packets of a call; the p99 of the worst call."""
    long_gaps: float
    """Share of gaps above 40 ms."""
    lost: float
    """Share of sequence numbers that never came."""


@dataclass(frozen=True, slots=True)
class Echo:
    """One tone that came back."""

    call: int
    sent_at: float
    """ms since the start."""
    delay_ms: float


def audio(arrivals: NDArray[np.void], calls: Sequence[int], begin_ms: float, end_ms: float) -> Audio:
    """`arrivals`: `ARRIVAL` records. Calls that sent nothing count as not delivered."""
    expected = received = lost = sequences = 0.0
    gaps: list[NDArray[np.float64]] = []
    worst = 0.0
    inside = arrivals[(arrivals["at"] >= begin_ms) & (arrivals["at"] < end_ms)]
    for call in calls:
        own = inside[inside["call"] == call]
        expected += (end_ms - begin_ms) / FRAME_MS
        received += len(own)
        if len(own) < 2:
            continue
        between = np.diff(np.sort(own["at"]))
        gaps.append(between)
        worst = max(worst, float(np.percentile(between, 99)))
        numbers = np.unwrap(own["sequence"].astype(np.float64), period=65_536)
        span = numbers.max() - numbers.min() + 1
        sequences += span
        lost += span - len(np.unique(numbers))
    joined = np.concatenate(gaps) if gaps else np.array([np.inf])
    p50, p95, p99 = (float(value) for value in np.percentile(joined, (50, 95, 99)))
    return Audio(
        delivered=received / expected if expected else 0.0,
        gap_ms={"p50": p50, "p95": p95, "p99": p99, "max": float(joined.max()), "worst_call_p99": worst},
        long_gaps=float(np.mean(joined > LONG_GAP_MS)),
        lost=lost / sequences if sequences else 0.0,
    )


def clock_error_ms(arrivals: NDArray[np.void], calls: Sequence[int], begin_ms: float, end_ms: float) -> float | None:
    """The audio that was sent against the time that passed, by the RTP timestamps of each call's first and last packets
    inside the window: what the worst call is off by. None where no call has enough packets."""
    inside = arrivals[(arrivals["at"] >= begin_ms) & (arrivals["at"] < end_ms)]
    worst: float | None = None
    for call in calls:
        own = inside[inside["call"] == call]
        if len(own) < 2 * CLOCK_PACKETS:
            continue
        own = own[np.argsort(own["at"], kind="stable")]
        ahead = np.unwrap(own["timestamp"].astype(np.float64), period=2**32) / TICKS_PER_MS - own["at"]
        error = abs(float(np.median(ahead[-CLOCK_PACKETS:]) - np.median(ahead[:CLOCK_PACKETS])))
        worst = error if worst is None else max(worst, error)
    return worst


def growth_per_hour(samples: Sequence[tuple[float, float]]) -> float | None:
    """Slope of the straight line through (seconds, value), per hour; None for fewer than two moments."""
    if len({seconds for seconds, _ in samples}) < 2:
        return None
    seconds, values = np.array(samples, np.float64).T
    away = seconds - seconds.mean()
    return float(away @ values / (away @ away)) * 3_600


def read_payloads(data: bytes) -> list[Payload]:
    """The client's payload log. A record that was cut off at the end is left out."""
    found, position = [], 0
    while position + 18 <= len(data):
        call, sequence = np.frombuffer(data, "<u2", 2, position)
        timestamp = np.frombuffer(data, "<u4", 1, position + 4)[0]
        at = np.frombuffer(data, "<f8", 1, position + 8)[0]
        length = int(np.frombuffer(data, "<u2", 1, position + 16)[0])
        if position + 18 + length > len(data):
            break
        body = data[position + 18 : position + 18 + length]
        found.append(Payload(int(call), int(sequence), int(timestamp), float(at), body))
        position += 18 + length
    return found


def echoes(sent: NDArray[np.void], probe: Sequence[bytes], received: Sequence[Payload]) -> list[Echo]:
    """Match the tones of each probe call with their return. `sent`: `SENT` records; `probe`: the packets said in a
    loop.

    The same detector reads both sides, so what remains is the way there and back: buffers, codecs and pacing of the
    server, and the two codecs' own delay."""
    said = decode([*probe, *probe])[len(probe) * FRAME :]  # the second round: the decoder has settled
    tones = tone_onsets(said)
    found: list[Echo] = []
    for call in sorted({payload.call for payload in received}):
        own = sorted((p for p in received if p.call == call), key=lambda p: p.at)
        heard = decode([p.payload for p in own])
        returned = [own[onset // FRAME].at + onset % FRAME / 16.0 for onset in tone_onsets(heard)]
        due = {int(r["index"]): float(r["at"]) for r in sent[sent["call"] == call]}
        for first in range(0, max(due, default=-1) + 1, len(probe)):
            for onset in tones:
                at = due.get(first + onset // FRAME)
                if at is None:
                    continue
                at += onset % FRAME / 16.0
                later = [when - at for when in returned if 0.0 <= when - at <= MAX_ECHO_MS]
                if later:
                    found.append(Echo(call, at, min(later)))
    return found


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and max; empty without values."""
    if not len(values):
        return {}
    p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
    return {"p50": p50, "p95": p95, "p99": p99, "max": float(np.max(values))}
