"""The session: deep-merged, validated, and never accepting what has no effect."""

from __future__ import annotations

from typing import Any

import pytest

from rtc_server.errors import ProtocolError
from rtc_server.realtime.session import SessionConfig

VOICES = ("heart", "nova")


def update(patch: dict[str, Any], base: SessionConfig | None = None, fixed: bool = False) -> SessionConfig:
    return (base or SessionConfig()).updated(patch, VOICES, voice_is_fixed=fixed)


def test_present_fields_are_merged_deeply_and_the_rest_stays() -> None:
    patch = {"type": "realtime", "audio": {"input": {"turn_detection": {"silence_duration_ms": 700}}}}
    session = update(patch, update({"instructions": "Be brief."}))
    assert session.instructions == "Be brief."
    assert session.audio.input.turn_detection is not None
    assert session.audio.input.turn_detection.silence_duration_ms == 700
    assert session.audio.input.turn_detection.prefix_padding_ms == 300


def test_null_switches_turn_detection_off() -> None:
    assert update({"audio": {"input": {"turn_detection": None}}}).audio.input.turn_detection is None


@pytest.mark.parametrize(
    ("patch", "code", "param"),
    [
        ({"instructionz": ""}, "unknown_parameter", "session.instructionz"),
        ({"type": "transcription"}, "invalid_value", "session.type"),
        ({"model": "other"}, "invalid_value", "session.model"),
        ({"audio": {"input": {"turn_detection": {"threshold": 2}}}}, "invalid_value", None),
        ({"audio": {"output": {"voice": "nobody"}}}, "invalid_value", "session.audio.output.voice"),
        ({"audio": {"output": {"speed": 1.5}}}, "invalid_value", "session.audio.output.speed"),
        ({"max_output_tokens": 0}, "invalid_value", "session.max_output_tokens"),
        ({"output_modalities": ["text"]}, "invalid_value", "session.output_modalities.0"),
        ({"tools": [{"type": "function"}]}, "invalid_value", "session.tools"),
        ({"audio": 7}, "invalid_value", "session.audio"),
    ],
)
def test_what_has_no_effect_is_refused_by_name(patch: dict[str, Any], code: str, param: str | None) -> None:
    with pytest.raises(ProtocolError) as refused:
        update(patch)
    assert refused.value.code == code
    if param is not None:
        assert refused.value.param == param


def test_the_voice_is_fixed_once_it_was_heard() -> None:
    assert update({"audio": {"output": {"voice": "nova"}}}).audio.output.voice == "nova"
    with pytest.raises(ProtocolError) as refused:
        update({"audio": {"output": {"voice": "nova"}}}, fixed=True)
    assert refused.value.code == "cannot_update_voice"


def test_the_session_object_has_the_shape_of_the_api() -> None:
    body = SessionConfig(model="m").to_event("sess_1", 1_700_000_000)
    assert body["object"] == "realtime.session"
    assert body["id"] == "sess_1"
    assert body["output_modalities"] == ["audio"]
    assert body["audio"]["input"]["turn_detection"]["type"] == "server_vad"
