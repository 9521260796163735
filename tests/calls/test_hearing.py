"""What a call hears: whose echo is cancelled, what a session's `noise_reduction` changes, and that turns come of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.support.echo_paths import EchoPath, echo_of, level, through_codec, to_pcm
from model.interface import EngineInfo, Pcm16
from rtc_server.audio.cleaning import is_cleaning_available
from rtc_server.calls import hearing, sessions
from rtc_server.calls.call import Call
from rtc_server.calls.hearing import Hearing
from rtc_server.calls.sessions import CallOptions, capabilities, initial_session, starting_session
from rtc_server.config import Settings, load_settings
from rtc_server.errors import ConfigError, ProtocolError
from rtc_server.inference.client import EngineSettings
from rtc_server.inference.thread import ThreadEngineClient
from rtc_server.media import parts
from rtc_server.transports.loopback import LoopbackTransport
from rtc_server.turns.detector import TurnDetector, TurnDetectorConfig
from rtc_server.turns.events import SpeechStarted, VoiceOnset
from rtc_server.turns.vad import EnergyVoiceDetector
from rtc_server.turns.vad_factory import create_detector
from tests.support.recordings import pink_noise, recording, silero_path, voiced_range

needs_library = pytest.mark.skipif(not is_cleaning_available(), reason="the extra `cleaning` is not installed")

MS = 16
FRAME = 20 * MS
ENGINE = EngineInfo("scripted", 16_000, 1, gives_transcripts=True)


class Line(LoopbackTransport):
    """A transport that is only asked what it is."""

    playout_sample_rate = 16_000

    def __init__(self, *, is_socket: bool = False) -> None:
        self.carries_audio_in_events = is_socket


def settings_with(**overrides: object) -> Settings:
    return load_settings(Path("config/server.toml"), {"turns.vad": "webrtcvad", "engine.backend": "echo", **overrides})


def hearing_of(settings: Settings, *, is_telephone: bool = False, is_socket: bool = False) -> Hearing:
    session = initial_session(settings, ENGINE)
    vad = create_detector("gated", 2, silero_path())
    return Hearing(settings, session, vad, Line(is_socket=is_socket), is_telephone=is_telephone)


def begun(heard_by: Hearing, microphone: Pcm16, sent: Pcm16) -> list[tuple[type, int]]:
    """Onsets and turns, with the sample at which each was known."""
    turns = TurnDetector(heard_by.vad, TurnDetectorConfig(), heard_by.is_echo)
    found: list[tuple[type, int]] = []
    for at in range(0, len(microphone) - FRAME + 1, FRAME):
        heard_by.sent(sent[at : at + FRAME])
        for event in turns.receive_audio(heard_by.heard(microphone[at : at + FRAME])):
            if isinstance(event, VoiceOnset | SpeechStarted):
                found.append((type(event), at + FRAME))
    return found


def reply() -> Pcm16:
    return np.concatenate([recording(name) for name in ("librivox_0890", "f1_slt", "librivox_0870")])


def microphone(path: EchoPath, user: Pcm16 | None = None, at_ms: int = 0) -> Pcm16:
    samples = echo_of(reply(), path) + pink_noise(len(reply()), 10.0)
    if user is not None:
        samples[at_ms * MS : at_ms * MS + len(user)] += user * (1_500 / level(user))
    return through_codec(to_pcm(samples), path.codec)


@needs_library
@pytest.mark.parametrize(
    "path",
    [
        EchoPath(gain_db=-15, delay_ms=150),
        EchoPath(gain_db=-15, delay_ms=150, codec="pcmu"),
        EchoPath(gain_db=-6, delay_ms=150, rt60_seconds=0.5, direct_db=0),
        EchoPath(gain_db=-10, delay_ms=150, distortion=1.0),
    ],
    ids=lambda path: path.name,
)
def test_the_echo_of_a_reply_on_a_telephone_pauses_nothing(path: EchoPath) -> None:
    assert begun(hearing_of(settings_with(), is_telephone=True), microphone(path), reply()) == []


@needs_library
def test_without_cancelling_a_live_room_interrupts_the_reply() -> None:
    path = EchoPath(gain_db=-6, delay_ms=150, rt60_seconds=0.5, direct_db=0)
    assert begun(hearing_of(settings_with()), microphone(path), reply())


@needs_library
@pytest.mark.parametrize("name", ["f0_rms", "f3_rms", "go_forward_ten_meters"])
@pytest.mark.parametrize("codec", ["opus", "pcmu"])
def test_a_user_who_talks_over_the_echo_is_heard_at_once(name: str, codec: str) -> None:
    user, at_ms = recording(name), 5_000
    path = EchoPath(codec="pcmu" if codec == "pcmu" else "opus")
    found = begun(hearing_of(settings_with(), is_telephone=True), microphone(path, user, at_ms), reply())
    first = at_ms * MS + voiced_range(user)[0]
    assert next(known for kind, known in found if kind is SpeechStarted) - first < 400 * MS
    assert all(known > first - 100 * MS for _, known in found)


@needs_library
def test_whose_echo_is_cancelled() -> None:
    def cancels(wanted: str, **line: bool) -> bool:
        return hearing_of(settings_with(**{"audio.echo_cancellation": wanted}), **line).cancels_echo

    assert cancels("telephone", is_telephone=True)
    assert not cancels("telephone")
    assert cancels("all")
    assert not cancels("all", is_socket=True)
    assert not cancels("off", is_telephone=True)


@needs_library
def test_a_session_turns_it_on_and_off() -> None:
    settings = settings_with()
    heard_by = hearing_of(settings)
    session, can = initial_session(settings, ENGINE), capabilities(settings, ENGINE)
    found = []
    for wanted in ({"type": "near_field"}, {"type": "far_field"}, None):
        session = session.updated({"audio": {"input": {"noise_reduction": wanted}}}, can, voice_is_fixed=False)
        heard_by.update(session)
        found.append((heard_by.vad.suppresses_noise, heard_by.cancels_echo))
    assert found == [(True, False), (True, True), (False, False)]
    with pytest.raises(ProtocolError, match="noise_reduction"):
        session.updated({"audio": {"input": {"noise_reduction": {"type": "mid_field"}}}}, can, voice_is_fixed=False)


@needs_library
def test_no_sample_is_lost_when_cancelling_begins_and_ends() -> None:
    settings = settings_with()
    heard_by = hearing_of(settings)
    session, can = initial_session(settings, ENGINE), capabilities(settings, ENGINE)
    user = recording("f0_rms")[: 90 * FRAME]
    pieces = []
    for i in range(90):
        if i % 30 == 10:
            wanted = {"type": "far_field"} if i != 40 else None
            session = session.updated({"audio": {"input": {"noise_reduction": wanted}}}, can, voice_is_fixed=False)
            heard_by.update(session)
        pieces.append(heard_by.heard(user[i * FRAME : (i + 1) * FRAME]))
    heard = np.concatenate(pieces)
    late = [10 * MS * (at >= 10 * FRAME) + 10 * MS * (at >= 70 * FRAME) for at in range(len(user))]
    places = np.arange(len(user)) + np.array(late)
    is_here = places < len(heard)
    assert is_here.mean() > 0.99
    np.testing.assert_array_equal(heard[places[is_here]], user[is_here])


@needs_library
@pytest.mark.parametrize("kind", ["near_field", "far_field"])
def test_the_setting_is_what_sessions_start_with(kind: str) -> None:
    settings = settings_with(**{"audio.noise_suppression": kind})
    found = initial_session(settings, ENGINE).audio.input.noise_reduction
    assert found is not None
    assert found.type == kind
    assert hearing_of(settings).vad.suppresses_noise
    assert starting_session(settings, ENGINE, {"audio": {"input": {"noise_reduction": None}}}).audio.input == (
        initial_session(settings_with(), ENGINE).audio.input
    )


def test_without_the_package_it_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (hearing, sessions, parts):
        monkeypatch.setattr(module, "is_cleaning_available", lambda: False)
    assert not hearing_of(settings_with(), is_telephone=True).cancels_echo
    with pytest.raises(ProtocolError, match="cleaning"):
        starting_session(settings_with(), ENGINE, {"audio": {"input": {"noise_reduction": {"type": "near_field"}}}})
    for key, value in (("audio.echo_cancellation", "all"), ("audio.noise_suppression", "near_field")):
        with pytest.raises(ConfigError, match=rf"{key} needs .*cleaning"):
            parts.load_cleaning(settings_with(**{key: value}))
    parts.load_cleaning(settings_with())


@pytest.fixture
async def engine() -> AsyncIterator[ThreadEngineClient]:
    engine = ThreadEngineClient(EngineSettings("echo", {}))
    await engine.start()
    yield engine
    await engine.close()


@needs_library
async def test_a_client_of_a_running_call_turns_it_on(engine: ThreadEngineClient) -> None:
    transport = LoopbackTransport()
    call = Call(
        "rtc_1",
        settings_with(),
        transport,
        engine,
        lambda on_answer: EnergyVoiceDetector(),
        CallOptions(is_telephone=True),
    )
    assert call._hearing.cancels_echo
    running = asyncio.create_task(call.run())
    await asyncio.wait_for(call.connected.wait(), 5)
    patch = {"type": "realtime", "audio": {"input": {"noise_reduction": {"type": "near_field"}}}}
    transport.send(json.dumps({"type": "session.update", "session": patch}))
    updated = next(event for event in transport.events if event["type"] == "session.updated")
    assert updated["session"]["audio"]["input"]["noise_reduction"] == {"type": "near_field"}
    assert call._hearing.vad.suppresses_noise
    received = call._detector.samples_received
    transport.say(recording("f0_rms")[:FRAME])
    assert call._detector.samples_received == received + FRAME
    await call.hang_up()
    await running
