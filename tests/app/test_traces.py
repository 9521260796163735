"""However a call is made, it becomes a span of the trace that its caller names. Spans are caught on their way out."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from rtc_server import tracing
from rtc_server.tracing import Span, parse_traceparent
from tests.support.running_server import running_server
from tests.support.sdp_peer import sdp_peer

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("path", ["/v1/realtime/calls", "/v1/echo", "/whip", "/api/offer"])
async def test_every_kind_of_offer_may_come_with_a_trace(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spans: asyncio.Queue[Span] = asyncio.Queue()
    monkeypatch.setattr(tracing, "add", spans.put_nowait)
    enabled = {"tracing.enabled": True, "tracing.sample_ratio": 0.0, "server.echo_test": True}
    async with (
        running_server(**enabled) as url,
        aiohttp.ClientSession(headers={"traceparent": CALLER}) as http,
        sdp_peer("sendrecv") as peer,
    ):
        offer = await peer.offer()
        if path == "/api/offer":
            posted = http.post(f"{url}{path}", json={"sdp": offer, "type": "offer"})
        else:
            posted = http.post(f"{url}{path}", data=offer, headers={"Content-Type": "application/sdp"})
        async with posted as reply:
            assert reply.status in (200, 201), await reply.text()
            is_json = reply.content_type == "application/json"
            call_id = (await reply.json())["pc_id"] if is_json else reply.headers["Location"].rsplit("/", 1)[1]
        async with http.delete(f"{url}/v1/realtime/calls/{call_id}") as reply:
            assert reply.status == 200
        async with asyncio.timeout(10):
            root = await spans.get()
    assert root.name == "call"
    assert root.parent == parse_traceparent(CALLER)
    assert root.attributes == {"rtc_server.call_id": call_id, "rtc_server.reason": "hangup"}
    assert 0 < root.end - root.start < 10


async def test_two_headers_are_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    spans: asyncio.Queue[Span] = asyncio.Queue()
    monkeypatch.setattr(tracing, "add", spans.put_nowait)
    headers = [("traceparent", CALLER), ("traceparent", CALLER.replace("4bf9", "4bfa"))]
    async with running_server(**{"tracing.enabled": True}) as url, aiohttp.ClientSession() as http:
        async with http.ws_connect(f"{url}/v1/realtime", headers=headers) as socket:
            await socket.receive_json()
        async with asyncio.timeout(10):
            root = await spans.get()
    assert root.parent is None
    assert root.context.trace_id != int(CALLER[3:35], 16)


async def test_a_session_that_goes_on_in_a_new_call_is_traced_with_whoever_resumes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spans: asyncio.Queue[Span] = asyncio.Queue()
    monkeypatch.setattr(tracing, "add", spans.put_nowait)
    async with (
        running_server(**{"tracing.enabled": True, "tracing.sample_ratio": 0.0}) as url,
        aiohttp.ClientSession() as http,
    ):
        socket = await http.ws_connect(f"{url}/v1/realtime")
        kind, token = "", ""
        while kind != "rtc_server.session.resumable":
            event = await socket.receive_json()
            kind, token = event["type"], event.get("resume_token", "")
        assert socket._response.connection is not None
        assert socket._response.connection.transport is not None
        socket._response.connection.transport.abort()  # the connection is lost, nobody said goodbye
        await socket.close()
        headers = {"traceparent": CALLER}
        async with http.ws_connect(f"{url}/v1/realtime?resume={token}", headers=headers) as again:
            assert (await again.receive_json())["type"] == "session.created"
        async with asyncio.timeout(10):
            root = await spans.get()
    assert root.parent == parse_traceparent(CALLER)
    assert spans.empty(), "the call before was not traced"
