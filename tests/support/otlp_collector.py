"""An OTLP/HTTP collector of the test's own: it takes what an exporter sends, and keeps it."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class Received:
    """One span as it came over the wire. Times are wall-clock seconds."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """"" for a root."""
    start: float
    end: float
    attributes: dict[str, object]
    events: dict[str, float]
    resource: dict[str, object]

    @property
    def ms(self) -> float:
        return (self.end - self.start) * 1e3


class Collector:
    """See `collecting`."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.port = 0
        self._news = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/traces"

    def named(self, name: str) -> list[Received]:
        return [span for span in self.spans if span.name == name]

    async def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Wait for what the exporters send, in batches of their own choosing."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        message = ExportTraceServiceRequest.FromString(body)
        for group in message.resource_spans:
            resource = _attributes(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [
                    Received(
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.start_time_unix_nano / 1e9,
                        span.end_time_unix_nano / 1e9,
                        _attributes(span.attributes),
                        {event.name: event.time_unix_nano / 1e9 for event in span.events},
                        resource,
                    )
                    for span in scope.spans
                ]
        self._news.set()
        return web.Response(body=b"", content_type="application/x-protobuf")


def _attributes(values: object) -> dict[str, object]:
    return {value.key: getattr(value.value, value.value.WhichOneof("value")) for value in values}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector on a free port of loopback."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        collector.port = runner.addresses[0][1]
        yield collector
    finally:
        await runner.cleanup()
