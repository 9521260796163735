"""`/api/offer`, `/start` and RTVI over a real peer: what Pipecat's SmallWebRTC client does, step by step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from rtc_server.app.pipecat import MAX_STARTED, STARTED_SECONDS, StartedSessions
from rtc_server.errors import CallNotFoundError
from tests.support.running_server import running_server
from tests.support.sdp_peer import SdpPeer, sdp_peer
from tests.transports.test_sdp import offer


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with running_server() as address:
        yield address


async def post(http: aiohttp.ClientSession, url: str, body: object) -> tuple[int, dict[str, Any]]:
    async with http.post(url, json=body) as reply:
        return reply.status, await reply.json()


async def connect(
    http: aiohttp.ClientSession, url: str, peer: SdpPeer, path: str = "/api/offer", **more: object
) -> str:
    """As the client does; returns the id."""
    body = {"sdp": await peer.offer(), "type": "offer", "pc_id": None, "restart_pc": False, **more}
    status, answer = await post(http, url + path, body)
    assert status == 200, answer
    await peer.accept(answer["sdp"])
    peer.send({"type": "signalling", "message": {"type": "trackStatus", "receiver_index": 0, "enabled": True}})
    peer.send({"label": "rtvi-ai", "type": "client-ready", "id": "r1", "data": {"version": "2.1.0", "about": {}}})
    ready = await peer.message("bot-ready")
    assert ready["id"] == "r1"
    assert ready["data"]["version"].startswith("2.")
    return str(answer["pc_id"])


async def test_a_spoken_turn_in_the_words_of_rtvi(http: aiohttp.ClientSession, url: str) -> None:
    async with sdp_peer(label="chat", num_video=2) as peer:
        await connect(http, url, peer)
        peer.send("ping: 1700000000000")
        peer.say("f0_rms.wav")
        await peer.message("bot-stopped-speaking")
        kinds = [message["type"] for message in peer.messages]
        for kind in ("user-started-speaking", "user-stopped-speaking", "bot-llm-started", "bot-started-speaking"):
            assert kind in kinds, kinds
        assert "session.created" not in kinds
        assert all(message["label"] == "rtvi-ai" for message in peer.messages)


async def test_a_message_that_is_not_understood_is_answered_under_its_id(http: aiohttp.ClientSession, url: str) -> None:
    async with sdp_peer(label="anything") as peer:
        await connect(http, url, peer)
        peer.send({"label": "rtvi-ai", "type": "client-message", "id": "m1", "data": {"t": "custom"}})
        assert (await peer.message("error-response"))["id"] == "m1"
        peer.send({"label": "rtvi-ai", "type": "send-text", "id": "m2", "data": {"content": "Hello."}})
        await peer.message("bot-llm-started")


async def test_the_bot_can_be_sent_away(http: aiohttp.ClientSession, url: str) -> None:
    async with sdp_peer(label="chat") as peer:
        await connect(http, url, peer)
        peer.send({"label": "rtvi-ai", "type": "disconnect-bot", "id": "m1", "data": {}})
        assert (await peer.message("signalling"))["message"] == {"type": "peerLeft"}
        await peer.until(lambda: peer.pc.connectionState == "closed")


async def test_who_sends_just_an_offer_speaks_the_realtime_api(http: aiohttp.ClientSession, url: str) -> None:
    async with sdp_peer() as peer:
        status, answer = await post(http, f"{url}/api/offer", {"sdp": await peer.offer(), "type": "offer"})
        assert status == 200
        assert set(answer) == {"sdp", "type", "pc_id"}
        await peer.accept(answer["sdp"])
        await peer.message("session.created")


async def test_the_same_call_can_be_described_again(http: aiohttp.ClientSession, url: str) -> None:
    async with sdp_peer(label="chat") as peer:
        call_id = await connect(http, url, peer)
        again = {"sdp": peer.pc.localDescription.sdp, "type": "offer", "pc_id": call_id, "restart_pc": False}
        status, answer = await post(http, f"{url}/api/offer", again)
        assert (status, answer["pc_id"]) == (200, call_id)
        other = {**again, "sdp": offer().decode()}
        status, answer = await post(http, f"{url}/api/offer", other)
        assert status == 400, "another certificate"
        async with sdp_peer(label="chat") as anew:
            second = await connect(http, url, anew, pc_id=call_id, restart_pc=True)
            assert second != call_id
            await peer.until(lambda: peer.pc.connectionState == "closed")
            async with sdp_peer(label="chat") as third:
                assert await connect(http, url, third, pc_id=call_id) not in (call_id, second), "it is over"


async def test_candidates_may_follow(http: aiohttp.ClientSession, url: str) -> None:
    async with sdp_peer(label="chat") as peer:
        call_id = await connect(http, url, peer)
        candidate = "candidate:1 1 udp 2122260223 127.0.0.1 50000 typ host generation 0 ufrag abcd"
        entries = [
            {"candidate": candidate, "sdp_mid": "0", "sdp_mline_index": 0},
            {"candidate": candidate.replace("50000", "50001"), "sdp_mid": "1", "sdp_mline_index": 1},
            {"candidate": "", "sdp_mid": "0", "sdp_mline_index": 0},
        ]
        async with http.patch(f"{url}/api/offer", json={"pc_id": call_id, "candidates": entries}) as reply:
            assert (reply.status, await reply.json()) == (200, {"status": "success"})
        for body, status in [
            ({"pc_id": None, "candidates": []}, 400),
            ({"pc_id": "rtc_none", "candidates": []}, 404),
            ({"pc_id": call_id, "candidates": "x"}, 400),
            ({"pc_id": call_id, "candidates": [7]}, 400),
            ({"pc_id": call_id, "candidates": [{"candidate": "a\nb"}]}, 400),
            ({"pc_id": call_id, "candidates": [{"candidate": "x" * 1000}]}, 400),
            ({"pc_id": call_id, "candidates": [{}] * 100}, 400),
            ([], 400),
        ]:
            async with http.patch(f"{url}/api/offer", json=body) as reply:
                assert reply.status == status, body


async def test_a_started_session_has_the_servers_and_the_settings(http: aiohttp.ClientSession) -> None:
    async with running_server(**{"webrtc.ice_servers": ["stun:127.0.0.1:9"]}) as url:
        body = {"createDailyRoom": False, "body": {"session": {"type": "realtime", "instructions": "Be brief."}}}
        status, started = await post(http, f"{url}/start", body)
        assert status == 200
        assert started["iceConfig"] == {"iceServers": [{"urls": ["stun:127.0.0.1:9"]}]}
        assert (await post(http, f"{url}/start", {"body": {"session": {"type": "realtime", "colour": 1}}}))[0] == 400
        async with http.post(f"{url}/start") as reply:
            assert reply.status == 200
        async with sdp_peer(label="chat") as peer:
            await connect(http, url, peer, f"/sessions/{started['sessionId']}/api/offer")
        status, error = await post(http, f"{url}/sessions/none/api/offer", {"type": "offer", "sdp": offer().decode()})
        assert (status, error["error"]["code"]) == (404, "call_id_not_found")


def test_started_sessions_are_bounded_in_number_and_time() -> None:
    table = StartedSessions()
    first = table.add({"type": "realtime"}, 100.0)
    assert table.get(first, 100.0 + STARTED_SECONDS - 1).session == {"type": "realtime"}
    with pytest.raises(CallNotFoundError):
        table.get(first, 100.0 + STARTED_SECONDS)
    for _ in range(MAX_STARTED):
        table.add(None, 101.0)
    assert len(table) == MAX_STARTED
    with pytest.raises(CallNotFoundError):
        table.get(first, 101.0)
    table.add(None, 101.0 + STARTED_SECONDS)
    assert len(table) == 1
