"""Settings do what they say: from a key to the part of the server that acts on it.

The values of `server`, `turns` and `webrtc` that change a call's behaviour are shown by the tests of those rooms;
here is the way from the settings file into them, and what only a real process can show.
"""

from __future__ import annotations

import asyncio
import logging
import os
from operator import attrgetter
from pathlib import Path
from typing import get_args

import psutil
import pytest
from annotated_types import Ge, Le

from model.backends.opens2s.options import BOUNDS, CHOICES, OpenS2SOptions
from model.interface import EngineInfo
from model.opens2s.repositories import REPOSITORIES
from model.weights import SMART_TURN
from rtc_server.app.server import create_engine_client
from rtc_server.calls.call import Call
from rtc_server.calls.sessions import initial_session, starting_session
from rtc_server.config import Settings, load_settings
from rtc_server.errors import ModelNotFoundError
from rtc_server.inference.client import EngineSettings
from rtc_server.inference.process import ProcessEngineClient
from rtc_server.inference.thread import ThreadEngineClient
from rtc_server.media.parts import turn_judge_factory, vad_factory
from rtc_server.media.turn_judges import TurnJudges
from rtc_server.network.sockets import MediaSockets
from rtc_server.paths import models_dir
from rtc_server.transports.loopback import LoopbackTransport
from rtc_server.transports.pacer import Pacer
from rtc_server.transports.webrtc import MediaResources, WebRtcOptions, WebRtcTransport
from rtc_server.turns.judge import NoTurnJudge
from rtc_server.turns.vad_gated import GatedVoiceDetector
from rtc_server.turns.vad_webrtc import WebRtcVoiceDetector


def settings_with(**overrides: object) -> Settings:
    return load_settings(Path("config/server.toml"), {"turns.vad": "webrtcvad", "engine.backend": "echo", **overrides})


def engine_settings(**overrides: object) -> EngineSettings:
    return create_engine_client(settings_with(**overrides))._settings


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("engine.nice", 3, "nice"),
        ("engine.cpu_affinity", (0,), "cpu_affinity"),
        ("engine.max_pending", 7, "max_pending"),
        ("engine.restart_backoff_seconds", 0.25, "restart_backoff_seconds"),
        ("engine.step_timeout_seconds", 2.5, "step_timeout_seconds"),
        ("engine.restart_backoff_max_seconds", 9.0, "restart_backoff_max_seconds"),
        ("engine.backend", "echo", "backend"),
        ("system.engine_huge_pages", False, "huge_pages"),
        ("logging.level", "debug", "log_style.level"),
        ("logging.format", "json", "log_style.format"),
    ],
)
def test_engine_keys_reach_the_engine_client(key: str, value: object, field: str) -> None:
    assert attrgetter(field)(engine_settings(**{key: value})) == value


def test_the_isolation_chooses_where_the_engine_runs() -> None:
    assert isinstance(create_engine_client(settings_with(**{"engine.isolation": "process"})), ProcessEngineClient)
    assert isinstance(create_engine_client(settings_with(**{"engine.isolation": "thread"})), ThreadEngineClient)


def test_cascade_keys_reach_the_backend() -> None:
    overrides = {"engine.backend": "cascade", "cascade.temperature": 0.7, "models.cache_dir": "/somewhere"}
    options = engine_settings(**overrides).options
    assert options["temperature"] == 0.7
    assert options["models_dir"] == "/somewhere"
    assert set(Settings().cascade.model_dump()) < set(options)


OPENS2S: dict[str, object] = {
    "checkpoint": "/weights/OpenS2S",
    "decoder": "/weights/decoder",
    "load_format": "dummy",
    "device": "cuda:1",
    "dtype": "float16",
    "quantization": "int8",
    "decoder_dtype": "bfloat16",
    "max_sequences": 3,
    "max_batch": 2,
    "admission": "none",
    "kv_cache_gb": 1.5,
    "max_output_tokens": 99,
    "temperature": 0.7,
    "top_p": 0.6,
    "context_tokens": 2048,
    "voices": {"anna": "voices/anna.npy"},
    "instructions": "Be brief.",
    "threads": 2,
}
"""Every key of the section, none of them at its default."""


def test_opens2s_keys_reach_the_backend() -> None:
    assert set(OPENS2S) == set(Settings().opens2s.model_dump())
    keys = {f"opens2s.{key}": value for key, value in OPENS2S.items()}
    options = engine_settings(**{"engine.backend": "opens2s", "models.cache_dir": "/somewhere", **keys}).options
    assert options == {**OPENS2S, "models_dir": "/somewhere"}
    found = OpenS2SOptions.from_mapping(options)
    assert {key: getattr(found, key) for key in OPENS2S} == OPENS2S
    assert (str(found.checkpoint_path), str(found.decoder_path)) == ("/weights/OpenS2S", "/weights/decoder")


def test_opens2s_options_agree_with_the_section() -> None:
    section = Settings().opens2s
    assert OpenS2SOptions.from_mapping(section.model_dump()) == OpenS2SOptions()
    assert set(section.model_dump()) == set(OpenS2SOptions.__slots__) - {"models_dir"}
    options = OpenS2SOptions(models_dir="/models")
    assert section.folders(Path("/models")) == (options.checkpoint_path, options.decoder_path)
    assert [path.name for path in section.folders(Path("/models"))] == [item.folder for item in REPOSITORIES]
    for name, choices in CHOICES.items():
        assert get_args(type(section).model_fields[name].annotation) == choices
    for name, (least, most) in BOUNDS.items():
        limits = {type(rule): rule for rule in type(section).model_fields[name].metadata}
        assert (limits[Ge].ge, limits[Le].le) == (least, most), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_sequence": 1}, "did you mean 'max_sequences'"),
        ({"quatsch": 1}, "use one of admission, checkpoint, context_tokens"),
        ({"threads": "2"}, "must be of type int"),
        ({"threads": True}, "must be of type int"),
        ({"voices": ["anna"]}, "must be of type dict"),
        ({"voices": {"anna": "anna.wav"}}, r"a \.npy or \.npz file"),
        ({"dtype": "fp16"}, "use one of auto, float32"),
        ({"device": "gpu"}, "use auto, cpu, cuda"),
        ({"max_output_tokens": 0}, "from 1 to 1024"),
        ({"max_batch": -1}, "from 0 to 64"),
        ({"max_batch": 65}, "from 0 to 64"),
        ({"kv_cache_gb": -0.5}, "from 0.0 to 10000.0"),
        ({"kv_cache_gb": 10_001.0}, "from 0.0 to 10000.0"),
        ({"top_p": 0}, "above 0"),
    ],
)
def test_opens2s_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenS2SOptions.from_mapping(options)


async def test_priority_and_cores_are_those_of_the_process() -> None:
    engine = ProcessEngineClient(EngineSettings("echo", {}, nice=3, cpu_affinity=(0,)))
    await engine.start()
    try:
        assert engine.pid is not None
        process = psutil.Process(engine.pid)
        assert process.nice() == os.nice(0) + 3
        assert process.cpu_affinity() == [0]
    finally:
        await engine.close()


def test_the_models_folder_is_the_one_that_was_named() -> None:
    assert models_dir(settings_with(**{"models.cache_dir": "/somewhere"})) == Path("/somewhere")


def test_session_and_turn_keys_are_where_a_call_starts() -> None:
    turns = {"threshold": 0.7, "prefix_padding_ms": 200, "silence_duration_ms": 650}
    switches = {"create_response": False, "interrupt_response": False}
    overrides = {f"turns.{key}": value for key, value in {**turns, **switches}.items()}
    settings = settings_with(**{"session.instructions": "Be brief.", **overrides})
    session = initial_session(settings, EngineInfo("model", 24_000, 1, gives_transcripts=True))
    detection = session.audio.input.turn_detection
    assert detection is not None
    assert session.instructions == "Be brief."
    assert {key: getattr(detection, key) for key in {**turns, **switches}} == {**turns, **switches}


def test_other_models_names_are_the_ones_that_were_listed() -> None:
    engine = EngineInfo("model", 24_000, 1, gives_transcripts=True)
    settings = settings_with(**{"session.model_aliases": ["gpt-9*"]})
    assert starting_session(settings, engine, {"model": "gpt-9-mini"}).model == "model"
    with pytest.raises(ModelNotFoundError, match="gpt-realtime"):
        starting_session(settings, engine, {"model": "gpt-realtime"})


async def test_detector_and_core_get_the_keys_that_clients_cannot_set() -> None:
    engine = ThreadEngineClient(EngineSettings("echo", {}))
    await engine.start()
    try:
        settings = settings_with(
            **{
                "turns.min_speech_ms": 140,
                "turns.max_utterance_ms": 9_000,
                "turns.speculation_silence_ms": 0,
                "turns.interruption_min_ms": 333,
                "turns.echo_guard": False,
                "session.kept_audio_seconds": 12.0,
                "session.responses_per_minute": 7,
                "engine.audio_credit_ms": 777,
                "engine.response_timeout_seconds": 3.5,
            }
        )
        call = Call("rtc_1", settings, LoopbackTransport(), engine, vad_factory(settings))
        assert call._detector._config.min_speech_ms == 140
        assert call._detector._config.max_utterance_ms == 9_000
        assert call._detector._is_echo is None
        assert call.core._settings.audio_credit_ms == 777
        assert call.core._settings.response_timeout_seconds == 3.5
        assert call.core._settings.speculate is False
        assert call.core._budget.remaining(0.0) == 7
        assert call.core.archive._max_seconds == 12.0
        assert call.core._barge_in._interruption_min_ms == 333
    finally:
        await engine.close()


def test_the_voice_detector_is_the_one_that_was_named() -> None:
    detector = vad_factory(settings_with(**{"turns.webrtcvad_mode": 3}))(lambda: None)
    assert isinstance(detector, WebRtcVoiceDetector)
    assert detector._mode == 3
    assert isinstance(vad_factory(settings_with(**{"turns.vad": "gated"}))(lambda: None), GatedVoiceDetector)


async def test_ice_servers_and_addresses_reach_the_peer() -> None:
    options = WebRtcOptions(ice_servers=["stun:127.0.0.1:3478"], host_addresses=["127.0.0.1"])
    transport = WebRtcTransport(options, MediaResources(MediaSockets(), Pacer()))
    servers = transport._pc._RTCPeerConnection__configuration.iceServers  # type: ignore[attr-defined]
    assert [server.urls for server in servers] == [["stun:127.0.0.1:3478"]]
    await transport.close()
    await asyncio.sleep(0)


def test_the_turn_model_is_the_one_that_was_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / SMART_TURN).touch()
    here = {"models.cache_dir": str(tmp_path)}
    assert turn_judge_factory(settings_with(**{"turns.turn_model": "transcript", **here})) is NoTurnJudge
    assert isinstance(turn_judge_factory(settings_with(**{"turns.turn_model": "smart-turn", **here})), TurnJudges)
    with caplog.at_level(logging.WARNING):
        assert turn_judge_factory(settings_with(**{"models.cache_dir": str(tmp_path / "empty")})) is NoTurnJudge
    assert "the words alone" in caplog.text
