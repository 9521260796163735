"""What a traced call tells its trace: one span per response, in it the turn that it answered, with its stages."""

from __future__ import annotations

from dataclasses import replace

from model.interface import GenerateRequest
from rtc_server import tracing
from rtc_server.tracing import CallTrace, Span, TraceContext

from .turn_records import TurnRecord


class CallSpans:
    """Belongs to one call. `now` is monotonic, in seconds; `wall_offset` makes it the wall clock's."""

    def __init__(self, trace: CallTrace, call_id: str, wall_offset: float) -> None:
        self._trace = trace
        self._call_id = call_id
        self._wall_offset = wall_offset
        self._responses: dict[str, tuple[TraceContext, float]] = {}  # that are alive: their span, when it began

    def submit(self, request: GenerateRequest, now: float) -> GenerateRequest:
        """The request as it goes to the engine, which makes a span of its own below the one it names."""
        if request.output in ("listen", "transcript"):  # no response: its work belongs to the call
            return replace(request, traceparent=self._trace.context.to_header())
        context = self._trace.context.child()
        self._responses[request.response_id] = context, now + self._wall_offset
        return replace(request, traceparent=context.to_header())

    def answered(self, record: TurnRecord) -> None:
        """A reply began to be heard."""
        if record.response_id not in self._responses:
            return
        parent, _ = self._responses[record.response_id]
        turn = parent.child()
        attributes = {
            **self._about(record.response_id),
            "rtc_server.turn_id": record.turn_id,
            "rtc_server.speculated": record.speculated,
        }
        first = min((start for start, _ in record.spans.values()), default=record.heard_ms)
        if record.latency_ms is not None:
            attributes["rtc_server.latency_ms"] = record.latency_ms
            first = record.heard_ms - record.latency_ms
        tracing.add(Span("turn", turn, parent, record.wall_time(first), record.ended_at, attributes))
        for name, (start, end) in record.spans.items():
            times = record.wall_time(start), record.wall_time(end)
            tracing.add(Span(name, turn.child(), turn, *times, {"rtc_server.response_id": record.response_id}))

    def over(self, response_id: str, status: str, now: float) -> None:
        """Nothing of the response is to come. `status`: "dropped" for a guess that nobody heard of."""
        found = self._responses.pop(response_id, None)
        if found is not None:
            context, start = found
            attributes = {**self._about(response_id), "rtc_server.status": status}
            end = now + self._wall_offset
            parent = self._trace.context
            tracing.add(Span("response", context, parent, start, end, attributes, is_failed=status == "failed"))

    def close(self, now: float) -> None:
        """The call is over, and with it what was alive of it."""
        for response_id in list(self._responses):
            self.over(response_id, "call_ended", now)

    def _about(self, response_id: str) -> dict[str, tracing.Attribute]:
        return {"rtc_server.call_id": self._call_id, "rtc_server.response_id": response_id}


def call_over(trace: CallTrace, call_id: str, reason: str, now: float) -> None:
    """The root span of a call that ended for `reason` at wall-clock second `now`."""
    attributes = {"rtc_server.call_id": call_id, "rtc_server.reason": reason}
    is_failed = reason in ("internal_error", "connection_failed", "setup_timeout")
    tracing.add(Span("call", trace.context, trace.parent, trace.admitted_at, now, attributes, is_failed=is_failed))
