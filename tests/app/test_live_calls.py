"""Whole calls over real WebRTC: hostile messages, a killed engine, a vanished client, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import aiohttp
import psutil
import pytest

from tests.support.live_call import live_call
from tests.support.running_server import running_server


async def num_calls(url: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/info") as reply:
        return int((await reply.json())["calls"])


async def until_idle(url: str) -> None:
    async with asyncio.timeout(15):
        while await num_calls(url):  # noqa: ASYNC110 - the server is asked, there is no event to wait for
            await asyncio.sleep(0.05)


def engine_processes() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "rtc_server.inference.worker" in p.cmdline()]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        pytest.param('{"type":', "invalid_json", id="malformed"),
        pytest.param("", "invalid_json", id="empty"),
        pytest.param("x" * 200_000, "invalid_event", id="oversized"),
        pytest.param(b"\x00\x01\x02", "invalid_event", id="binary"),
        pytest.param('{"type":"make.coffee"}', "invalid_event", id="unknown"),
        pytest.param('{"type":"input_audio_buffer.append","audio":""}', "invalid_event", id="audio-over-events"),
        pytest.param('{"type":"response.create"}', "invalid_value", id="nothing-to-answer"),
        pytest.param('{"type":"response.cancel"}', "response_cancel_not_active", id="nothing-to-cancel"),
        pytest.param("[" * 50_000, "invalid_json", id="deeply-nested"),
    ],
)
async def test_a_bad_message_gets_an_error_and_the_call_lives(message: str | bytes, code: str) -> None:
    async with running_server() as url, live_call(url) as call:
        call.peer._channel.send(message)
        error = (await call.event("error"))["error"]
        assert error["code"] == code
        assert error["type"] == "invalid_request_error"
        assert await call.is_alive()


async def test_a_conversation_of_two_turns_leaves_nothing_behind() -> None:
    async with running_server() as url:
        async with live_call(url) as call:
            for turn, name in enumerate(("f0_rms.wav", "go_forward_ten_meters.wav"), 1):
                call.say(name)
                await call.event("output_audio_buffer.stopped", turn)
            done: list[Any] = [e["response"]["status"] for e in call.events if e["type"] == "response.done"]
            assert done == ["completed", "completed"]
            metrics = await call.event("rtc_server.turn.metrics")
            # A packet in order is decoded where it arrives: nothing waits in a buffer.
            assert metrics["stages"]["jitter_buffer"]["start_ms"] > -10
        await until_idle(url)
        tasks = {task.get_name() for task in asyncio.all_tasks()}
        assert not [name for name in tasks if name.startswith(("call-", "audio-receive"))]


async def test_a_killed_engine_fails_the_response_and_the_next_turn_is_answered() -> None:
    overrides = {"engine.isolation": "process", "engine.restart_backoff_seconds": 0.1}
    async with running_server(**overrides) as url, live_call(url) as call:
        call.say("librivox_0870.wav")
        await call.event("output_audio_buffer.started")
        (engine,) = engine_processes()
        os.kill(engine.pid, signal.SIGKILL)
        done = await call.event("response.done")
        assert done["response"]["status"] == "failed"
        assert done["response"]["status_details"]["error"]["code"] == "engine_lost"
        assert await call.is_alive()
        await call.event("output_audio_buffer.stopped")
        call.say("f1_rms.wav")
        assert (await call.event("response.done", 2))["response"]["status"] == "completed"
    assert engine_processes() == []


async def test_a_client_that_vanishes_frees_its_slot() -> None:
    async with running_server() as url:
        async with live_call(url) as call:
            assert await num_calls(url) == 1
            call.peer._location = None  # no DELETE: only DTLS tells the server
        await until_idle(url)


async def test_a_server_that_stops_hangs_up_its_calls() -> None:
    async with running_server() as url:
        call_context = live_call(url)
        call = await call_context.__aenter__()
        await call.event("session.created")
    async with asyncio.timeout(10):
        while call.ended is None:  # noqa: ASYNC110 - set by a callback of aiortc
            await asyncio.sleep(0.05)
    await call_context.__aexit__(None, None, None)


async def test_a_call_that_lasts_too_long_is_ended() -> None:
    async with running_server(**{"server.max_call_seconds": 1}) as url, live_call(url) as call:
        await until_idle(url)
        assert call.events[0]["type"] == "session.created"
