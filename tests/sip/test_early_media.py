"""What a caller hears before the call is accepted."""

from __future__ import annotations

import asyncio
import wave
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.support.sip_words import body_of
from rtc_server.calls.early_media import EarlyMediaPlayer, read_early_media
from rtc_server.errors import ConfigError
from tests.sip.test_control import Application, application


def greeting(path: Path, seconds: float = 1.0, rate: int = 16_000) -> str:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        times = np.arange(int(seconds * rate)) / rate
        file.writeframes((8_000 * np.sin(2 * np.pi * 300 * times)).astype("<i2").tobytes())
    return str(path)


def test_a_ringing_tone_goes_on_and_a_greeting_ends(tmp_path: Path) -> None:
    ringing = read_early_media("ringback")
    assert ringing is not None
    player = EarlyMediaPlayer(ringing, 24_000)
    loud = [bool(np.abs(frame).max() > 1_000) for _ in range(500) if (frame := player.next_frame()) is not None]
    assert len(loud) == 500
    assert (loud[10], loud[100], loud[260], loud[400]) == (True, False, True, False)  # 1 s of tone in every 5
    once = read_early_media(greeting(tmp_path / "hello.wav"))
    assert once is not None
    player = EarlyMediaPlayer(once, 24_000)
    frames = [player.next_frame() for _ in range(60)]
    assert all(frame is not None and len(frame) == 480 for frame in frames[:50])
    assert frames[55] is None


@pytest.mark.parametrize("setting", ["/nowhere.wav", "long.wav", "stereo.wav", "text.wav"])
def test_what_cannot_be_played_is_found_at_the_start(tmp_path: Path, setting: str) -> None:
    path = setting if setting.startswith("/") else str(tmp_path / setting)
    if setting == "long.wav":
        greeting(tmp_path / setting, seconds=61.0, rate=8_000)
    elif setting == "stereo.wav":
        with wave.open(path, "wb") as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(8_000)
            file.writeframes(b"\0" * 64)
    elif setting == "text.wav":
        Path(path).write_text("hello", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"sip\.early_media"):
        read_early_media(path)
    assert read_early_media("") is None


async def ringing(app: Application) -> str:
    """A call that rings, its media connected."""
    call_id = await app.ring()
    progress = await app.phone.status(183, b"INVITE")
    await app.media.accept(body_of(progress).decode())
    await app.media.until(lambda: app.media.num_loud > 5)
    return call_id


async def no_calls(app: Application) -> None:
    """Until the server holds none."""
    async with asyncio.timeout(10.0):
        while await app.num_calls():  # noqa: ASYNC110 - asked over HTTP
            await asyncio.sleep(0.05)


async def heard(sideband: Any, seconds: float) -> list[str]:
    """Types of the events that come within so long."""
    kinds: list[str] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                kinds.append((await sideband.recv()).type)
    return kinds


async def test_the_tone_is_heard_until_the_call_is_accepted_and_nobody_is_answered_before(tmp_path: Path) -> None:
    async with application(tmp_path, **{"sip.early_media": "ringback"}) as app:
        call_id = await ringing(app)
        assert not any(b" 200 " in message[:20] for message in app.phone.received)
        async with app.client.realtime.connect(model="echo", extra_query={"call_id": call_id}) as sideband:
            assert (await sideband.recv()).type == "session.created"
            app.media.say("f0_rms.wav")
            assert await heard(sideband, 3.0) in ([], ["conversation.created"])  # the caller is not heard yet
            await app.client.realtime.calls.accept(call_id, type="realtime", instructions="Be brief.")
            ok = await app.phone.answered()
            progress = await app.phone.status(183, b"INVITE")
            assert body_of(ok) == body_of(progress)
            app.media.say("f0_rms.wav")
            async with asyncio.timeout(20.0):
                while (await sideband.recv()).type != "output_audio_buffer.started":
                    pass
            await app.client.realtime.calls.hangup(call_id)
        await app.phone.request(b"BYE")


async def test_a_rejected_call_gives_its_place_back(tmp_path: Path) -> None:
    async with application(tmp_path, **{"sip.early_media": greeting(tmp_path / "hello.wav")}) as app:
        call_id = await ringing(app)
        await app.client.realtime.calls.reject(call_id)
        assert b" 603 " in await app.phone.refused()
        await no_calls(app)


async def test_a_caller_who_gives_up_gives_the_place_back(tmp_path: Path) -> None:
    async with application(tmp_path, **{"sip.early_media": "ringback"}) as app:
        invite = app.phone.invite(await app.media.offer())
        await app.event()
        await app.phone.status(183, b"INVITE")
        app.phone.cancel(invite)
        assert b" 487 " in await app.phone.refused()
        await no_calls(app)
