"""`GET /v1/status`: what an operator sees is what happened in the calls, wherever they live."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import jsonschema_rs
import pytest

from rtc_server.app.operations import OPERATIONS
from rtc_server.app.status import MAX_TURNS, latency_by_stage, latest_turns, percentile
from rtc_server.calls.turn_records import TurnRecord
from rtc_server.media.node import NodeStatus
from tests.support.live_call import live_call
from tests.support.running_server import running_server
from tests.support.socket_call import socket_call

SCHEMA = OPERATIONS["GET", "/v1/status"].replies[200].content["application/json"]
KEY = "sk_0123456789abcdefghijklmnop"
ELSEWHERE = {"X-Forwarded-For": "203.0.113.9"}
Document = dict[str, Any]


async def status_of(url: str, query: str = "") -> Document:
    """The document, held against the schema that `/openapi.json` promises."""
    async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/status{query}") as reply:
        assert reply.status == 200, await reply.text()
        document: Document = await reply.json()
    jsonschema_rs.validate(SCHEMA, document)
    return document


async def when(url: str, holds: Callable[[Document], bool]) -> Document:
    """The first document of which it holds."""
    async with asyncio.timeout(20):
        while not holds(document := await status_of(url)):  # noqa: ASYNC110 - the server is asked
            await asyncio.sleep(0.02)
    return document


def turn(at: float, latency_ms: float | None, **spans: tuple[float, float]) -> TurnRecord:
    return TurnRecord("rtc_1", "resp_1", "turn_1", at, latency_ms, spans, heard_ms=0.0, speculated=False)


async def test_an_idle_server_says_what_it_is_and_that_it_has_room() -> None:
    async with running_server(**{"server.max_calls": 7}) as url:
        document = await status_of(url)
    assert document["ready"] is True
    assert document["reason"] is None
    assert (document["calls"], document["max_calls"]) == (0, 7)
    assert document["engine"] | {"load_seconds": 0} == {
        "backend": "echo",
        "model": "echo",
        "ready": True,
        "restarts": 0,
        "load_seconds": 0,
    }
    assert document["telephony"] is None
    assert document["live_calls"] == document["turns"] == []
    assert document["latency"] == {}
    node = {"index": 0, "kind": "in_process", "answers": True, "ready": True, "calls": 0, "restarts": 0}
    assert document["nodes"] == [node]


@pytest.mark.parametrize("workers", [0, 2])
async def test_a_call_and_its_turns_are_shown_as_its_caller_saw_them(workers: int) -> None:
    isolation = {"engine.isolation": "process"} if workers else {}
    async with running_server(**{"server.media_workers": workers, **isolation}) as url, live_call(url) as call:
        call.say("f0_rms.wav")
        await call.event("output_audio_buffer.started")
        document = await when(url, lambda d: [c["state"] for c in d["live_calls"]] == ["speaking"])
        (live,) = document["live_calls"]
        assert live["call_id"] == call.peer.call_id
        assert live["transport"] == "webrtc"
        assert live["loss"] == 0.0
        assert document["nodes"][live["node"]]["calls"] == document["calls"] == 1
        await call.event("output_audio_buffer.stopped")
        told = await call.event("rtc_server.turn.metrics")
        document = await when(url, lambda d: [c["state"] for c in d["live_calls"]] == ["listening"])
        (live,) = document["live_calls"]
        assert (live["turns"], live["latency_ms"]) == (1, told["response_latency_ms"])
        (shown,) = document["turns"]
        for name in ("response_id", "response_latency_ms", "speculated", "stages"):
            assert shown[name] == told[name]
        assert document["latency"]["response"] == {
            "count": 1,
            "p50_ms": told["response_latency_ms"],
            "p95_ms": told["response_latency_ms"],
            "target_ms": 500.0,
        }
        await call.close()
        document = await when(url, lambda d: d["calls"] == 0)
        assert document["live_calls"] == []
        assert [t["response_id"] for t in document["turns"]] == [told["response_id"]], "turns outlive their call"


async def test_a_call_over_a_websocket_has_no_line_to_measure() -> None:
    async with running_server() as url, socket_call(url) as call:
        (live,) = (await when(url, lambda d: bool(d["live_calls"])))["live_calls"]
        assert live["transport"] == "websocket"
        assert live["jitter_ms"] is live["loss"] is live["round_trip_ms"] is None
        assert call is not None


async def test_the_document_holds_ids_and_numbers_and_nothing_of_what_was_typed() -> None:
    async with running_server() as url, live_call(url) as call:
        content = [{"type": "input_text", "text": "my name is Bond"}]
        item = {"type": "message", "role": "user", "content": content}
        call.peer.send({"type": "conversation.item.create", "item": item})
        call.peer.send({"type": "response.create"})
        await call.event("response.done")
        text = json.dumps(await status_of(url))
    assert "Bond" not in text


async def test_as_many_turns_are_listed_as_asked_for() -> None:
    async with running_server() as url, live_call(url) as call:
        for count in (1, 2):
            call.say("f0_rms.wav")
            await call.event("output_audio_buffer.stopped", count)
        told = [e["response_id"] for e in call.events if e["type"] == "rtc_server.turn.metrics"]
        newest = await status_of(url, "?turns=1")
        assert [t["response_id"] for t in newest["turns"]] == [told[-1]]
        assert newest["latency"]["response"]["count"] == 2, "the percentiles are over all that are kept"
        assert (await status_of(url, "?turns=0"))["turns"] == []
        for wrong in ("-1", "201", "many", "", "1" * 5000):
            async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/status?turns={wrong[:1000]}") as reply:
                assert reply.status == 400
                assert (await reply.json())["error"]["param"] == "turns"


async def test_a_full_server_is_shown_as_not_ready() -> None:
    async with running_server(**{"server.max_calls": 1}) as url, live_call(url):
        document = await status_of(url)
    assert (document["ready"], document["reason"]) == (False, "server_full")


async def test_it_is_for_this_machine_and_for_keys_even_where_the_metrics_are_public() -> None:
    guarded = {"auth.api_keys": [KEY], "auth.public_metrics": True, "auth.trusted_proxies": ["127.0.0.1"]}
    async with running_server(**guarded) as url, aiohttp.ClientSession() as http:
        key = {"Authorization": f"Bearer {KEY}"}
        for headers, expected in (({}, 200), (ELSEWHERE, 401), (ELSEWHERE | key, 200)):
            async with http.get(f"{url}/v1/status", headers=headers) as reply:
                assert reply.status == expected
        async with http.get(f"{url}/status", headers=ELSEWHERE) as reply:
            assert reply.status == 200, "the page itself asks for the key"


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([5.0], 95) == 5.0
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 95), percentile(values, 100)) == (50.0, 95.0, 100.0)


def test_typed_turns_count_in_their_stages_and_not_in_the_whole() -> None:
    spoken = [turn(at, ms, endpoint=(0.0, ms / 2)) for at, ms in ((1.0, 400.0), (2.0, 600.0))]
    typed = turn(3.0, None, queue=(0.0, 3.0), recognition=(3.0, 3.0), first_text=(3.0, 50.0))
    latency = latency_by_stage([*spoken, typed])
    assert latency["response"] == {"count": 2, "p50_ms": 400.0, "p95_ms": 600.0, "target_ms": 500.0}
    assert latency["endpoint"] == {"count": 2, "p50_ms": 200.0, "p95_ms": 300.0, "target_ms": 500.0}
    assert latency["inference"] == {"count": 1, "p50_ms": 50.0, "p95_ms": 50.0, "target_ms": 200.0}


def test_turns_of_all_nodes_are_merged_newest_first_and_bounded() -> None:
    even = tuple(turn(float(n), 1.0) for n in range(0, MAX_TURNS * 2, 2))
    odd = tuple(turn(float(n), 1.0) for n in range(1, MAX_TURNS * 2, 2))
    merged = latest_turns([NodeStatus((), even), None, NodeStatus((), odd)])
    assert [t.ended_at for t in merged] == [float(n) for n in range(MAX_TURNS * 2 - 1, MAX_TURNS - 1, -1)]
