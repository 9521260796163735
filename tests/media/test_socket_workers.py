"""Calls over a WebSocket that live in media workers: found again, told of a lost worker, and never leaked."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import aiohttp
import psutil
import pytest

from tests.support.live_call import live_call
from tests.support.recordings import recording
from tests.support.server_process import ServerProcess, server_process
from tests.support.socket_call import likeness, socket_call

SETTINGS = {"server.media_workers": 2, "turns.vad": "webrtcvad", "server.tls": False}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with server_process("echo", settings=SETTINGS) as process:
        yield process


def workers(server: ServerProcess) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if "rtc_server.media.worker" in child.cmdline()]


async def calls_by_worker(server: ServerProcess) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/metrics") as reply:
        lines = (await reply.text()).splitlines()
    return int(float(next(line for line in lines if line.startswith("rtc_server_calls ")).split()[1]))


async def test_two_workers_carry_conversations_and_their_sidebands(server: ServerProcess) -> None:
    said = recording("f0_rms")
    async with socket_call(server.url) as first, socket_call(server.url, "audio=binary", "audio/pcmu") as second:
        assert server.num_calls == await calls_by_worker(server) == 2
        async with (
            socket_call(server.url, f"call_id={first.call_id}") as side_of_first,
            socket_call(server.url, f"call_id={second.call_id}") as side_of_second,
        ):
            assert server.num_calls == 2
            await asyncio.gather(first.say(said), second.say(said))
            for call, side in ((first, side_of_first), (second, side_of_second)):
                done = await call.event("response.done")
                assert likeness(call.heard, said) > 0.95
                assert await side.event("response.done") == done
                assert side.events[0]["session"]["id"] == call.events[0]["session"]["id"]
                assert not side.sound
            await side_of_second.send("session.update", session={"type": "realtime", "instructions": "Sing."})
            await second.event("session.updated", 2)
            await first.close()
            assert await side_of_first.closed() == 1000
        assert await second.is_alive()
    await asyncio.to_thread(server.wait_for_calls, 0)


async def test_a_sideband_finds_a_webrtc_call_in_either_worker(server: ServerProcess) -> None:
    async with live_call(server.url) as first, live_call(server.url) as second:
        for call in (first, second):
            async with socket_call(server.url, f"call_id={call.peer.call_id}") as side:
                assert side.events[0]["session"]["id"] == call.events[0]["session"]["id"]
            assert await call.is_alive()
    await asyncio.to_thread(server.wait_for_calls, 0)


async def test_a_killed_worker_is_explained_to_its_clients(server: ServerProcess) -> None:
    async with socket_call(server.url) as first, socket_call(server.url) as second:
        workers(server)[0].send_signal(signal.SIGKILL)
        ends = {asyncio.create_task(call.closed()): call for call in (first, second)}
        done, pending = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        (lost,), (kept,) = ([ends[task] for task in tasks] for tasks in (done, pending))
        assert lost.close_code == 1011
        assert lost.events[-1]["error"]["code"] == "media_worker_lost"
        assert await kept.is_alive()
        async with aiohttp.ClientSession() as http:
            target = f"{server.url}/v1/realtime/calls/{lost.call_id}"
            async with http.delete(target) as reply:
                assert reply.status == 410
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await http.ws_connect(f"{server.url}/v1/realtime?call_id={lost.call_id}")
            assert refused.value.status == 410
        await asyncio.to_thread(server.wait_until_ready)
    await asyncio.to_thread(server.wait_for_calls, 0)


async def test_who_asks_for_more_than_it_reads_waits_and_is_not_felt(server: ServerProcess) -> None:
    detection = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
    async with aiohttp.ClientSession() as http, socket_call(server.url) as good, socket_call(server.url) as better:
        deaf = await http.ws_connect(f"{server.url}/v1/realtime", max_msg_size=0)
        await deaf.send_json({"type": "session.update", "session": detection})
        await deaf.send_bytes(bytes(48_000 * 20))
        await deaf.send_json({"type": "input_audio_buffer.commit"})
        while (message := await deaf.receive_json())["type"] != "input_audio_buffer.committed":
            pass
        for _ in range(40):  # each is answered with more than a megabyte
            await deaf.send_json({"type": "conversation.item.retrieve", "item_id": message["item_id"]})
        assert await good.is_alive()
        assert await better.is_alive()
        held = max(process.memory_info().rss for process in [psutil.Process(server.process.pid), *workers(server)])
        assert held < 400 << 20
        answers = 0
        while answers < 40:
            answers += (await deaf.receive_json(timeout=20))["type"] == "conversation.item.retrieved"
        await deaf.close()
    await asyncio.to_thread(server.wait_for_calls, 0)
    assert "Traceback" not in server.log


async def test_a_file_sent_at_once_is_taken_whole_while_others_talk(server: ServerProcess) -> None:
    """Far more than a window, in one worker with a call that must not notice."""
    sound = recording("librivox_0870")
    detection = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
    async with socket_call(server.url) as a, socket_call(server.url) as b, socket_call(server.url) as c:
        for call in (a, b, c):
            await call.send("session.update", session=detection)
        await asyncio.gather(*(call.say(sound, pause_ms=0) for call in (a, b, c)))
        for call in (a, b, c):
            await call.send("input_audio_buffer.commit")
            committed = await call.event("input_audio_buffer.committed")
            await call.send("conversation.item.retrieve", item_id=committed["item_id"])
            item = (await call.event("conversation.item.retrieved"))["item"]
            seconds = len(item["content"][0]["audio"]) * 3 / 4 / 48_000
            assert seconds == pytest.approx(min(len(sound) / 16_000, 28.0), abs=0.05)
    await asyncio.to_thread(server.wait_for_calls, 0)
