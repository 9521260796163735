"""Media workers as they run: processes of their own, one engine for all, and what is left when one is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest

from rtc_server.app.server import create_engine_client
from rtc_server.config import load_settings
from rtc_server.media.node import ChannelRequest
from rtc_server.media.process import ProcessNode
from rtc_server.media.router import MediaRouter
from tests.media.test_router import CALLER, NoPeer
from tests.support.live_call import LiveCall, live_call
from tests.support.running_server import DEFAULTS
from tests.support.sdp_peer import sdp_peer
from tests.support.server_process import ServerProcess, server_process

SETTINGS = {"server.media_workers": 2, "turns.vad": "webrtcvad", "server.tls": False}
NUM_AT_ONCE = 4


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with server_process("echo", settings=SETTINGS) as process:
        yield process


def workers(server: ServerProcess) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if "rtc_server.media.worker" in child.cmdline()]


def engines(server: ServerProcess) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if "rtc_server.inference.worker" in child.cmdline()]


def media_port(call: LiveCall) -> int:
    connection = call.peer.pc.getTransceivers()[0].sender.transport.transport._connection
    port: int = connection._nominated[1].remote_addr[1]
    return port


def worker_of(server: ServerProcess, call: LiveCall) -> psutil.Process:
    port = media_port(call)
    return next(w for w in workers(server) if any(c.laddr.port == port for c in w.net_connections("udp")))


async def test_calls_set_up_at_once_hold_one_place_each_at_every_moment(tmp_path: Path) -> None:
    settings = load_settings(None, {**DEFAULTS, "engine.isolation": "process"})
    engine_path = str(tmp_path / "engine.sock")
    engine = create_engine_client(settings, engine_path)
    node = ProcessNode(settings, 0, engine_path)
    router = MediaRouter([node], NUM_AT_ONCE)
    held: list[int] = []

    async def watch() -> None:
        while True:  # on every turn of the event loop
            held.append(router.num_calls)
            await asyncio.sleep(0)

    await engine.start()
    node.start()
    try:
        await node.wait_ready()
        router.open()
        watching = asyncio.create_task(watch())
        starting = (router.open_channel(ChannelRequest(), NoPeer(), CALLER) for _ in range(NUM_AT_ONCE))
        try:
            channels = await asyncio.gather(*starting)
        finally:
            watching.cancel()
        assert max(held) == NUM_AT_ONCE, "one more would be refused although there is a place"
        for channel in channels:
            channel.close()
    finally:
        await router.close(1.0)
        await engine.close()


async def test_two_workers_share_the_calls_and_one_engine(server: ServerProcess) -> None:
    assert len(workers(server)) == 2
    assert len(engines(server)) == 1
    async with live_call(server.url) as first, live_call(server.url) as second:
        used: set[int] = set()
        for call in (first, second):
            used.add(media_port(call))
        assert len(used) == 2, "each call is on the socket of another process"
        first.say("f0_rms.wav")
        second.say("f0_rms.wav")
        for call in (first, second):
            await call.event("output_audio_buffer.stopped")
            assert [e["response"]["status"] for e in call.events if e["type"] == "response.done"] == ["completed"]
        assert server.num_calls == 2
        async with aiohttp.ClientSession() as http, http.get(f"{server.url}/metrics") as reply:
            text = await reply.text()
        assert "rtc_server_calls 2.0" in text
        assert 'rtc_server_rss_bytes{process="media-1"}' in text
    await asyncio.to_thread(server.wait_for_calls, 0)


async def test_a_killed_worker_ends_its_calls_only_and_comes_back(server: ServerProcess) -> None:
    async with live_call(server.url) as first, live_call(server.url) as second:
        worker_of(server, first).send_signal(signal.SIGKILL)
        await asyncio.to_thread(server.wait_for_calls, 1)
        target = f"{server.url}/v1/realtime/calls/{first.peer.call_id}"
        async with aiohttp.ClientSession() as http, http.delete(target) as reply:
            assert reply.status == 410
            assert (await reply.json())["error"]["code"] == "media_worker_lost"
        assert await second.is_alive()
        await asyncio.to_thread(server.wait_until_ready)
        async with asyncio.timeout(20):
            while len(workers(server)) < 2:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        async with live_call(server.url) as third:
            assert await third.is_alive()
    await asyncio.to_thread(server.wait_for_calls, 0)


async def test_a_killed_engine_is_found_again_by_every_worker(server: ServerProcess) -> None:
    async with live_call(server.url) as first, live_call(server.url) as second:
        os.kill(engines(server)[0].pid, signal.SIGKILL)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.wait_until_ready)
        for call in (first, second):
            call.say("f0_rms.wav")
            await call.event("output_audio_buffer.stopped")
            assert [e["response"]["status"] for e in call.events if e["type"] == "response.done"][-1] == "completed"


def test_workers_leave_with_a_killed_server() -> None:
    processes: list[psutil.Process] = []
    with pytest.raises(AssertionError, match="exit code -9"), server_process("echo", settings=SETTINGS) as server:  # noqa: PT012
        processes = [*workers(server), *engines(server)]
        server.process.kill()
        server.process.wait()
    assert len(processes) == 3
    _, alive = psutil.wait_procs(processes, 10)
    assert not alive


async def test_a_stream_is_published_and_played_through_a_worker(server: ServerProcess) -> None:
    sdp, fragment = ({"Content-Type": f"application/{kind}"} for kind in ("sdp", "trickle-ice-sdpfrag"))
    async with (
        aiohttp.ClientSession() as http,
        sdp_peer("sendonly") as publisher,
        sdp_peer("recvonly", label=None) as player,
    ):
        offer = (await publisher.offer()).encode()
        async with http.post(f"{server.url}/whip", data=offer, headers=sdp) as reply:
            await publisher.accept(await reply.text())
            session, call_id = server.url + reply.headers["Location"], reply.headers["Location"].rsplit("/", 1)[1]
        offer = (await player.offer()).encode()
        async with http.post(f"{server.url}/whep?call={call_id}", data=offer, headers=sdp) as reply:
            assert reply.status == 201, await reply.text()
            await player.accept(await reply.text())
            playing = server.url + reply.headers["Location"]
        publisher.say("f0_rms.wav")
        await player.until(lambda: player.num_loud > 10)
        assert server.num_calls == 1
        for address, if_match, status in ((session, '"old"', 412), (playing, '"old"', 412), (playing, "*", 422)):
            headers = {**fragment, "If-Match": if_match}
            async with http.patch(address, data=b"a=end-of-candidates", headers=headers) as reply:
                assert reply.status == status
        async with http.delete(session) as reply:
            assert reply.status == 200
        await player.until(lambda: player.pc.connectionState == "closed")
