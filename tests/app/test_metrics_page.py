"""`GET /metrics` of a whole server: three kinds of process, a call that runs, one page."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import aiohttp
import pytest

from tests.support.live_call import live_call
from tests.support.server_process import ServerProcess, server_process


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with server_process("echo", {"server.media_workers": 1, "turns.vad": "webrtcvad"}) as running:
        yield running


async def values_of(server: ServerProcess) -> dict[str, float]:
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/metrics") as reply:
        text = await reply.text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


async def test_a_call_is_measured_while_it_runs(server: ServerProcess) -> None:
    async with live_call(server.url) as call:
        call.say("f0_rms.wav")
        await call.event("output_audio_buffer.stopped")
        async with asyncio.timeout(10):
            while True:  # media is counted once a second
                values = await values_of(server)
                if values["rtc_server_jitter_buffer_delay_seconds_count"] >= 2:
                    break
                await asyncio.sleep(0.2)
    assert values["rtc_server_calls"] == 1
    assert values["rtc_server_max_calls"] > 1
    assert values["rtc_server_engine_ready"] == 1
    assert values['rtc_server_rtp_packets_in_total{kind="received"}'] > 50
    assert values['rtc_server_input_audio_seconds_total{kind="decoded"}'] > 1
    assert values["rtc_server_voice_backlog_seconds_count"] >= 1
    assert values["rtc_server_event_backlog_bytes_count"] > 5
    assert values["rtc_server_response_latency_seconds_count"] == 1
    for stage in ("jitter_buffer", "endpoint", "queue", "playout"):
        assert values[f'rtc_server_turn_stage_seconds_count{{stage="{stage}"}}'] == 1


async def test_the_engine_tells_from_its_own_process(server: ServerProcess) -> None:
    async with live_call(server.url) as call:
        call.say("f0_rms.wav")
        await call.event("output_audio_buffer.stopped")
    values = await values_of(server)
    assert values["rtc_server_engine_audio_seconds_total"] > 1
    assert values["rtc_server_engine_step_seconds_count"] > 5
    assert values["rtc_server_engine_batch_responses_count"] > 5
    assert values["rtc_server_engine_max_responses"] == 64
    assert values['rtc_server_engine_responses{state="running"}'] == 0
    assert values["rtc_server_engine_restarts_total"] == 0


async def test_every_process_tells_its_own_figures(server: ServerProcess) -> None:
    values = await values_of(server)
    for process in ("signaling", "media-0", "engine"):
        assert values[f'rtc_server_rss_bytes{{process="{process}"}}'] > 10e6
        assert values[f'rtc_server_open_fds{{process="{process}"}}'] > 3
        assert values[f'rtc_server_cpu_seconds_total{{process="{process}"}}'] > 0
    assert values['rtc_server_event_loop_lag_seconds_count{process="media-0"}'] > 0
    names = {re.split(r"[{ ]", name)[0] for name in values}
    assert not [name for name in names if name.endswith("_created")]
