"""The Realtime API over a WebSocket, as its clients use and abuse it: real HTTP, the echo backend."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import aiohttp
import numpy as np
import pytest

from rtc_server.app import realtime_ws
from rtc_server.app.client_messages import MAX_AUDIO, MAX_MESSAGE
from rtc_server.transports import websocket
from tests.app.test_auth import KEY, KEYED, OTHER_KEY, SECRETS
from tests.support.live_call import live_call
from tests.support.recordings import recording
from tests.support.running_server import free_port, running_server
from tests.support.socket_call import SocketCall, likeness, socket_call, to_wire

MEGABYTE = 1 << 20
SESSION = {"type": "realtime"}


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with running_server(**{"server.max_calls": 3}) as address:
        yield address


async def num_calls(url: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/info") as reply:
        return int((await reply.json())["calls"])


async def until_idle(url: str) -> None:
    async with asyncio.timeout(15):
        while await num_calls(url):  # noqa: ASYNC110 - the server is asked, there is no event to wait for
            await asyncio.sleep(0.05)


async def refusal(url: str, query: str = "", **options: Any) -> tuple[int, str, dict[str, str]]:
    """(status, code, headers) of an upgrade that is refused."""
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers |= {"Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode()}
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{url}/v1/realtime?{query}", headers=headers | options.get("headers", {})) as reply,
    ):
        return reply.status, (await reply.json())["error"]["code"], dict(reply.headers)


# --- a conversation


@pytest.mark.parametrize("query", ["", "audio=binary"], ids=["events", "binary"])
@pytest.mark.parametrize("wire_format", ["audio/pcm", "audio/pcmu", "audio/pcma"])
async def test_what_is_said_comes_back_in_the_same_format(url: str, query: str, wire_format: str) -> None:
    said = recording("f0_rms")
    async with socket_call(url, query, wire_format) as call:
        assert call.kinds()[0] == "session.created"
        await call.say(said)
        done = await call.event("response.done")
        assert done["response"]["status"] == "completed"
        assert len(call.heard) > 16_000
        # Cut where the turn was cut, coded twice; the beginning of the turn is silence that PCMU keeps.
        assert likeness(call.heard, said) > 0.95
        assert bool(call.all("response.output_audio.delta")) is not call.is_binary
        assert not [kind for kind in call.kinds() if kind.startswith("output_audio_buffer")]
        kinds = call.kinds()
        assert kinds.index("response.output_audio.done") < kinds.index("response.done")
        if not call.is_binary:
            last = len(kinds) - 1 - kinds[::-1].index("response.output_audio.delta")
            assert last < kinds.index("response.output_audio.done")
        assert await num_calls(url) == 1
    await until_idle(url)


async def test_events_and_sound_keep_their_order(url: str) -> None:
    """Push to talk, faster than real time: the commit must find all that was sent before it, and nothing else."""
    said = recording("f1_rms")
    async with socket_call(url) as call:
        await call.send("session.update", session={**SESSION, "audio": {"input": {"turn_detection": None}}})
        await call.say(recording("f2_rms"))
        await call.send("input_audio_buffer.clear")
        await call.say(said, pause_ms=0)
        await call.send("input_audio_buffer.commit")
        await call.say(recording("f3_rms"))
        committed = await call.event("input_audio_buffer.committed")
        await call.send("conversation.item.retrieve", item_id=committed["item_id"])
        item = (await call.event("conversation.item.retrieved"))["item"]
        sound = np.frombuffer(base64.b64decode(item["content"][0]["audio"]), "<i2")
        assert abs(len(sound) / 24_000 - len(said) / 16_000) < 0.01
        await call.send("response.create")
        await call.event("response.done")
        assert likeness(call.heard, said) > 0.95


async def test_the_model_is_named_or_left_to_the_server(url: str) -> None:
    for query in ("", "model=echo", "intent=conversation"):
        async with socket_call(url, query) as call:
            assert call.events[0]["session"]["model"] == "echo"
    await until_idle(url)


async def test_subprotocols_are_chosen_and_keys_in_them_stay_out_of_the_log(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    offers: list[tuple[tuple[str, ...], str | None]] = [
        (("realtime", "openai-insecure-api-key.sk-top", "openai-beta.realtime-v1"), "realtime"),
        (("openai-insecure-api-key.sk-top",), None),
        ((), None),
    ]
    with caplog.at_level(logging.DEBUG):
        for offered, chosen in offers:
            async with socket_call(url, protocols=offered) as call:
                assert call.socket.protocol == chosen
                assert "Sec-WebSocket-Extensions" not in call.headers
    assert not [record for record in caplog.records if "sk-top" in record.getMessage()]


# --- refused before the upgrade


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("model=nobody", 404, "model_not_found"),
        ("call_id=rtc_nobody", 404, "call_id_not_found"),
        ("call_id=", 404, "call_id_not_found"),
        ("intent=world-domination", 400, "invalid_value"),
        ("audio=opus", 400, "invalid_value"),
    ],
)
async def test_what_cannot_be_is_refused_before_the_upgrade(url: str, query: str, status: int, code: str) -> None:
    assert (await refusal(url, query))[:2] == (status, code)
    assert await num_calls(url) == 0


async def test_without_an_upgrade_the_address_says_what_it_speaks(url: str) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/realtime") as reply:
        assert (reply.status, reply.headers["Upgrade"]) == (426, "websocket")
        assert (await reply.json())["error"]["code"] == "upgrade_required"


async def test_calls_count_and_the_next_one_is_told_to_wait() -> None:
    async with running_server(**{"server.max_calls": 1}) as url, socket_call(url) as call:
        status, code, headers = await refusal(url)
        assert (status, code) == (503, "server_full")
        assert int(headers["Retry-After"]) > 0
        assert await call.is_alive()


async def test_the_second_port_serves_the_same() -> None:
    port = free_port()
    second = f"http://127.0.0.1:{port}"
    async with running_server(**{"server.realtime_port": port}) as url, socket_call(second) as call:
        assert await call.is_alive()
        assert await num_calls(url) == 1


async def test_a_key_may_come_as_a_header_or_a_subprotocol_and_calls_are_their_makers() -> None:
    async with running_server(**KEYED) as url:
        assert (await refusal(url))[:2] == (401, "invalid_api_key")
        browser = ("realtime", f"openai-insecure-api-key.{KEY}")
        mine, theirs = {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"Bearer {OTHER_KEY}"}
        async with socket_call(url, protocols=browser) as call, socket_call(url, headers=theirs) as other:
            async with socket_call(url, f"call_id={call.call_id}", headers=mine) as side:
                assert await side.is_alive()
            code = await refusal(url, f"call_id={call.call_id}", headers=theirs)
            assert code[:2] == (404, "call_id_not_found")
            assert await other.is_alive()


async def test_a_secret_starts_with_its_own_session() -> None:
    async with running_server(**KEYED) as url, aiohttp.ClientSession() as http:
        session = {**SESSION, "instructions": "Sing.", "audio": {"output": {"format": {"type": "audio/pcma"}}}}
        key = {"Authorization": f"Bearer {KEY}"}
        async with http.post(url + SECRETS, json={"session": session}, headers=key) as reply:
            secret = {"Authorization": f"Bearer {(await reply.json())['value']}"}
        async with socket_call(url, "model=gpt-realtime", headers=secret) as call:
            started = call.events[0]["session"]
            assert started["instructions"] == "Sing."
            assert started["audio"]["output"]["format"] == {"type": "audio/pcma"}
        assert (await refusal(url, "model=nobody", headers=secret))[:2] == (404, "model_not_found")


# --- the end of a call


async def test_hanging_up_closes_normally(url: str) -> None:
    async with socket_call(url) as call:
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{url}/v1/realtime/calls/{call.call_id}/hangup") as reply,
        ):
            assert reply.status == 200
        assert await call.closed() == 1000
        assert not call.all("error")
    await until_idle(url)


async def test_the_time_limit_is_explained() -> None:
    async with running_server(**{"server.max_call_seconds": 1}) as url, socket_call(url) as call:
        assert await call.closed() == 1001
        assert call.events[-1]["error"]["code"] == "session_expired"
        await until_idle(url)


async def test_a_server_that_stops_says_so_and_does_not_wait_for_silent_clients() -> None:
    async with aiohttp.ClientSession() as http:
        async with running_server() as url:
            silent = await http.ws_connect(f"{url}/v1/realtime", autoclose=False)
            call = SocketCall(await http.ws_connect(f"{url}/v1/realtime"), "audio/pcm")
            await call.event("session.created")
            started = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - started < 15
        assert await call.closed() == 1013
        assert call.events[-1]["error"]["code"] == "server_shutdown"
        await call.close()
        await silent.close()


@pytest.mark.parametrize("how", ["abort", "close", "half upgrade"])
async def test_a_client_that_vanishes_leaves_nothing(url: str, how: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            connection = socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])))
            connection.sendall(
                b"GET /v1/realtime HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            if how == "abort":
                await asyncio.to_thread(connection.recv, 100)
            if how != "close":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # RST, not FIN
            connection.close()
        await until_idle(url)
    assert not caplog.records
    async with socket_call(url) as call:
        assert await call.is_alive()


async def test_a_client_that_falls_silent_without_closing_leaves_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-open TCP: it answers no ping any more."""
    monkeypatch.setattr(realtime_ws, "HEARTBEAT_SECONDS", 0.2)
    async with aiohttp.ClientSession() as http, socket_call(url) as answering:
        dead = await http.ws_connect(f"{url}/v1/realtime", autoping=False)
        assert await num_calls(url) == 2
        async with asyncio.timeout(10):
            while await num_calls(url) != 1:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
        assert await answering.is_alive()
        await dead.close()


# --- bad clients


async def test_bad_messages_are_answered_and_the_call_lives(url: str) -> None:
    bad: list[tuple[str, str]] = [
        ("{", "invalid_json"),
        ("x" * MEGABYTE, "invalid_json"),
        ("[" * 2 * MEGABYTE, "invalid_json"),
        ("[1]", "invalid_event"),
        ('{"type": "nonsense", "event_id": "evt_1"}', "invalid_event"),
        (json.dumps({"type": "session.update", "x": "y" * 2 * MEGABYTE, "event_id": "evt_2"}), "invalid_event"),
        ('{"type": "input_audio_buffer.append", "audio": "!"}', "invalid_value"),
        ('{"type": "input_audio_buffer.append"}', "missing_required_parameter"),
        (json.dumps({"type": "input_audio_buffer.append", "audio": "!" * 2 * MEGABYTE}), "invalid_value"),
    ]
    async with socket_call(url) as call:
        for number, (message, code) in enumerate(bad, 1):
            await call.socket.send_str(message)
            error = (await call.event("error", number))["error"]
            assert error["code"] == code
            if "evt_" in message:
                assert error["event_id"] == message[message.index("evt_") :][:5]
        assert await call.is_alive()


async def test_odd_and_empty_binary_messages_do_no_harm(url: str) -> None:
    async with socket_call(url) as call:
        for size in (0, 1, 3, 4_097, 99_999):
            await call.socket.send_bytes(bytes(size))
        assert await call.is_alive()
        assert not call.all("error")


async def test_the_largest_append_is_taken_and_a_larger_one_refused(url: str) -> None:
    sound = base64.b64encode(bytes(MAX_AUDIO)).decode()
    async with socket_call(url) as call:
        await call.send("session.update", session={**SESSION, "audio": {"input": {"turn_detection": None}}})
        await call.send("input_audio_buffer.append", audio=sound)
        await call.send("input_audio_buffer.commit")
        await call.event("input_audio_buffer.committed", timeout_s=60)
        assert not call.all("error")
        await call.send("input_audio_buffer.append", audio=sound + "AAAA", event_id="evt_1")
        error = (await call.event("error"))["error"]
        assert (error["param"], error["event_id"]) == ("audio", "evt_1")
        with suppress(ConnectionError):  # the server need not read to the end what it will not take
            await call.socket.send_bytes(bytes(MAX_MESSAGE + 1))
        assert await call.closed() in (1006, 1009)
    await until_idle(url)


async def test_a_flood_of_one_client_is_not_felt_by_another(url: str) -> None:
    async with socket_call(url) as good, socket_call(url) as bad:
        await bad.send("session.update", session={**SESSION, "audio": {"input": {"turn_detection": None}}})
        for number in range(2_000):
            await bad.send("nonsense", event_id=f"evt_{number}")
            if number % 200 == 0:
                assert await good.is_alive()
        await bad.event("error", 2_000, timeout_s=60)
        assert [error["error"]["event_id"] for error in bad.all("error")] == [f"evt_{n}" for n in range(2_000)]


async def test_text_that_is_not_utf8_closes_with_its_code(url: str) -> None:
    async with socket_call(url) as call:
        await call.socket.send_frame(b"\xff\xfe", aiohttp.WSMsgType.TEXT)
        assert await call.closed() == 1007
    await until_idle(url)


async def test_a_client_that_does_not_read_loses_its_call(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "MAX_UNREAD", 32 * 1024)
    monkeypatch.setattr(realtime_ws, "SEND_BUFFER", 8 * 1024)
    # Its own buffer must be small too: the usual ones hold minutes of sound.
    connector = aiohttp.TCPConnector(socket_factory=small_socket)
    async with aiohttp.ClientSession(connector=connector) as http, socket_call(url) as good:
        deaf = await http.ws_connect(f"{url}/v1/realtime")
        said = to_wire(np.concatenate([recording("librivox_0870"), np.zeros(16_000, np.int16)]), "audio/pcm")
        await deaf.send_bytes(said)
        async with asyncio.timeout(30):
            while await num_calls(url) != 1:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
        async with http.get(f"{url}/metrics") as reply:
            assert 'rtc_server_calls_ended_total{reason="client_not_reading"} ' in await reply.text()
        assert await good.is_alive()


def small_socket(address: Any) -> socket.socket:
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024)
    return made


async def test_who_asks_for_more_than_it_reads_waits_and_gets_everything(url: str) -> None:
    detection = {**SESSION, "audio": {"input": {"turn_detection": None}}}
    async with aiohttp.ClientSession() as http, socket_call(url) as good:
        deaf = await http.ws_connect(f"{url}/v1/realtime", max_msg_size=0)
        await deaf.send_json({"type": "session.update", "session": detection})
        await deaf.send_bytes(bytes(48_000 * 20))
        await deaf.send_json({"type": "input_audio_buffer.commit"})
        while (message := await deaf.receive_json())["type"] != "input_audio_buffer.committed":
            pass
        for number in range(40):  # each is answered with more than a megabyte
            await deaf.send_json(
                {"type": "conversation.item.retrieve", "item_id": message["item_id"], "event_id": f"evt_{number}"}
            )
        for _ in range(3):
            assert await good.is_alive()
        answers = 0
        while answers < 40:
            answers += (await deaf.receive_json(timeout=20))["type"] == "conversation.item.retrieved"
        await deaf.close()


# --- sidebands


async def test_a_sideband_sees_and_steers_a_webrtc_call(url: str) -> None:
    async with live_call(url) as call, socket_call(url, f"call_id={call.peer.call_id}") as side:
        assert side.events[0]["session"]["id"] == call.events[0]["session"]["id"]
        await side.send("session.update", session={**SESSION, "instructions": "Sing."}, event_id="evt_1")
        updated = await side.event("session.updated")
        assert await call.event("session.updated") == updated
        call.say("f0_rms.wav")
        await call.event("output_audio_buffer.stopped")
        own = ("session.created", "conversation.created", "rtc_server.session.resumable")
        seen = [event for event in call.events if event["type"] not in own]
        await side.event("output_audio_buffer.stopped")
        assert [event for event in side.events if event in seen] == seen
        assert not side.all("response.output_audio.delta")
        assert await num_calls(url) == 1

        await side.send("nonsense", event_id="evt_2")
        assert (await side.event("error"))["error"]["event_id"] == "evt_2"
        await side.socket.send_bytes(b"sound")
        assert (await side.event("error", 2))["error"]["code"] == "invalid_event"
        await side.send("input_audio_buffer.append", audio="AAAA")
        assert (await side.event("error", 3))["error"]["code"] == "invalid_event"
        await call.is_alive()
        assert not [event for event in call.events if event["type"] == "error"]

        await side.close()
        assert await call.is_alive()
    await until_idle(url)


async def test_a_sideband_ends_with_its_call(url: str) -> None:
    async with live_call(url) as call:
        async with socket_call(url, f"call_id={call.peer.call_id}") as side:
            await call.close()
            assert await side.closed() == 1000
        assert (await refusal(url, f"call_id={call.peer.call_id}"))[:2] == (404, "call_id_not_found")


async def test_a_call_has_few_sidebands(url: str) -> None:
    async with live_call(url) as call:
        query = f"call_id={call.peer.call_id}"
        async with socket_call(url, query), socket_call(url, query), socket_call(url, query):
            async with socket_call(url, query):
                assert (await refusal(url, query))[:2] == (429, "sideband_limit_reached")
            async with asyncio.timeout(10):
                while True:  # the place is free as soon as the server knows
                    try:
                        async with socket_call(url, query):
                            break
                    except aiohttp.WSServerHandshakeError:
                        continue
        assert await call.is_alive()


async def test_a_sideband_of_a_socket_call_gets_no_sound(url: str) -> None:
    async with socket_call(url) as call, socket_call(url, f"call_id={call.call_id}") as side:
        await call.say(recording("f0_rms"))
        await side.event("response.done")
        assert call.sound
        assert not side.sound
        assert not side.all("response.output_audio.delta")
