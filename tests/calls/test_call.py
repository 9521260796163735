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


async def pressed(engine: ThreadEngineClient, keys: str, **settings: object) -> tuple[list[str], LoopbackTransport]:
    """A call in which keys were pressed; their events, and the transport."""
    values = {"engine.backend": "echo", **{name.replace("__", "."): value for name, value in settings.items()}}
    loaded = load_settings(Path("config/server.toml"), values)
    async with asyncio.TaskGroup() as tasks:
        registry = CallRegistry(loaded, engine, lambda on_answer: EnergyVoiceDetector(), tasks)
        transport = LoopbackTransport()
        call = registry.reserve().start(transport)
        await until(lambda: transport.frames)
        for key in keys:
            call.on_digit(key, asyncio.get_running_loop().time())
        if loaded.session.dtmf_to_model:
            await until(lambda: any(event["type"] == "response.done" for event in transport.events))
        await registry.close(5.0)
    events = [e["event"] for e in transport.events if e["type"] == "input_audio_buffer.dtmf_event_received"]
    return events, transport


async def test_keys_are_told_to_the_client(engine: ThreadEngineClient) -> None:
    keys, transport = await pressed(engine, "159#")
    assert keys == ["1", "5", "9", "#"]
    event = next(e for e in transport.events if e["type"] == "input_audio_buffer.dtmf_event_received")
    assert isinstance(event["received_at"], int)
    assert event["event_id"]
    assert not any(event["type"] == "conversation.item.added" for event in transport.events)


async def test_keys_become_words_of_the_user_where_that_is_wanted(engine: ThreadEngineClient) -> None:
    _, transport = await pressed(engine, "159#", session__dtmf_to_model=True)
    items = [e["item"] for e in transport.events if e["type"] == "conversation.item.added"]
    assert items[0]["role"] == "user"
    assert "1 5 9 #" in items[0]["content"][0]["text"]
    assert any(event["type"] == "response.created" for event in transport.events)


async def test_keys_are_not_sent_where_nobody_takes_them(engine: ThreadEngineClient) -> None:
    settings = load_settings(Path("config/server.toml"), {"engine.backend": "echo"})
    async with asyncio.TaskGroup() as tasks:
        registry = CallRegistry(settings, engine, lambda on_answer: EnergyVoiceDetector(), tasks)
        transport = LoopbackTransport()
        registry.reserve().start(transport)
        await until(lambda: transport.frames)
        transport.send('{"type": "rtc_server.dtmf.send", "digits": "12"}')
        transport.send('{"type": "rtc_server.dtmf.send", "digits": "one"}')
        await until(lambda: sum(event["type"] == "error" for event in transport.events) == 2)
        await registry.close(5.0)
    codes = [event["error"]["code"] for event in transport.events if event["type"] == "error"]
    assert codes[0] == "dtmf_not_negotiated"
