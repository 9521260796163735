"""What a traced call tells its trace of each response, heard or not. No collector: spans are caught on their way."""

from __future__ import annotations

import pytest

from model.interface import AudioDelta, GenerateRequest, ResponseDone, ResponseStarted
from rtc_server import tracing
from rtc_server.calls.call_spans import CallSpans, call_over
from rtc_server.inference.engine_spans import EngineSpans
from rtc_server.tracing import CallTrace, Span, TraceContext, parse_traceparent
from tests.support.virtual_call import WALL_OFFSET, VirtualCall, tone

TRACE = CallTrace(TraceContext(7 << 64, 1), TraceContext(7 << 64, 99), WALL_OFFSET)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> list[Span]:
    caught: list[Span] = []
    monkeypatch.setattr(tracing, "add", caught.append)
    monkeypatch.setattr(tracing, "is_on", lambda: True)
    return caught


def of_call() -> CallSpans:
    return CallSpans(TRACE, "rtc_test", WALL_OFFSET)


def request(output: str = "audio") -> GenerateRequest:
    return GenerateRequest("rtc_test", "resp_1", "turn_1", (), tone(100), output=output)


def test_an_answered_turn_is_a_span_of_its_latency_with_its_stages_in_it(spans: list[Span]) -> None:
    call, traced = VirtualCall(silence_ms=400), of_call()
    call.say(800)
    call.be_quiet(120)
    sent = traced.submit(call.requests[-1], call.now)
    call.be_quiet(380)
    call.answer()
    call.be_quiet(1_200)
    (record,) = call.turns
    traced.answered(record)
    (over,) = [over for over in call.over if over.response_id == record.response_id]
    traced.over(over.response_id, over.status, call.now)

    response, turn = spans[-1], spans[0]
    assert parse_traceparent(sent.traceparent) == response.context, "the engine's span is below the response's"
    assert (turn.name, turn.parent, response.name, response.parent) == (
        *("turn", response.context),
        *("response", TRACE.context),
    )
    assert record.latency_ms is not None
    assert (turn.end - turn.start) * 1e3 == pytest.approx(record.latency_ms, abs=0.2)
    stages = {span.name: span for span in spans[1:-1]}
    assert {name: pytest.approx((s.end - s.start) * 1e3, abs=0.2) for name, s in stages.items()} == record.stages
    assert {span.parent for span in stages.values()} == {turn.context}
    assert response.attributes["rtc_server.status"] == "completed"
    assert not response.is_failed
    assert len({span.context.span_id for span in spans}) == len(spans)


def test_a_guess_that_nobody_heard_is_told_as_dropped(spans: list[Span]) -> None:
    call, traced = VirtualCall(silence_ms=400), of_call()
    call.say(800)
    call.be_quiet(200)
    traced.submit(call.requests[-1], call.now)
    call.say(400)
    (over,) = call.over
    traced.over(over.response_id, over.status, call.now)
    traced.close(call.now)
    (span,) = spans
    assert (span.name, span.attributes["rtc_server.status"]) == ("response", "dropped")
    assert span.end - span.start == pytest.approx(0.4, abs=0.05)


def test_work_that_is_no_response_belongs_to_the_call(spans: list[Span]) -> None:
    traced = of_call()
    for output in ("listen", "transcript"):
        assert parse_traceparent(traced.submit(request(output), 1.0).traceparent) == TRACE.context
    traced.close(2.0)
    assert spans == []


def test_what_is_alive_when_the_call_ends_ends_with_it(spans: list[Span]) -> None:
    traced = of_call()
    traced.submit(request(), 1.0)
    traced.close(2.0)
    call_over(TRACE, "rtc_test", "connection_failed", WALL_OFFSET + 3.0)
    response, root = spans
    assert response.attributes["rtc_server.status"] == "call_ended"
    assert (root.name, root.context, root.parent, root.end - root.start) == ("call", TRACE.context, TRACE.parent, 3.0)
    assert root.is_failed


def test_the_engine_tells_its_moments_below_the_response(spans: list[Span]) -> None:
    asked = of_call().submit(request(), 1.0)
    engine = EngineSpans()
    engine.submitted(asked, 10.0)
    sound = tone(20)
    engine.seen([ResponseStarted("resp_1", 10.1), AudioDelta("resp_1", sound, None, 10.3)])
    engine.seen([AudioDelta("resp_1", sound, None, 10.4), ResponseDone("resp_1", "completed", 10.5)])
    engine.cancelled("resp_1", 11.0)  # over already
    (span,) = spans
    assert span.parent == parse_traceparent(asked.traceparent)
    assert span.end - span.start == pytest.approx(0.5)
    assert {name: at - span.start for name, at in span.events} == pytest.approx({"started": 0.1, "first_audio": 0.3})


def test_an_engine_that_is_interrupted_says_so(spans: list[Span]) -> None:
    engine = EngineSpans()
    engine.submitted(of_call().submit(request(), 1.0), 10.0)
    engine.cancelled("resp_1", 10.2)
    engine.submitted(request(), 20.0)  # nobody traces this one
    engine.seen([ResponseDone("resp_1", "completed", 20.5)])
    (span,) = spans
    assert span.attributes["rtc_server.status"] == "cancelled"
    assert span.end - span.start == pytest.approx(0.2)
