"""The engine client over real hosts: events come back, crashes are survived, nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.backends.echo import EchoEngine
from model.interface import AudioDelta, EngineEvent, GenerateRequest, ResponseDone
from rtc_server.errors import EngineError
from rtc_server.inference.client import EngineClient, EngineSettings
from rtc_server.inference.process import ProcessEngineClient
from rtc_server.inference.thread import ThreadEngineClient

ECHO = EngineSettings("echo", {}, max_pending=4, restart_backoff_seconds=0.05)


class Inbox:
    """Collects the events of one response."""

    def __init__(self) -> None:
        self.events: list[EngineEvent] = []
        self.done = asyncio.Event()
        self.got_audio = asyncio.Event()

    def __call__(self, event: EngineEvent) -> None:
        self.events.append(event)
        if isinstance(event, AudioDelta):
            self.got_audio.set()
        if isinstance(event, ResponseDone):
            self.done.set()

    @property
    def last(self) -> ResponseDone:
        event = self.events[-1]
        assert isinstance(event, ResponseDone)
        return event

    @property
    def audio(self) -> np.ndarray:
        return np.concatenate([event.pcm for event in self.events if isinstance(event, AudioDelta)])


def request(response_id: str, seconds: float = 0.5, credit_ms: int = 10_000) -> GenerateRequest:
    rng = np.random.default_rng(7)
    pcm = rng.integers(-8000, 8000, int(16_000 * seconds), dtype=np.int16)
    return GenerateRequest("call", response_id, "turn", (), pcm, audio_credit_ms=credit_ms)


@pytest.fixture(params=[ThreadEngineClient, ProcessEngineClient], ids=["thread", "process"])
async def client(request: pytest.FixtureRequest) -> AsyncIterator[EngineClient]:
    engine: EngineClient = request.param(ECHO)
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture
async def process() -> AsyncIterator[ProcessEngineClient]:
    engine = ProcessEngineClient(ECHO)
    await engine.start()
    yield engine
    await engine.close()


async def finished(inbox: Inbox) -> ResponseDone:
    await asyncio.wait_for(inbox.done.wait(), 20)
    return inbox.last


async def test_a_response_comes_back_whole(client: EngineClient) -> None:
    inbox, asked = Inbox(), request("r1")
    client.submit(asked, inbox)
    assert (await finished(inbox)).status == "completed"
    np.testing.assert_array_equal(inbox.audio, asked.audio)
    assert client.num_live_responses == 0


async def test_credit_bounds_what_is_produced(client: EngineClient) -> None:
    inbox = Inbox()
    client.submit(request("r1", seconds=3.0, credit_ms=200), inbox)
    await asyncio.wait_for(inbox.got_audio.wait(), 20)
    other = Inbox()
    client.submit(request("r2", seconds=0.1), other)
    await finished(other)  # by now the first one has long used its credit
    assert len(inbox.audio) <= 16 * 200
    client.grant("r1", 10_000)
    assert (await finished(inbox)).status == "completed"
    assert len(inbox.audio) == 48_000


async def test_a_cancelled_response_says_nothing_more(client: EngineClient) -> None:
    inbox, other = Inbox(), Inbox()
    client.submit(request("r1", seconds=3.0, credit_ms=200), inbox)
    client.cancel("r1")
    client.submit(request("r2", seconds=0.1), other)
    await finished(other)
    assert inbox.events == []


async def test_the_engine_is_told_that_a_held_response_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[str] = []
    monkeypatch.setattr(EchoEngine, "release", lambda engine, response_id: released.append(response_id))
    client = ThreadEngineClient(ECHO)
    await client.start()
    ended, held = Inbox(), Inbox()
    client.submit(request("r1"), ended)
    await finished(ended)
    client.submit(replace(request("r2", seconds=1.0, credit_ms=100), is_held=True), held)
    for response_id in ("r1", "r2", "nobody"):
        client.release(response_id)
    client.grant("r2", 2_000)
    assert (await finished(held)).status == "completed"
    await client.close()
    assert released == ["r2"]


async def test_a_response_released_while_the_engine_loads_is_not_held_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[GenerateRequest] = []
    submit = EchoEngine.submit

    def keep(engine: EchoEngine, asked: GenerateRequest) -> None:
        submitted.append(asked)
        submit(engine, asked)

    monkeypatch.setattr(EchoEngine, "submit", keep)
    client, first, second = ThreadEngineClient(ECHO), Inbox(), Inbox()
    for number, inbox in enumerate((first, second)):
        client.submit(replace(request(f"r{number}"), is_held=True), inbox)
    client.release("r0")
    await client.start()
    await finished(first)
    await finished(second)
    await client.close()
    assert [(asked.response_id, asked.is_held) for asked in submitted] == [("r0", False), ("r1", True)]


async def test_more_responses_than_allowed_are_refused_and_the_others_live(client: EngineClient) -> None:
    inboxes = [Inbox() for _ in range(5)]
    for number, inbox in enumerate(inboxes):
        client.submit(request(f"r{number}", seconds=2.0, credit_ms=100), inbox)
    refused = await finished(inboxes[4])
    assert refused.status == "failed"
    assert refused.fault is not None
    assert refused.fault.code == "engine_busy"
    for number in range(4):
        client.grant(f"r{number}", 5_000)
    for inbox in inboxes[:4]:
        assert (await finished(inbox)).status == "completed"


async def test_an_invalid_request_fails_alone(client: EngineClient) -> None:
    inbox = Inbox()
    client.submit(GenerateRequest("call", "bad", "turn", ()), inbox)  # neither audio nor items
    done = await finished(inbox)
    assert done.status == "failed"
    assert done.fault is not None
    assert done.fault.code == "invalid_request"


STANDS_STILL = """
import sys, threading
from pathlib import Path
import model.backends.echo as echo

step, flag = echo.EchoEngine.step, Path({flag!r})

def stand_still(engine, now):
    if engine.has_work and not flag.exists():
        flag.touch()
        threading.Event().wait()
    return step(engine, now)

echo.EchoEngine.step = stand_still
"""


async def test_an_engine_that_stands_still_is_ended_and_comes_back(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As behind a GPU that does not answer: the first step with work never returns."""
    (tmp_path / "sitecustomize.py").write_text(STANDS_STILL.format(flag=str(tmp_path / "stood")))
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    settings = replace(ECHO, step_timeout_seconds=1.0, environment=environment)
    engine = ProcessEngineClient(settings)
    await engine.start()
    try:
        inbox, later = Inbox(), Inbox()
        engine.submit(request("r1"), inbox)
        lost = await finished(inbox)
        assert lost.fault is not None
        assert lost.fault.code == "engine_lost"
        engine.submit(request("r2"), later)
        assert (await finished(later)).status == "completed"
        assert engine.restarts == 1
        assert "stand_still" in capfd.readouterr().err, "it says where it stood"
    finally:
        await engine.close()


async def test_an_engine_that_waits_for_work_is_not_ended() -> None:
    engine = ProcessEngineClient(replace(ECHO, step_timeout_seconds=1.0))
    await engine.start()
    try:
        for name in ("r1", "r2"):
            inbox = Inbox()
            engine.submit(request(name), inbox)
            assert (await finished(inbox)).status == "completed"
            await asyncio.sleep(2.5)
        assert engine.restarts == 0
    finally:
        await engine.close()


async def test_a_killed_engine_fails_its_responses_and_comes_back(process: ProcessEngineClient) -> None:
    inbox, later = Inbox(), Inbox()
    process.submit(request("r1", seconds=3.0, credit_ms=200), inbox)
    await asyncio.wait_for(inbox.got_audio.wait(), 20)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    lost = await finished(inbox)
    assert lost.status == "failed"
    assert lost.fault is not None
    assert lost.fault.code == "engine_lost"
    assert not process.is_ready
    process.submit(request("r2"), later)  # waits for the new engine
    assert (await finished(later)).status == "completed"
    assert process.restarts == 1


async def test_an_engine_that_cannot_be_built_says_why() -> None:
    engine = ProcessEngineClient(EngineSettings("no-such-backend", {}))
    with pytest.raises(EngineError, match="no-such-backend"):
        await engine.start()
    await engine.close()


async def test_closing_twice_and_before_the_start_is_fine() -> None:
    engine = ProcessEngineClient(ECHO)
    await engine.close()
    engine = ThreadEngineClient(ECHO)
    await engine.start()
    await engine.close()
    await engine.close()
