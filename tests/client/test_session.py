"""A whole call against a stand-in on loopback: what is measured, what is saved, and how a call can go wrong."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from aiohttp import web
from av import AudioFrame

from model.interface import Pcm16
from rtc_server.client.errors import CallError
from rtc_server.client.hearing import HEARD_RATE
from rtc_server.client.listener import Listener
from rtc_server.client.recording import SAMPLE_RATE, Recording, recording_from_pcm
from rtc_server.client.session import CallPlan, hold_call
from rtc_server.client.track import SpeakingTrack
from tests.client.standin import Script, http_server, standin, tone

QUESTION_MS = 300


def question() -> Recording:
    edge = np.zeros(SAMPLE_RATE // 10, np.int16)
    return recording_from_pcm("question", np.concatenate([edge, tone(QUESTION_MS), edge]))


@dataclass
class Spy:
    """Frames as the track gave them out and as the listener got them: (position, monotonic seconds)."""

    sent: list[tuple[int, float, Pcm16]] = field(default_factory=list)
    heard: list[tuple[int, float, Pcm16]] = field(default_factory=list)

    def latencies_ms(self) -> list[float]:
        """From the last loud sample of each tone sent to the first of the next tone heard, counted by hand."""
        ends = [at for _, at, _ in _tones(self.sent, SAMPLE_RATE, last=True)]
        starts = [at + offset / HEARD_RATE for offset, at, _ in _tones(self.heard, HEARD_RATE, last=False)]
        return [(start - end) * 1e3 for end, start in zip(ends, starts, strict=True)]


def _tones(frames: list[tuple[int, float, Pcm16]], rate: int, *, last: bool) -> list[tuple[int, float, int]]:
    """(offset in the frame, time of the frame, position) of the first or last loud sample of each tone."""
    loud = []
    for position, at, pcm in frames:
        offsets = np.flatnonzero(np.abs(pcm.astype(np.int32)) > 200)
        if len(offsets):
            loud.append((int(offsets[-1 if last else 0]), at, position))
    edges = loud[::-1] if last else loud
    kept = [edges[0]]
    for before, edge in pairwise(edges):
        if abs(edge[2] - before[2]) > rate // 5:
            kept.append(edge)
    return kept[::-1] if last else kept


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    seen = Spy()
    recv, receive = SpeakingTrack.recv, Listener.receive

    async def spied_recv(track: SpeakingTrack) -> AudioFrame:
        frame = await recv(track)
        pcm = frame.to_ndarray().reshape(-1).astype(np.int16)
        seen.sent.append((frame.pts or 0, asyncio.get_running_loop().time(), pcm))
        return frame

    class SpiedListener(Listener):
        def receive(self, pcm: Pcm16, position: int, at: float) -> None:
            seen.heard.append((position, at, pcm))
            receive(self, pcm, position, at)

    monkeypatch.setattr(SpeakingTrack, "recv", spied_recv)
    monkeypatch.setattr("rtc_server.client.session.Listener", SpiedListener)
    return seen


async def test_a_known_delay_is_measured(spy: Spy) -> None:
    """The latency is what the frames themselves say. It holds the stand-in's delay and its receive buffer of 80 ms."""
    async with standin(Script(delays_s=[0.45, 0.8])) as (url, notes):
        report = await hold_call(CallPlan(url, [question()] * 2, keep_audio=True))
    latencies = [turn.response_latency_ms for turn in report.turns]
    assert latencies == pytest.approx(spy.latencies_ms(), abs=25)
    for latency, delay in zip(latencies, notes.delays_ms, strict=True):
        assert latency is not None
        assert latency > delay + 40
    for turn, reply in zip(report.turns, report.replies, strict=True):
        assert turn.reply_duration_ms == pytest.approx(400, abs=15)
        assert len(reply) / HEARD_RATE * 1e3 == pytest.approx(turn.reply_duration_ms + 200, abs=1)
        assert not turn.interrupted
        assert turn.stages == {"endpoint": {"start_ms": 0.0, "end_ms": 300.0}}
    assert [turn.user_transcript for turn in report.turns] == ["question 0", "question 1"]
    assert {turn.reply_transcript for turn in report.turns} == {"one two"}
    assert report.packets_lost == 0
    assert report.packets["received"] > 100
    assert notes.hung_up == ["rtc_standin"]


async def test_the_next_recording_cuts_into_the_reply() -> None:
    async with standin(Script(delays_s=[0.45], reply_ms=3_000)) as (url, _):
        report = await hold_call(CallPlan(url, [question(), question()], interrupt_after_ms=500))
    first, last = report.turns
    assert first.interrupted
    assert first.interruption_stop_ms is not None
    assert first.interruption_stop_ms > 80  # two receive buffers; how fast is the server's affair
    assert first.reply_duration_ms is not None
    assert first.reply_duration_ms < 2_000
    assert (first.heard_transcript, first.heard_ms) == ("one", 700)
    assert not last.interrupted
    assert last.interruption_stop_ms is None
    assert last.reply_duration_ms == pytest.approx(3_000, abs=20)


async def test_a_reply_that_ends_before_the_interruption_is_not_cut_off() -> None:
    async with standin() as (url, _):
        report = await hold_call(CallPlan(url, [question(), question()], interrupt_after_ms=5_000))
    assert [turn.interrupted for turn in report.turns] == [False, False]
    assert all(turn.is_answered for turn in report.turns)


async def test_a_reply_that_never_comes_is_given_up() -> None:
    async with standin(Script(replies=False)) as (url, notes):
        with pytest.raises(CallError, match="sent nothing for 1 s while waiting for a reply"):
            await hold_call(CallPlan(url, [question()], timeout_s=1.0))
    assert notes.hung_up == ["rtc_standin"]


async def test_a_server_that_ends_the_call_is_said() -> None:
    async with standin(Script(closes_after_voice=True)) as (url, _):
        with pytest.raises(CallError, match=r"server (ended the call|closed the event channel)"):
            await hold_call(CallPlan(url, [question()]))


async def test_an_event_that_makes_no_sense_is_said() -> None:
    async with standin(Script(replies=False, extra_events=[{"type": "response.created"}])) as (url, _):
        with pytest.raises(CallError, match=r"'response\.created' event that makes no sense"):
            await hold_call(CallPlan(url, [question()]))


async def test_a_cancelled_call_hangs_up() -> None:
    async with standin() as (url, notes):
        call = asyncio.create_task(hold_call(CallPlan(url, [question()])))
        await asyncio.wait({call, asyncio.create_task(notes.heard.wait())}, return_when=asyncio.FIRST_COMPLETED)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert notes.hung_up == ["rtc_standin"]


async def test_progress_is_told_while_the_call_goes_on() -> None:
    seen: list[tuple[bool, bool]] = []
    async with standin() as (url, _):
        await hold_call(
            CallPlan(url, [question()]),
            lambda turns: seen.append((bool(turns and turns[0].user_transcript), bool(turns and turns[0].is_over))),
        )
    assert (True, False) in seen


class TestRefusals:
    async def refused(self, create: object) -> str:
        async with http_server(create) as url:
            with pytest.raises(CallError) as caught:
                await hold_call(CallPlan(url, [question()], timeout_s=2.0))
        return caught.value.message.replace(url, "URL")

    async def test_full(self) -> None:
        async def create(request: web.Request) -> web.Response:
            body = {"error": {"message": "All 10 call slots are taken.", "code": "server_full"}}
            return web.json_response(body, status=503, headers={"Retry-After": "7"})

        assert await self.refused(create) == "URL takes no call now: All 10 call slots are taken; try again in 7 s."

    async def test_an_error_without_json(self) -> None:
        async def create(request: web.Request) -> web.Response:
            return web.Response(status=502, text="Bad gateway\n<html>")

        assert await self.refused(create) == "URL refused the call with HTTP 502: Bad gateway."

    async def test_an_answer_that_is_not_sdp(self) -> None:
        async def create(request: web.Request) -> web.Response:
            return web.Response(status=201, text="hello", headers={"Location": "/v1/realtime/calls/x"})

        assert await self.refused(create) == "URL sent an answer that is not usable SDP."

    async def test_an_answer_without_a_location(self) -> None:
        async def create(request: web.Request) -> web.Response:
            return web.Response(status=201, text="hello")

        assert "without a Location header" in await self.refused(create)

    async def test_a_server_that_does_not_answer(self) -> None:
        async def create(request: web.Request) -> web.Response:
            await asyncio.sleep(30)
            return web.Response()

        assert await self.refused(create) == "URL did not answer within 2 s."
