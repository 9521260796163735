"""A server of several processes that is told to end while its calls talk."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack

from tests.support.faults import workers
from tests.support.live_call import live_call
from tests.support.server_process import server_process
from tests.support.shutdown import exit_code, refused_call

NUM_CALLS = 10
DRAIN_SECONDS = 60.0
SETTINGS = {
    "server.media_workers": 2,
    "server.max_calls": NUM_CALLS,
    "turns.vad": "webrtcvad",
    "server.drain_timeout_seconds": DRAIN_SECONDS,
}


async def test_ten_talking_calls_finish_their_turn_before_the_server_ends_with_code_0() -> None:
    with server_process("echo", SETTINGS) as server:
        processes = workers(server)
        assert len(processes) == 2
        async with AsyncExitStack() as stack:
            calls = [await stack.enter_async_context(live_call(server.url)) for _ in range(NUM_CALLS)]
            answers = [asyncio.create_task(call.answered(timeout_s=50.0)) for call in calls]
            for call in calls:
                await call.event("input_audio_buffer.speech_started")
            server.process.send_signal(signal.SIGTERM)
            for call in calls:
                told = await call.event("rtc_server.server.draining")
                assert 0 < told["seconds_left"] <= DRAIN_SECONDS
            status, ready = await asyncio.to_thread(server.get_json, "/readyz")
            assert (status, ready["reason"]) == (503, "draining")
            status, code, retry_after = await refused_call(server.url)
            assert (status, code) == (503, "draining")
            assert 1 <= retry_after <= DRAIN_SECONDS
            outcomes = [done["response"]["status"] for done in await asyncio.gather(*answers)]
            assert outcomes == ["completed"] * NUM_CALLS
            assert [call.ended for call in calls] == [None] * NUM_CALLS
            assert server.process.poll() is None, "the calls go on until they hang up"
        assert await exit_code(server) == 0
    assert not any(process.is_running() for process in processes)
