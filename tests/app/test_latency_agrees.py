"""One turn, told four ways: to the client, in `/metrics`, in the trace, and on the status page. They agree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from rtc_server.calls.turn_records import STAGES
from rtc_server.client.recording import load_recording
from rtc_server.client.session import CallPlan, hold_call
from tests.support.live_call import SPEECH, LiveCall, live_call
from tests.support.otlp_collector import Collector, Received, collecting
from tests.support.running_server import free_port
from tests.support.server_process import ServerProcess, server_process

TOLERANCE_MS = 5.0
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@asynccontextmanager
async def traced_server() -> AsyncIterator[tuple[ServerProcess, Collector]]:
    """A server with a media worker and an engine process, whose spans come here."""
    async with collecting() as collector:
        settings: dict[str, Any] = {
            "server.media_workers": 1,
            "turns.vad": "webrtcvad",
            "tracing.enabled": True,
            "tracing.otlp_endpoint": collector.url,
        }
        context = server_process("echo", settings)
        server = await asyncio.to_thread(context.__enter__)
        try:
            yield server, collector
        finally:
            await asyncio.to_thread(context.__exit__, None, None, None)


async def metrics_of(server: ServerProcess) -> dict[str, float]:
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/metrics") as reply:
        lines = (await reply.text()).splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


async def talk(call: LiveCall, turns: int) -> list[dict[str, Any]]:
    """Say something `turns` times, each after the reply to the one before. Returns what the client was told of each."""
    for number in range(1, turns + 1):
        call.say("f0_rms.wav")
        await call.event("output_audio_buffer.stopped", number)
    return [event for event in call.events if event["type"] == "rtc_server.turn.metrics"]


async def test_the_client_the_metrics_and_the_trace_tell_the_same_latency() -> None:
    async with traced_server() as (server, collector):
        async with live_call(server.url) as call:
            call_id = call.peer.call_id
            told = await talk(call, 2)
            report = await hold_call(CallPlan(server.url, [load_recording(SPEECH / "f0_rms.wav")]))
            values = await metrics_of(server)
            # The status page's figures (`GET /v1/status`) belong here: compare them with `told` as the others are.
        await collector.until(lambda: len(collector.named("call")) == 2 and len(collector.named("engine")) >= 3)

    # What `rtc-server call` and `benchmarks/turn_latency.py` report comes from the same event.
    (measured,) = report.turns
    assert measured.server_latency_ms is not None
    latencies = [*(event["response_latency_ms"] for event in told), measured.server_latency_ms]
    stages = [*(event["stages"] for event in told), measured.stages]
    assert len(latencies) == 3
    assert all(latency > 100 for latency in latencies), "there is an endpoint wait in each"

    assert values["rtc_server_response_latency_seconds_count"] == len(latencies)
    assert values["rtc_server_response_latency_seconds_sum"] * 1e3 == pytest.approx(sum(latencies), abs=TOLERANCE_MS)
    for stage in STAGES:
        spans = [turn[stage] for turn in stages if stage in turn]
        if spans:
            total = sum(span["end_ms"] - span["start_ms"] for span in spans)
            key = f'rtc_server_turn_stage_seconds_sum{{stage="{stage}"}}'
            assert values[key] * 1e3 == pytest.approx(total, abs=TOLERANCE_MS), stage

    (turn,) = [span for span in collector.named("turn") if span.attributes["rtc_server.call_id"] != call_id]
    assert turn.ms == pytest.approx(measured.server_latency_ms, abs=TOLERANCE_MS)
    (root,) = [span for span in collector.named("call") if span.attributes["rtc_server.call_id"] == call_id]
    assert root.attributes == {"rtc_server.call_id": call_id, "rtc_server.reason": "hangup"}
    assert len({span.trace_id for span in collector.spans}) == 2, "one trace per call"
    by_id = {span.span_id: span for span in collector.spans}
    assert len(by_id) == len(collector.spans)
    for event in told:
        check_turn(event, collector, by_id, root)
    assert {span.resource["rtc_server.process"] for span in collector.named("engine")} == {"engine"}
    assert {span.resource["rtc_server.process"] for span in collector.named("turn")} == {"media-0"}


def check_turn(event: dict[str, Any], collector: Collector, by_id: dict[str, Received], root: Received) -> None:
    """The spans of one answered turn against what the client was told."""
    about = event["response_id"]

    def of(name: str) -> Received:
        (span,) = [s for s in collector.named(name) if s.attributes["rtc_server.response_id"] == about]
        return span

    turn, response, engine = of("turn"), of("response"), of("engine")
    assert (turn.parent_id, engine.parent_id, response.parent_id) == (response.span_id, response.span_id, root.span_id)
    assert turn.ms == pytest.approx(event["response_latency_ms"], abs=TOLERANCE_MS)
    assert turn.attributes["rtc_server.latency_ms"] == event["response_latency_ms"]
    assert response.attributes["rtc_server.status"] == "completed"
    for name, stage in event["stages"].items():
        span = of(name)
        assert span.parent_id == turn.span_id
        assert span.ms == pytest.approx(stage["end_ms"] - stage["start_ms"], abs=TOLERANCE_MS), name
    # The engine's own clock tells the same as the record that the call made of its events.
    queue = event["stages"]["queue"]
    waited_ms = (engine.events["started"] - engine.start) * 1e3
    assert waited_ms <= queue["end_ms"] - queue["start_ms"] + TOLERANCE_MS
    sound_ms = (engine.events["first_audio"] - engine.events["started"]) * 1e3
    audio = event["stages"]["first_audio"]
    assert sound_ms == pytest.approx(audio["end_ms"] - audio["start_ms"], abs=TOLERANCE_MS)
    for span in (turn, response, engine):
        assert span.start >= root.start - 0.2, "the endpoint wait began in the call"
        assert root.end >= turn.end
        assert span.trace_id == root.trace_id


async def test_a_caller_of_a_trace_gets_its_calls_into_it() -> None:
    async with traced_server() as (server, collector):
        for headers, traced in ((CALLER, True), (CALLER[:-1] + "0", False), ("nonsense\\x00", True)):
            async with aiohttp.ClientSession() as http:
                url = f"{server.url}/v1/realtime?model=echo"
                async with http.ws_connect(url, headers={"traceparent": headers}) as socket:
                    assert (await socket.receive_json())["type"] == "session.created"
            count = len(collector.named("call")) + traced
            await collector.until(lambda count=count: len(collector.named("call")) >= count)
    first, second = collector.named("call")
    assert (first.trace_id, first.parent_id) == (CALLER[3:35], CALLER[36:52])
    assert second.trace_id != CALLER[3:35], "what is not valid is ignored"
    assert second.parent_id == ""


async def test_a_collector_that_is_down_costs_spans_and_nothing_else() -> None:
    settings: dict[str, Any] = {
        "server.media_workers": 1,
        "turns.vad": "webrtcvad",
        "tracing.enabled": True,
        "tracing.otlp_endpoint": f"http://127.0.0.1:{free_port()}/v1/traces",
    }
    context = server_process("echo", settings)
    server = await asyncio.to_thread(context.__enter__)
    try:
        async with live_call(server.url) as call:
            assert len(await talk(call, 1)) == 1
        begun = asyncio.get_running_loop().time()
        await asyncio.to_thread(server.stop)  # raises when it does not end with 0
        assert asyncio.get_running_loop().time() - begun < 15
        assert "Traceback" not in server.log
        assert "lost" not in server.log
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)
