"""The record of one answered turn: where its milliseconds went. Pure.

Made once, in the tick in which the reply is first heard. What clients are told (`rtc_server.turn.metrics`), the
histograms, the trace and the status page are all made from it, so that they agree by construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .responses import Response

STAGES = ("jitter_buffer", "endpoint", "queue", "recognition", "first_text", "first_audio", "playout")
"""In order of time. They overlap where the response was speculated; those that did not happen are left out."""
INFERENCE = ("queue", "recognition", "first_text")
"""From the request to the first words of the reply, one after the other."""


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One reply that began to be heard."""

    call_id: str
    response_id: str
    turn_id: str
    ended_at: float
    """Wall clock, seconds: when its first voiced sample left the server."""
    latency_ms: float | None
    """Last voiced input sample at the server's socket -> first voiced output sample; None for a reply that no speech
    was waiting for (text, a function's result, an empty line)."""
    spans: Mapping[str, tuple[float, float]]
    """Stage -> (start, end) in ms after the last voiced input sample, or after the request where there was none."""
    heard_ms: float
    """When its first voiced sample left, on the same scale."""
    speculated: bool
    """Its request was made before the endpoint."""

    @property
    def stages(self) -> dict[str, float]:
        """Stage -> how many ms it took."""
        return {name: round(end - start, 1) for name, (start, end) in self.spans.items()}

    @property
    def inference_ms(self) -> float | None:
        """From the request to the first words of the reply; None where there were none."""
        stages = self.stages
        return round(sum(stages.get(name, 0.0) for name in INFERENCE), 1) if "first_text" in stages else None

    def wall_time(self, ms: float) -> float:
        """Wall-clock seconds of a moment of `spans`."""
        return self.ended_at + (ms - self.heard_ms) / 1e3

    def to_event(self) -> dict[str, Any]:
        """The fields of the event `rtc_server.turn.metrics`."""
        return {
            "response_id": self.response_id,
            "response_latency_ms": self.latency_ms,
            "speculated": self.speculated,
            "stages": {name: {"start_ms": start, "end_ms": end} for name, (start, end) in self.spans.items()},
        }


def record_turn(call_id: str, response: Response, heard_at: float, wall_offset: float) -> TurnRecord:
    """The first voiced sample of `response` leaves at `heard_at`, monotonic seconds; `wall_offset` is what makes them
    wall-clock seconds."""
    timing, times = response.timing, response.stages
    zero = timing.last_voice_at if timing is not None else times.submitted
    assert zero is not None, "a response is recorded after it was submitted"
    spans: dict[str, tuple[float, float]] = {}

    def add(name: str, start: float | None, end: float | None) -> None:
        if start is not None and end is not None:
            spans[name] = (round((start - zero) * 1e3, 1), round((max(start, end) - zero) * 1e3, 1))

    if timing is not None:
        add("jitter_buffer", zero - timing.jitter_buffer_ms / 1e3, zero)
        add("endpoint", zero, timing.endpoint_at)
    add("queue", times.submitted, times.started)
    add("recognition", times.started, times.transcript)
    understood = times.transcript if times.transcript is not None else times.started
    add("first_text", understood, times.first_text)
    generated = times.first_text if times.first_text is not None else understood
    add("first_audio", generated, times.first_audio)
    ready = times.first_audio
    if ready is not None and timing is not None:
        ready = max(ready, timing.endpoint_at)
    add("playout", ready, heard_at)
    heard_ms = (heard_at - zero) * 1e3
    return TurnRecord(
        call_id=call_id,
        response_id=response.response_id,
        turn_id=response.turn_id,
        ended_at=heard_at + wall_offset,
        latency_ms=None if timing is None else round(heard_ms + timing.jitter_buffer_ms, 1),
        spans=spans,
        heard_ms=round(heard_ms, 1),
        speculated=response.speculated,
    )
