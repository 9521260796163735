"""The calls of one process: how many there may be, and that a bug in one ends that one, logged once, and no other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rtc_server.calls.registry import CallRegistry
from rtc_server.config import load_settings
from rtc_server.errors import ServerFullError
from rtc_server.inference.client import EngineSettings
from rtc_server.inference.thread import ThreadEngineClient
from rtc_server.transports.loopback import LoopbackTransport
from rtc_server.turns.vad import EnergyVoiceDetector
from tests.support.virtual_call import tone


@pytest.fixture
async def engine() -> AsyncIterator[ThreadEngineClient]:
    client = ThreadEngineClient(EngineSettings("echo", {}))
    await client.start()
    yield client
    await client.close()


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - several kinds of conditions, polled
            await asyncio.sleep(0.01)


def speak(transport: LoopbackTransport) -> None:
    """A turn and its endpoint, delivered at once."""
    transport.say(tone(600))
    transport.say(np.zeros(16_000, np.int16))


async def test_a_process_takes_no_more_calls_than_the_engine_serves(
    engine: ThreadEngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings(Path("config/server.toml"), {"engine.backend": "echo"})
    async with asyncio.TaskGroup() as tasks:
        registry = CallRegistry(settings, engine, lambda on_answer: EnergyVoiceDetector(), tasks)
        assert engine.max_calls is None
        monkeypatch.setattr(engine, "_info", replace(engine.info, max_calls=1))
        call = registry.reserve().start(LoopbackTransport())
        with pytest.raises(ServerFullError, match="engine"):
            registry.reserve()
        await call.hang_up()
        await until(lambda: len(registry) == 0)
        registry.reserve().release()


@pytest.mark.parametrize("method", ["receive_engine", "receive_audio", "pull_frame"])
async def test_a_bug_ends_its_call_and_no_other(
    engine: ThreadEngineClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    settings = load_settings(Path("config/server.toml"), {"engine.backend": "echo"})
    async with asyncio.TaskGroup() as tasks:
        registry = CallRegistry(settings, engine, lambda on_answer: EnergyVoiceDetector(), tasks)
        broken, sound = LoopbackTransport(), LoopbackTransport()
        call = registry.reserve().start(broken)
        registry.reserve().start(sound)
        await until(lambda: broken.frames and sound.frames)

        def bug(*arguments: object) -> None:
            raise RuntimeError("a bug")

        with caplog.at_level(logging.ERROR):
            monkeypatch.setattr(call.core, method, bug)
            if method == "receive_audio":
                with pytest.raises(RuntimeError):
                    speak(broken)  # a real transport receives inside its own task
                broken.abort(RuntimeError("a bug"))
            elif method == "receive_engine":
                speak(broken)
            await until(lambda: len(registry) == 1)
        assert [record.message for record in caplog.records] == ["call failed"]
        assert engine.is_ready
        speak(sound)
        await until(lambda: any(event["type"] == "output_audio_buffer.stopped" for event in sound.events))
        await registry.close(5.0)
