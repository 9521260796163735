"""The spans of an engine: one per traced response, from the host's socket to the last event, with what came between."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from model.interface import (
    AudioDelta,
    EngineEvent,
    GenerateRequest,
    ResponseDone,
    ResponseStarted,
    TextDelta,
    Transcript,
)
from rtc_server import tracing
from rtc_server.tracing import Span, TraceContext, parse_traceparent

_MOMENTS: dict[type, str] = {
    ResponseStarted: "started",
    Transcript: "transcript",
    TextDelta: "first_text",
    AudioDelta: "first_audio",
}


@dataclass(slots=True)
class _Work:
    request: GenerateRequest
    parent: TraceContext
    begun_at: float
    moments: dict[str, float] = field(default_factory=dict)


class EngineSpans:
    """Belongs to one engine host. Times are monotonic seconds, as events have them. Costs a dictionary look-up for
    responses that are not traced."""

    def __init__(self) -> None:
        self._traced: dict[str, _Work] = {}

    def submitted(self, request: GenerateRequest, now: float) -> None:
        """A request arrived."""
        parent = parse_traceparent(request.traceparent) if request.traceparent and tracing.is_on() else None
        if parent is not None and parent.is_sampled:
            self._traced[request.response_id] = _Work(request, parent, now)

    def seen(self, events: Iterable[EngineEvent]) -> None:
        """Events of any responses, in order."""
        if not self._traced:
            return
        for event in events:
            work = self._traced.get(event.response_id)
            if work is None:
                continue
            if isinstance(event, ResponseDone):
                self._end(work, event.status, event.at)
            elif (name := _MOMENTS.get(type(event))) is not None:
                work.moments.setdefault(name, event.at)

    def cancelled(self, response_id: str, now: float) -> None:
        """Nobody waits for it any more."""
        work = self._traced.get(response_id)
        if work is not None:
            self._end(work, "cancelled", now)

    def _end(self, work: _Work, status: str, at: float) -> None:
        del self._traced[work.request.response_id]
        offset = time.time() - time.monotonic()
        attributes = {
            "rtc_server.call_id": work.request.call_id,
            "rtc_server.response_id": work.request.response_id,
            "rtc_server.output": work.request.output,
            "rtc_server.status": status,
        }
        moments = tuple((name, moment + offset) for name, moment in work.moments.items())
        times = work.begun_at + offset, at + offset
        is_failed = status == "failed"
        tracing.add(Span("engine", work.parent.child(), work.parent, *times, attributes, moments, is_failed))
