"""Traces of calls for OpenTelemetry: W3C contexts, which calls are traced, and the way out of a process.

A span is made here when it is over, from the record of what happened; its id was drawn earlier, because its children
in other processes name it. So there is no tracer that is running, and nothing to pay for calls that are not traced;
OpenTelemetry's own processor and exporter are loaded only where `configure` is called. One per process, like the log.
"""

from __future__ import annotations

import importlib
import os
import random
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from rtc_server.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import SpanContext

EXPORT_TIMEOUT_SECONDS = 2.0  # a collector that is down must not keep a process from ending
MAX_WAITING_SPANS = 4_096  # beyond it they are dropped; a turn makes about ten
INSTALL = "pip install 'rtc-server[tracing]'"

Attribute: TypeAlias = str | int | float | bool

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_random = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One span, as others name it (W3C Trace Context)."""

    trace_id: int
    span_id: int
    is_sampled: bool = True

    @property
    def trace_name(self) -> str:
        """The trace's id as everybody writes it."""
        return f"{self.trace_id:032x}"

    def to_header(self) -> str:
        """The value of `traceparent`."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.is_sampled:02x}"

    def child(self) -> TraceContext:
        """A new span of the same trace."""
        return TraceContext(self.trace_id, _draw(64), self.is_sampled)


@dataclass(frozen=True, slots=True)
class CallTrace:
    """A call that is traced."""

    context: TraceContext
    """Of the span "call"."""
    parent: TraceContext | None
    """What the caller belongs to."""
    admitted_at: float
    """Wall clock, seconds."""


@dataclass(frozen=True, slots=True)
class Span:
    """Something that is over. Times are wall-clock seconds."""

    name: str
    context: TraceContext
    parent: TraceContext | None
    start: float
    end: float
    attributes: Mapping[str, Attribute]
    """Ids, names and numbers; never anything that was said."""
    events: tuple[tuple[str, float], ...] = ()
    """(name, time) of moments in it."""
    is_failed: bool = False


class TracingSettings(Protocol):
    """What the section `tracing` has, and `TraceStyle`."""

    @property
    def enabled(self) -> bool: ...

    @property
    def otlp_endpoint(self) -> str: ...

    @property
    def sample_ratio(self) -> float: ...

    @property
    def service_name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class TraceStyle:
    """The settings for a process that does not load them."""

    enabled: bool = False
    otlp_endpoint: str = ""
    sample_ratio: float = 1.0
    service_name: str = "rtc-server"


def parse_traceparent(value: str) -> TraceContext | None:
    """The context in a header of anybody's; None for one that is not valid (W3C Trace Context, section 3.2)."""
    found = _HEADER.fullmatch(value.strip()) if len(value) <= 256 else None
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    context = TraceContext(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & 1))
    return context if context.trace_id and context.span_id else None


def begin_call(settings: TracingSettings, parent: TraceContext | None, now: float) -> CallTrace | None:
    """The trace of a call that is admitted at wall-clock second `now`; None when it is not traced.

    A caller that is traced, or says that it is not, has decided; else chance does."""
    if not settings.enabled or (parent is not None and not parent.is_sampled):
        return None
    if parent is not None:
        return CallTrace(parent.child(), parent, now)
    trace_id = _draw(128)
    # As OpenTelemetry's TraceIdRatioBased: whoever sees the id decides alike.
    if (trace_id & ((1 << 64) - 1)) >= round(settings.sample_ratio * (1 << 64)):
        return None
    return CallTrace(TraceContext(trace_id, _draw(64)), None, now)


def _draw(bits: int) -> int:
    return _random.getrandbits(bits) or 1


# --- the way out


class _Outlet:
    """Hands spans to OpenTelemetry's batch processor, whose thread sends them."""

    def __init__(self, settings: TracingSettings, process: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint or None, timeout=EXPORT_TIMEOUT_SECONDS)
        self._processor: BatchSpanProcessor = BatchSpanProcessor(exporter, max_queue_size=MAX_WAITING_SPANS)
        self._resource: Resource = Resource.create(
            {"service.name": settings.service_name, "rtc_server.process": process, "process.pid": os.getpid()}
        )

    def add(self, span: Span) -> None:
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.trace import SpanKind, Status, StatusCode

        self._processor.on_end(
            ReadableSpan(
                span.name,
                _span_context(span.context, is_remote=False),
                None if span.parent is None else _span_context(span.parent, is_remote=True),
                self._resource,
                dict(span.attributes),
                [Event(name, timestamp=_nanoseconds(at)) for name, at in span.events],
                kind=SpanKind.SERVER if span.name == "call" else SpanKind.INTERNAL,
                status=Status(StatusCode.ERROR if span.is_failed else StatusCode.UNSET),
                start_time=_nanoseconds(span.start),
                end_time=_nanoseconds(max(span.start, span.end)),
            )
        )

    def close(self) -> None:
        """Send what waits, within `EXPORT_TIMEOUT_SECONDS`."""
        thread = threading.Thread(target=self._processor.shutdown, name="tracing-shutdown", daemon=True)
        thread.start()
        thread.join(EXPORT_TIMEOUT_SECONDS)


_outlet: _Outlet | None = None


def check(settings: TracingSettings) -> None:
    """Raises ConfigError when tracing is asked for and OpenTelemetry is not installed."""
    if not settings.enabled:
        return
    try:
        importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        importlib.import_module("opentelemetry.sdk.trace.export")
    except ImportError as error:
        raise ConfigError(f"tracing.enabled needs OpenTelemetry, which is not installed: {INSTALL}") from error


def configure(settings: TracingSettings, process: str) -> None:
    """Spans of this process go to the collector from now on, as those of `process`. Raises like `check`."""
    global _outlet
    check(settings)
    shutdown()
    if settings.enabled:
        _outlet = _Outlet(settings, process)


def shutdown() -> None:
    """Send what waits. Takes up to two seconds: not for an event loop with calls. Idempotent."""
    global _outlet
    outlet, _outlet = _outlet, None
    if outlet is not None:
        outlet.close()


def is_on() -> bool:
    """Spans of this process go somewhere."""
    return _outlet is not None


def add(span: Span) -> None:
    """Send a span with the next batch; without `configure` it is forgotten. Never waits."""
    if _outlet is not None and span.context.is_sampled:
        _outlet.add(span)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _span_context(context: TraceContext, *, is_remote: bool) -> SpanContext:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(context.trace_id, context.span_id, is_remote, TraceFlags(context.is_sampled))
