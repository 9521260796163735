"""`openai` for Python as it is on PyPI: secrets, calls, and conversations over a WebSocket, sync and async."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from threading import Thread
from typing import Any

import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack
from openai import AsyncOpenAI, AuthenticationError, OpenAI
from websockets.exceptions import ConnectionClosed

from tests.clients.dialogue import INSTRUCTIONS, KEY, MODEL, TURNS, assert_conversation, events_of, speech
from tests.clients.talker import CHUNK_MS, Talker
from tests.support.server_process import ServerProcess

TALK_SECONDS = 120.0
EVENT_SECONDS = 20.0
SESSION: dict[str, Any] = {
    "type": "realtime",
    "instructions": INSTRUCTIONS,
    "audio": {
        "input": {"format": {"type": "audio/pcm", "rate": 24_000}, "turn_detection": {"type": "server_vad"}},
        "output": {"format": {"type": "audio/pcm", "rate": 24_000}},
    },
}


def new_talker() -> Talker:
    return Talker(speech(TURNS["first"]), speech(TURNS["second"]))


def test_a_conversation_with_the_sync_client(stock_server: ServerProcess) -> None:
    talker = new_talker()
    with (
        OpenAI(base_url=f"{stock_server.url}/v1", api_key=KEY) as client,
        client.realtime.connect(model=MODEL) as connection,
    ):
        connection.session.update(session=SESSION)

        def speak() -> None:
            start, chunks = time.monotonic(), 0
            while not talker.is_done and time.monotonic() - start < TALK_SECONDS:
                connection.input_audio_buffer.append(audio=talker.microphone())
                chunks += 1
                time.sleep(max(0.0, start + chunks * CHUNK_MS / 1000 - time.monotonic()))
            connection.close()

        mouth = Thread(target=speak, name="mouth")
        with contextlib.suppress(ConnectionClosed):
            for number, event in enumerate(connection):
                if number == 0:
                    assert event.type == "session.created"
                    mouth.start()
                reply = talker.on_event(event.to_dict())
                if reply is not None:
                    connection.send(reply)
        mouth.join()
    assert_talk(talker)


async def test_a_conversation_with_the_async_client(stock_server: ServerProcess) -> None:
    talker = new_talker()
    async with AsyncOpenAI(base_url=f"{stock_server.url}/v1", api_key=KEY) as client:
        assert (await client.models.list()).data
        secret = await client.realtime.client_secrets.create(session={"type": "realtime", "instructions": INSTRUCTIONS})
        assert secret.value.startswith("ek_")
        # The rest is done with the secret, as a client does who was given one.
        async with (
            AsyncOpenAI(base_url=f"{stock_server.url}/v1", api_key=secret.value) as guest,
            guest.realtime.connect(model=MODEL) as connection,
        ):
            assert (await connection.recv()).type == "session.created"
            await connection.session.update(session={"type": "realtime", "audio": SESSION["audio"]})

            async def speak() -> None:
                loop = asyncio.get_running_loop()
                start, chunks = loop.time(), 0
                while not talker.is_done and loop.time() - start < TALK_SECONDS:
                    await connection.input_audio_buffer.append(audio=talker.microphone())
                    chunks += 1
                    await asyncio.sleep(start + chunks * CHUNK_MS / 1000 - loop.time())
                await connection.close()

            mouth = asyncio.create_task(speak(), name="mouth")
            with contextlib.suppress(ConnectionClosed):
                async for event in connection:
                    reply = talker.on_event(event.to_dict())
                    if reply is not None:
                        await connection.send(reply)
            await mouth
    assert_talk(talker)


def assert_talk(talker: Talker) -> None:
    report = talker.report()
    assert talker.is_done, f"no whole conversation; there were: {[event['type'] for event in report['events']]}"
    report["events"].insert(0, {"type": "session.created"})
    assert_conversation(report)
    # The server keeps exactly what the client says it has played.
    for cut in talker.interruptions:
        (confirmed,) = events_of(report, "conversation.item.truncated", item_id=cut["item_id"])
        assert confirmed["audio_end_ms"] == cut["audio_end_ms"]


async def test_a_call_with_a_sideband(stock_server: ServerProcess) -> None:
    """`calls.create` (multipart), `connect(call_id=...)` and `calls.hangup`, as a back end does for its browsers."""
    peer = RTCPeerConnection()
    channel = peer.createDataChannel("oai-events")
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    channel.on("message", lambda message: events.put_nowait(json.loads(message)))
    peer.addTrack(AudioStreamTrack())

    async def next_event(kind: str) -> dict[str, Any]:
        async with asyncio.timeout(EVENT_SECONDS):
            while (event := await events.get())["type"] != kind:
                pass
        return event

    try:
        await peer.setLocalDescription(await peer.createOffer())
        async with AsyncOpenAI(base_url=f"{stock_server.url}/v1", api_key=KEY) as client:
            answer = await client.realtime.calls.create(
                sdp=peer.localDescription.sdp, session={"type": "realtime", "instructions": INSTRUCTIONS}
            )
            call_id = answer.response.headers["Location"].rsplit("/", 1)[-1]
            await peer.setRemoteDescription(RTCSessionDescription(sdp=answer.text, type="answer"))
            created = await next_event("session.created")
            assert created["session"]["instructions"] == INSTRUCTIONS
            assert stock_server.num_calls == 1

            async with client.realtime.connect(call_id=call_id) as sideband:
                await sideband.session.update(session={"type": "realtime", "instructions": "Be brief."})
                async for event in sideband:
                    if event.type == "session.updated":
                        break
                updated = await next_event("session.updated")
                assert updated["session"]["instructions"] == "Be brief."

            await client.realtime.calls.hangup(call_id)
            stock_server.wait_for_calls(0)
    finally:
        await peer.close()


def test_a_wrong_key_is_refused(stock_server: ServerProcess) -> None:
    with (
        OpenAI(base_url=f"{stock_server.url}/v1", api_key=KEY[::-1], max_retries=0) as client,
        pytest.raises(AuthenticationError),
    ):
        client.realtime.client_secrets.create()
