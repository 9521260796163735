"""W3C contexts from strangers, which calls are traced, and spans on their way out."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from rtc_server import tracing
from rtc_server.errors import ConfigError
from rtc_server.tracing import CallTrace, Span, TraceContext, TraceStyle, begin_call, parse_traceparent
from tests.support.otlp_collector import collecting

VALID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ON = TraceStyle(enabled=True)


def test_a_valid_header_is_read_and_written_back() -> None:
    context = parse_traceparent(VALID)
    assert context == TraceContext(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, True)
    assert context.to_header() == VALID
    assert context.trace_name == "4bf92f3577b34da6a3ce929d0e0e4736"


def test_a_later_version_may_say_more() -> None:
    assert parse_traceparent("cc" + VALID[2:] + "-what-the-future-will-be-like") == parse_traceparent(VALID)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        VALID + "-01",  # version 00 has four fields
        "ff" + VALID[2:],
        VALID.upper(),
        VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        VALID.replace("00f067aa0ba902b7", "0" * 16),
        VALID.replace("-01", "-0x"),
        VALID.replace("4", "٤", 1),  # a digit, but not one of these
        "00-" + "a" * 100_000,
        VALID + "\r\nX-Injected: 1",
        VALID.replace("-", "_"),
    ],
)
def test_a_header_that_is_not_valid_is_ignored(header: str) -> None:
    assert parse_traceparent(header) is None


def test_a_caller_that_is_traced_gets_a_span_of_its_trace() -> None:
    parent = parse_traceparent(VALID)
    trace = begin_call(replace(ON, sample_ratio=0.0), parent, 5.0)
    assert trace is not None
    assert parent is not None
    assert (trace.context.trace_id, trace.parent, trace.admitted_at) == (parent.trace_id, parent, 5.0)
    assert trace.context.span_id != parent.span_id


def test_a_caller_that_is_not_traced_stays_so() -> None:
    parent = parse_traceparent(VALID[:-1] + "0")
    assert parent is not None
    assert begin_call(ON, parent, 5.0) is None


def test_no_call_is_traced_unless_the_operator_wants_it() -> None:
    assert begin_call(TraceStyle(), parse_traceparent(VALID), 5.0) is None


def test_the_ratio_is_kept() -> None:
    settings = replace(ON, sample_ratio=0.25)
    traced = sum(begin_call(settings, None, 0.0) is not None for _ in range(4_000))
    assert 850 < traced < 1_150  # five standard deviations
    assert begin_call(replace(ON, sample_ratio=0.0), None, 0.0) is None
    assert isinstance(begin_call(ON, None, 0.0), CallTrace)


def test_a_missing_library_is_a_sentence_for_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    with pytest.raises(ConfigError, match=r"pip install 'rtc-server\[tracing\]'"):
        tracing.configure(ON, "test")
    tracing.configure(TraceStyle(), "test")  # off: nothing is needed
    assert not tracing.is_on()


async def test_a_span_arrives_as_it_was_made() -> None:
    async with collecting() as collector:
        tracing.configure(TraceStyle(True, collector.url, 1.0, "my-voice"), "media-7")
        try:
            parent, context = TraceContext(1 << 100, 77), TraceContext(1 << 100, 78)
            tracing.add(Span("turn", context, parent, 100.25, 100.75, {"n": 3}, (("first", 100.5),), is_failed=True))
            tracing.add(Span("turn", replace(context, is_sampled=False), parent, 0.0, 1.0, {}))
            await collector.until(lambda: bool(collector.spans))
        finally:
            tracing.shutdown()
        (span,) = collector.spans
        assert (span.trace_id, span.parent_id) == (context.trace_name, f"{77:016x}")
        assert (span.start, span.end, span.events) == (100.25, 100.75, {"first": 100.5})
        assert span.attributes == {"n": 3}
        assert span.resource["service.name"] == "my-voice"
        assert span.resource["rtc_server.process"] == "media-7"
    assert not tracing.is_on()
    tracing.add(span=Span("late", context, None, 0.0, 1.0, {}))  # forgotten
