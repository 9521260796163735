"""The points that a Realtime server is measured by, each a test against the whole server with the embedded models.

Point 14 (stock SDKs) is tests/clients; the browser's part of points 5 and 15 is tests/browser and tests/clients.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack

from rtc_server.network.addresses import host_addresses
from tests.support.live_call import live_call
from tests.support.recordings import recording
from tests.support.server_process import ServerProcess, server_process
from tests.support.socket_call import socket_call

KEY = "sk_" + "c" * 40
AUTH = {"Authorization": f"Bearer {KEY}"}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
REPLY = (
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "output_audio_buffer.started",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
    "output_audio_buffer.stopped",
)


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    settings = {
        "auth.api_keys": [KEY],
        "limits.calls_per_address": 50,
        "limits.requests_per_minute": 6_000,
        "limits.burst": 500,
    }
    with server_process("cascade", settings) as running:
        yield running
        assert "Traceback" not in running.log, running.log


@pytest.fixture(autouse=True)
def no_call_is_left(server: ServerProcess) -> Iterator[None]:
    yield
    server.wait_for_calls(0, 20.0)


def message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def question(number: int = 0) -> np.ndarray:
    return recording(f"f{number}_rms")


async def offer_of() -> tuple[RTCPeerConnection, str]:
    """A peer with an audio line and the event channel, and its offer."""
    peer = RTCPeerConnection()
    peer.createDataChannel("oai-events")
    peer.addTrack(AudioStreamTrack())
    with host_addresses(["127.0.0.1"]):
        await peer.setLocalDescription(await peer.createOffer())
    return peer, peer.localDescription.sdp


async def heard(peer: RTCPeerConnection, answer: str) -> None:
    """The answer leads to sound: a frame arrives."""
    arrived = asyncio.Event()

    async def pull(track: Any) -> None:
        await track.recv()
        arrived.set()

    pulls: list[asyncio.Task[None]] = []
    peer.on("track", lambda track: pulls.append(asyncio.create_task(pull(track))))
    await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    async with asyncio.timeout(15):
        await arrived.wait()
    await asyncio.gather(*pulls)


async def test_01_raw_and_multipart_offers_make_calls_with_sound(server: ServerProcess) -> None:
    async with aiohttp.ClientSession(headers=AUTH) as http:
        for form in (False, True):
            peer, sdp = await offer_of()
            body: Any = sdp
            headers = {"Content-Type": "application/sdp"}
            if form:
                headers = {}
                body = aiohttp.FormData()
                body.add_field("sdp", sdp, content_type="application/sdp")
                session = {"type": "realtime", "model": "gpt-realtime", "instructions": "Be brief."}
                body.add_field("session", json.dumps(session), content_type="application/json")
            async with http.post(f"{server.url}/v1/realtime/calls", data=body, headers=headers) as reply:
                assert reply.status == 201, await reply.text()
                location, answer = reply.headers["Location"], await reply.text()
            assert location.startswith("/v1/realtime/calls/rtc_")
            await heard(peer, answer)
            async with http.delete(server.url + location) as gone:
                assert gone.status == 200
            await peer.close()


async def test_02_client_secrets_are_minted_used_reused_and_expire(server: ServerProcess) -> None:
    request = {
        "expires_after": {"anchor": "created_at", "seconds": 10},
        "session": {"type": "realtime", "instructions": "You are a pirate."},
    }
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{server.url}/v1/realtime/client_secrets", json=request, headers=AUTH) as reply:
            assert reply.status == 200
            secret = await reply.json()
        assert secret["value"].startswith("ek_")
        minted = time.monotonic()
        bearer = {"Authorization": f"Bearer {secret['value']}"}
        for _ in range(2):
            async with socket_call(server.url, headers=bearer) as call:
                assert call.events[0]["session"]["instructions"] == "You are a pirate."
        async with http.post(f"{server.url}/v1/realtime/client_secrets", json={}, headers=bearer) as reply:
            assert reply.status == 403
        await asyncio.sleep(max(0.0, 11.0 - (time.monotonic() - minted)))
        async with http.get(f"{server.url}/v1/realtime", headers=bearer) as reply:
            assert reply.status == 401
            assert (await reply.json())["error"]["code"] == "invalid_api_key"


async def test_03_the_session_comes_first_and_bad_fields_are_named(server: ServerProcess) -> None:
    async with live_call(server.url, KEY) as call:
        assert call.events[0]["type"] == "session.created"
        call.peer.send({"type": "session.update", "session": {"type": "realtime", "instructions": "Be kind."}})
        updated = await call.event("session.updated")
        assert updated["session"]["instructions"] == "Be kind."
        assert updated["session"]["audio"]["input"]["turn_detection"]["type"] == "server_vad"
        bad = {"type": "realtime", "audio": {"output": {"speed": 99}}}
        call.peer.send({"type": "session.update", "event_id": "evt_bad", "session": bad})
        error = (await call.event("error"))["error"]
        assert error["param"] == "session.audio.output.speed"
        assert error["event_id"] == "evt_bad"


async def test_04_a_turn_has_every_event_in_order_with_consistent_ids(server: ServerProcess) -> None:
    async with live_call(server.url, KEY) as call:
        call.say("f0_rms.wav")
        await call.event("output_audio_buffer.stopped")
        events = [event for event in call.events if not event["type"].endswith(".delta")]
        kinds = [event["type"] for event in events]
        user = kinds[kinds.index("input_audio_buffer.speech_started") :][:5]
        assert user == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
        ]
        wanted = list(REPLY)
        for kind in kinds[kinds.index("response.created") :]:
            if wanted and kind == wanted[0]:
                wanted.pop(0)
        # Text and sound run ahead of the ear, so the buffer's events stand where the sound is; all others in a row.
        assert not [kind for kind in wanted if not kind.startswith("output_audio_buffer")], wanted
        spoken = {event["item_id"] for event in events if event["type"].startswith("input_audio_buffer")}
        assert len(spoken) == 1
        replies = {event["response_id"] for event in events if event["type"].startswith("response.output_item")}
        assert replies == {(await call.event("response.done"))["response"]["id"]}
        assert replies == {(await call.event("output_audio_buffer.stopped"))["response_id"]}


async def test_05_barge_in_stops_the_sound_and_truncates(server: ServerProcess) -> None:
    async with live_call(server.url, KEY) as call:
        call.say("f2_rms.wav")
        await call.event("output_audio_buffer.started")
        await asyncio.sleep(0.4)
        call.say("f1_rms.wav")
        cleared = await call.event("output_audio_buffer.cleared")
        truncated = await call.event("conversation.item.truncated")
        heard_ms = 20 * (call.num_frames + 5)  # all that has arrived since the call began, silence included
        assert 0 <= truncated["audio_end_ms"] <= heard_ms
        assert cleared["response_id"] == (await call.event("response.created"))["response"]["id"]
        await call.event("response.done", 2)


async def test_06_interrupting_nothing_is_a_harmless_error(server: ServerProcess) -> None:
    async with live_call(server.url, KEY) as call:
        call.peer.send({"type": "response.cancel", "event_id": "evt_1"})
        call.peer.send({"type": "output_audio_buffer.clear"})
        error = (await call.event("error"))["error"]
        assert (error["code"], error["event_id"]) == ("response_cancel_not_active", "evt_1")
        assert await call.is_alive()


async def test_07_push_to_talk(server: ServerProcess) -> None:
    async with live_call(server.url, KEY) as call:
        session = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
        call.peer.send({"type": "session.update", "session": session})
        await call.event("session.updated")
        call.peer.send({"type": "input_audio_buffer.clear"})
        call.say("f0_rms.wav")
        await asyncio.sleep(len(question()) / 16_000 + 0.5)
        assert not [event for event in call.events if event["type"].startswith("response")]
        call.peer.send({"type": "input_audio_buffer.commit"})
        call.peer.send({"type": "response.create"})
        await call.event("input_audio_buffer.committed")
        transcript = await call.event("conversation.item.input_audio_transcription.completed")
        assert "france" in transcript["transcript"].lower()
        assert (await call.event("response.done"))["response"]["status"] in ("completed", "incomplete")


async def test_08_a_tool_is_called_and_its_result_is_told(server: ServerProcess) -> None:
    async with live_call(server.url, KEY) as call:
        session = {"type": "realtime", "tools": [WEATHER], "tool_choice": "required"}
        call.peer.send({"type": "session.update", "session": session})
        call.peer.send({"type": "conversation.item.create", "item": message("What is the weather in Paris?")})
        call.peer.send({"type": "response.create"})
        arguments = await call.event("response.function_call_arguments.done", timeout_s=30)
        assert "paris" in json.loads(arguments["arguments"])["city"].lower()
        assert arguments["name"] == "get_weather"
        await call.event("response.done")
        output = {"type": "function_call_output", "call_id": arguments["call_id"], "output": '{"temperature_c": 18}'}
        call.peer.send({"type": "conversation.item.create", "item": output})
        call.peer.send({"type": "response.create", "response": {"tool_choice": "none"}})
        said = await call.event("response.output_audio_transcript.done", timeout_s=30)
        assert said["transcript"]


async def test_09_an_out_of_band_response_runs_in_parallel(server: ServerProcess) -> None:
    async with live_call(server.url, KEY) as call:
        call.peer.send({"type": "conversation.item.create", "item": message("Tell me something interesting.")})
        call.peer.send({"type": "response.create"})
        main = (await call.event("response.created"))["response"]["id"]
        beside = {"conversation": "none", "output_modalities": ["text"], "metadata": {"topic": "mood"}}
        call.peer.send({"type": "response.create", "response": {**beside, "input": [message("Say hello.")]}})
        created = (await call.event("response.created", 2))["response"]
        assert created["conversation_id"] is None
        assert created["metadata"] == {"topic": "mood"}
        assert (await call.event("response.output_text.done"))["response_id"] == created["id"]
        await call.event("response.done", 2)
        done = {e["response"]["id"]: e["response"] for e in call.events if e["type"] == "response.done"}
        assert set(done) == {main, created["id"]}
        added = [e["item"]["id"] for e in call.events if e["type"] == "conversation.item.added"]
        assert done[created["id"]]["output"][0]["id"] not in added


async def test_10_a_sideband_sees_the_same_and_may_steer(server: ServerProcess) -> None:
    async with live_call(server.url, KEY) as call:
        async with socket_call(server.url, f"call_id={call.peer.call_id}", headers=AUTH) as sideband:
            session = {"type": "realtime", "tools": [WEATHER], "tool_choice": "none"}
            await sideband.send("session.update", session=session)
            assert (await call.event("session.updated"))["session"]["tools"][0]["name"] == "get_weather"
            call.say("f0_rms.wav")
            done = await call.event("response.done")
            assert (await sideband.event("response.done"))["event_id"] == done["event_id"]
            assert not sideband.all("response.output_audio.delta")
        assert await call.is_alive()
    async with (
        aiohttp.ClientSession(headers=AUTH) as http,
        http.get(f"{server.url}/v1/realtime?call_id=rtc_nobody", headers=UPGRADE) as reply,
    ):
        assert reply.status == 404
        assert (await reply.json())["error"]["code"] == "call_id_not_found"


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode(),
}


async def test_11_hangup_ends_the_media_within_a_second(server: ServerProcess) -> None:
    async with live_call(server.url, KEY) as call:
        await call.event("session.created")
        async with (
            aiohttp.ClientSession(headers=AUTH) as http,
            http.post(f"{server.url}/v1/realtime/calls/{call.peer.call_id}/hangup") as reply,
        ):
            assert reply.status == 200
        server.wait_for_calls(0, 5.0)
        await asyncio.sleep(1.0)
        frames = call.num_frames
        await asyncio.sleep(0.3)
        assert call.num_frames == frames, "nothing arrives any more"


@pytest.mark.parametrize("wire_format", ["audio/pcm", "audio/pcmu", "audio/pcma"])
async def test_12_a_websocket_carries_every_format(server: ServerProcess, wire_format: str) -> None:
    async with socket_call(server.url, wire_format=wire_format, headers=AUTH) as call:
        await call.say(question())
        done = await call.event("response.done", timeout_s=30)
        assert done["response"]["status"] in ("completed", "incomplete")
        said = await call.event("conversation.item.input_audio_transcription.completed")
        assert "france" in said["transcript"].lower()
        level = np.sqrt(np.mean(call.heard.astype(np.float64) ** 2))
        assert len(call.heard) > 8_000
        assert level > 300


async def test_13_truncation_at_the_start_inside_at_the_end_and_beyond(server: ServerProcess) -> None:
    async with socket_call(server.url, headers=AUTH) as call:
        for _ in range(4):
            await call.send("conversation.item.create", item=message("What is the capital of Italy?"))
            await call.send("response.create")
            number = len(call.all("response.done"))
            await call.event("response.done", number + 1, timeout_s=30)
        rate = 24_000
        sounds: dict[str, int] = {}
        for event in call.all("response.output_audio.delta"):
            sounds[event["item_id"]] = sounds.get(event["item_id"], 0) + len(base64.b64decode(event["delta"])) // 2
        (a, _), (b, half), (c, whole), (d, all_of_it) = sounds.items()
        ends = {a: 0, b: half * 1_000 // rate // 2, c: whole * 1_000 // rate}
        for number, (item_id, end_ms) in enumerate(ends.items(), 1):
            where = {"item_id": item_id, "content_index": 0}
            await call.send("conversation.item.truncate", **where, audio_end_ms=end_ms)
            assert (await call.event("conversation.item.truncated", number))["audio_end_ms"] == pytest.approx(
                end_ms, abs=1
            )
        beyond = {"item_id": d, "content_index": 0, "audio_end_ms": all_of_it * 1_000 // rate + 500}
        await call.send("conversation.item.truncate", **beyond)
        assert (await call.event("error"))["error"]["param"] == "audio_end_ms"
        texts = {}
        for number, item_id in enumerate((a, b, c), 1):
            await call.send("conversation.item.retrieve", item_id=item_id)
            item = (await call.event("conversation.item.retrieved", number))["item"]
            texts[item_id] = item["content"][0]["transcript"] if item["content"] else ""
        assert texts[a] == ""
        assert len(texts[b]) < len(texts[c])


async def test_15_whip_trickles_restarts_and_ends(server: ServerProcess) -> None:
    peer, sdp = await offer_of()
    lines = sdp.splitlines()
    candidates = [line for line in lines if line.startswith("a=candidate")]
    bare = "\r\n".join(line for line in lines if not line.startswith(("a=candidate", "a=end-of-"))) + "\r\n"
    ufrag = next(line for line in lines if line.startswith("a=ice-ufrag"))
    pwd = next(line for line in lines if line.startswith("a=ice-pwd"))
    fragment = {"Content-Type": "application/trickle-ice-sdpfrag"}
    async with aiohttp.ClientSession(headers=AUTH) as http:
        async with http.options(f"{server.url}/whip") as reply:
            assert reply.status in (200, 204)
            assert "PATCH" in reply.headers["Access-Control-Allow-Methods"]
        async with http.post(f"{server.url}/whip", data=bare, headers={"Content-Type": "application/sdp"}) as reply:
            assert reply.status == 201
            address, tag, answer = server.url + reply.headers["Location"], reply.headers["ETag"], await reply.text()
        trickle = "\r\n".join([ufrag, pwd, "m=audio 9 UDP/TLS/RTP/SAVPF 0", "a=mid:0", *candidates]) + "\r\n"
        async with http.patch(address, data=trickle, headers={**fragment, "If-Match": tag}) as reply:
            assert reply.status == 204
        await heard(peer, answer)
        restart = f"a=ice-ufrag:{'u' * 8}\r\na=ice-pwd:{'p' * 24}\r\n"
        async with http.patch(address, data=restart, headers={**fragment, "If-Match": "*"}) as reply:
            assert reply.status == 200
            assert reply.headers["ETag"] != tag
            assert "a=ice-ufrag:" in await reply.text()
        async with http.patch(address, data=trickle, headers={**fragment, "If-Match": tag}) as reply:
            assert reply.status == 412
        async with http.delete(address) as reply:
            assert reply.status == 200
        async with http.get(address) as reply:
            assert reply.status == 404
    await peer.close()


async def test_16_garbage_unknown_events_and_binary_frames_leave_the_call_alive(server: ServerProcess) -> None:
    async with socket_call(server.url, headers=AUTH) as call:
        await call.socket.send_str("x" * 1_000_000)
        await call.event("error")
        await call.send("make.coffee")
        await call.event("error", 2)
        await call.socket.send_bytes(b"\x00\x01\x02")
        assert await call.is_alive()
    async with live_call(server.url, KEY) as call:
        call.peer._channel.send(b"\x00\x01\x02")
        await call.event("error")
        assert await call.is_alive()


async def test_17_the_idle_timeout_counts_from_the_end_of_playback(server: ServerProcess) -> None:
    async with live_call(server.url, KEY) as call:
        detection = {"type": "server_vad", "idle_timeout_ms": 2_000}
        session = {"type": "realtime", "audio": {"input": {"turn_detection": detection}}}
        call.peer.send({"type": "session.update", "session": session})
        call.peer.send({"type": "conversation.item.create", "item": message("Tell me something interesting.")})
        call.peer.send({"type": "response.create"})
        await call.event("output_audio_buffer.stopped", timeout_s=30)
        stopped = asyncio.get_running_loop().time()
        assert not [event for event in call.events if event["type"] == "input_audio_buffer.timeout_triggered"]
        await call.event("input_audio_buffer.timeout_triggered")
        waited = asyncio.get_running_loop().time() - stopped
        assert waited > 1.5, "not from response.done, which came seconds before"
        assert (await call.event("response.created", 2))["response"]["status"] == "in_progress"
        assert (await call.event("response.output_audio_transcript.done", 2, timeout_s=30))["transcript"]
