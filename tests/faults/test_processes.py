"""Each kind of process killed, paused or slowed while calls talk (docs/faults.md)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import psutil
import pytest

from tests.support.faults import engine, paused, slowed, worker_of, workers
from tests.support.live_call import LiveCall, live_call
from tests.support.server_process import ServerProcess, server_process

SETTINGS = {
    "server.media_workers": 2,
    "turns.vad": "webrtcvad",
    "engine.response_timeout_seconds": 2.0,
    "engine.restart_backoff_seconds": 0.1,
}
LONG, SHORT = "librivox_0870.wav", "f0_rms.wav"


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with server_process("echo", settings=SETTINGS) as process:
        yield process


async def until_speaking(call: LiveCall, name: str = LONG) -> str:
    """Ask for a long reply; the id of its response once it is heard."""
    started = sum(event["type"] == "output_audio_buffer.started" for event in call.events)
    call.say(name)
    event = await call.event("output_audio_buffer.started", started + 1, 30)
    return str(event["response_id"])


def outcome(call: LiveCall, response_id: str) -> dict[str, object]:
    """The `response.done` of a response."""
    done = [event["response"] for event in call.events if event["type"] == "response.done"]
    return next(response for response in done if response["id"] == response_id)


@asynccontextmanager
async def live_calls(server: ServerProcess, count: int = 6) -> AsyncIterator[list[LiveCall]]:
    """Connected calls, half of them on each media worker."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(live_call(server.url)) for _ in range(count)]


async def test_a_killed_engine_fails_its_replies_with_a_code_and_the_calls_go_on(server: ServerProcess) -> None:
    async with live_calls(server) as calls:
        # The engine has sent what it may of each reply (credit), and owes the rest: killed in mid-reply.
        speaking = await asyncio.gather(*(until_speaking(call) for call in calls))
        engine(server).kill()
        for call, response_id in zip(calls, speaking, strict=True):
            await call.event("response.done", 1)
            response = outcome(call, response_id)
            assert response["status"] == "failed"
            assert "engine_lost" in str(response["status_details"])
        await asyncio.to_thread(server.wait_until_ready)
        for done in await asyncio.gather(*(call.answered(SHORT) for call in calls)):
            assert done["response"]["status"] == "completed"


async def test_a_paused_engine_fails_the_reply_in_time_and_the_next_turn_is_answered(server: ServerProcess) -> None:
    async with live_call(server.url) as call:
        assert (await call.answered(SHORT))["response"]["status"] == "completed"
        with paused(engine(server)):
            response = (await call.answered(SHORT))["response"]
            assert response["status"] == "failed"
            assert "response_timeout" in str(response["status_details"])
        assert (await call.answered(SHORT))["response"]["status"] == "completed"


async def test_a_slow_engine_is_heard_late_but_whole(server: ServerProcess) -> None:
    async with live_call(server.url) as call:
        with slowed(engine(server)):
            assert (await call.answered(LONG))["response"]["status"] == "completed"
        assert (await call.answered(SHORT))["response"]["status"] == "completed"


async def test_a_killed_media_worker_ends_its_own_calls_only(server: ServerProcess) -> None:
    async with live_calls(server) as calls:
        await asyncio.gather(*(until_speaking(call) for call in calls))
        victim = worker_of(server, calls[0])
        others = [call for call in calls if worker_of(server, call) != victim]
        assert len(others) == len(calls) // 2
        victim.kill()
        await asyncio.to_thread(server.wait_for_calls, len(others))
        for call in others:
            await call.event("output_audio_buffer.stopped")
            assert [e["response"]["status"] for e in call.events if e["type"] == "response.done"] == ["completed"]
        async with asyncio.timeout(20):
            while len(workers(server)) < 2:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        await asyncio.to_thread(server.wait_until_ready)
        async with live_call(server.url) as another:
            assert (await another.answered(SHORT))["response"]["status"] == "completed"
    await asyncio.to_thread(server.wait_for_calls, 0)


async def test_calls_do_not_notice_a_stalled_signaling_process(server: ServerProcess) -> None:
    async with live_call(server.url) as call:
        with paused(psutil.Process(server.process.pid)):
            assert (await call.answered(SHORT))["response"]["status"] == "completed"
        assert (await call.answered(SHORT))["response"]["status"] == "completed"


async def test_a_stalled_media_worker_skips_what_is_late_and_goes_on(server: ServerProcess) -> None:
    async with live_call(server.url) as call:
        await until_speaking(call)
        with paused(worker_of(server, call)):
            await asyncio.sleep(1.5)  # the stall itself
        await call.event("output_audio_buffer.stopped")
        assert [e["response"]["status"] for e in call.events if e["type"] == "response.done"] == ["completed"]
        assert (await call.answered(SHORT))["response"]["status"] == "completed"
    await asyncio.to_thread(server.wait_for_calls, 0)


async def test_a_media_worker_that_hangs_is_ended_and_its_session_goes_on() -> None:
    settings = {**SETTINGS, "server.media_worker_timeout_seconds": 2.0}
    with server_process("echo", settings=settings) as server:
        async with live_call(server.url) as call:
            assert (await call.answered(SHORT))["response"]["status"] == "completed"
            hanging = worker_of(server, call)
            hanging.send_signal(signal.SIGSTOP)
            await asyncio.to_thread(hanging.wait, 20)
            await asyncio.to_thread(server.wait_for_calls, 0)
            async with live_call(server.url, resume=call.peer.resume_token) as again:
                resumed = await again.event("rtc_server.session.resumable")
                assert resumed["resumed"] is True
                assert (await again.answered(SHORT))["response"]["status"] == "completed"


async def test_a_killed_server_leaves_nothing_and_starts_again_at_once() -> None:
    processes: list[psutil.Process] = []
    port = 0
    with pytest.raises(AssertionError, match="exit code -9"), server_process("echo", settings=SETTINGS) as server:  # noqa: PT012
        port = int(server.url.rsplit(":", 1)[1])
        async with live_call(server.url) as call:
            await until_speaking(call)
            processes = [*workers(server), engine(server)]
            os.kill(server.process.pid, signal.SIGKILL)
            await asyncio.to_thread(server.process.wait)
    assert len(processes) == 3
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, 10)
    assert not alive
    with server_process("echo", settings=SETTINGS, port=port) as server:
        async with live_call(server.url) as call:
            assert (await call.answered(SHORT))["response"]["status"] == "completed"
