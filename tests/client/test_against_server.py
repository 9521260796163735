"""The client against the real server with the echo backend: what comes back is what was said."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from model.interface import Pcm16
from rtc_server.client.errors import CallError
from rtc_server.client.hearing import HEARD_RATE
from rtc_server.client.listener import VOICED_DBFS, window_levels
from rtc_server.client.recording import SAMPLE_RATE, Recording, load_recording
from rtc_server.client.session import CallPlan, hold_call
from tests.support.running_server import running_server

SPEECH = Path("tests/data/speech")
BUSY = 0.35  # share of a reply that may be lost or doubled when the machine stalls: this is no measurement


def recordings(*names: str) -> list[Recording]:
    return [load_recording(SPEECH / name) for name in names]


def voiced_ms(pcm: Pcm16, rate: int) -> float:
    """How much of it is voice; a busy machine may put holes between."""
    return float(np.count_nonzero(window_levels(pcm, rate // 100) > VOICED_DBFS) * 10)


async def calls_alive(url: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/info") as reply:
        return int((await reply.json())["calls"])


async def test_two_turns_are_answered_and_measured() -> None:
    said = recordings("f0_rms.wav", "f2_rms.wav")
    async with running_server() as url:
        report = await hold_call(CallPlan(url, said, keep_audio=True))
        assert await calls_alive(url) == 0
    assert report.packets_lost == 0
    assert report.warnings == ()
    assert len(report.replies) == 2
    for turn, recording, reply in zip(report.turns, said, report.replies, strict=True):
        assert turn.status == "completed"
        assert voiced_ms(reply, HEARD_RATE) == pytest.approx(voiced_ms(recording.pcm, SAMPLE_RATE), rel=BUSY)
        assert turn.response_latency_ms is not None
        assert turn.server_latency_ms is not None
        # The caller waits longer than the server knows: its own receive buffer and both ways.
        assert turn.response_latency_ms > turn.server_latency_ms
        assert {"endpoint", "queue", "first_audio", "playout"} <= turn.stages.keys()


async def test_an_interruption_stops_the_reply_and_the_next_turn_is_answered() -> None:
    said = recordings("librivox_0880.wav", "f0_rms.wav")
    async with running_server() as url:
        report = await hold_call(CallPlan(url, said, interrupt_after_ms=700, keep_audio=True))
    first, last = report.turns
    assert first.interrupted
    assert first.interruption_stop_ms is not None
    assert first.interruption_stop_ms > 0
    assert voiced_ms(report.replies[0], HEARD_RATE) < voiced_ms(said[0].pcm, SAMPLE_RATE)
    assert first.heard_ms is not None
    assert first.heard_ms >= 700
    assert last.status == "completed"
    assert voiced_ms(report.replies[1], HEARD_RATE) == pytest.approx(voiced_ms(said[1].pcm, SAMPLE_RATE), rel=BUSY)


async def test_a_full_server_says_when_to_come_back() -> None:
    async with running_server(**{"server.max_calls": 1}) as url:
        first = asyncio.create_task(hold_call(CallPlan(url, recordings("f0_rms.wav"))))
        while not await calls_alive(url):
            await asyncio.wait({first}, timeout=0.05)
            assert not first.done()
        with pytest.raises(CallError, match=r"takes no call now: .+ Try again in \d+ s\.$"):
            await hold_call(CallPlan(url, recordings("f0_rms.wav")))
        report = await first
    assert report.turns[0].is_answered


async def test_a_call_that_is_cancelled_is_gone_from_the_server() -> None:
    async with running_server() as url:
        call = asyncio.create_task(hold_call(CallPlan(url, recordings("f0_rms.wav"))))
        while not await calls_alive(url):
            await asyncio.wait({call}, timeout=0.05)
            assert not call.done()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await calls_alive(url) == 0
