"""The session: deep-merged, validated, and never accepting what has no effect."""

from __future__ import annotations

from typing import Any

import pytest

from rtc_server.errors import ProtocolError
from rtc_server.realtime.session import Capabilities, PcmuFormat, SemanticVad, ServerVad, SessionConfig

CAN = Capabilities("m", ("gpt-realtime*",), ("heart", "nova"), (0.8, 1.2), supports_tools=True, gives_transcripts=True)
NO_TOOLS = Capabilities("m")
TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}


def update(patch: dict[str, Any], base: SessionConfig | None = None, fixed: bool = False) -> SessionConfig:
    return (base or SessionConfig(model="m")).updated(patch, CAN, voice_is_fixed=fixed)


def test_present_fields_are_merged_deeply_and_the_rest_stays() -> None:
    patch = {"type": "realtime", "audio": {"input": {"turn_detection": {"silence_duration_ms": 700}}}}
    session = update(patch, update({"instructions": "Be brief."}))
    assert session.instructions == "Be brief."
    detection = session.audio.input.turn_detection
    assert isinstance(detection, ServerVad)
    assert detection.silence_duration_ms == 700
    assert detection.prefix_padding_ms == 300


def test_null_switches_turn_detection_off() -> None:
    assert update({"audio": {"input": {"turn_detection": None}}}).audio.input.turn_detection is None


@pytest.mark.parametrize(
    ("patch", "code", "param"),
    [
        ({"instructionz": ""}, "unknown_parameter", "session.instructionz"),
        ({"type": "transcription"}, "invalid_value", "session.type"),
        ({"model": "other"}, "invalid_value", "session.model"),
        ({"audio": {"input": {"turn_detection": {"threshold": 2}}}}, "invalid_value", None),
        (
            {"audio": {"input": {"turn_detection": {"type": "semantic_vad", "threshold": 0.5}}}},
            "unknown_parameter",
            "session.audio.input.turn_detection.threshold",
        ),
        (
            {"audio": {"input": {"turn_detection": {"type": "psychic_vad"}}}},
            "invalid_value",
            "session.audio.input.turn_detection.type",
        ),
        ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}}, "invalid_value", None),
        ({"audio": {"input": {"noise_reduction": {"type": "near_field"}}}}, "invalid_value", None),
        ({"audio": {"output": {"voice": "nobody"}}}, "invalid_value", "session.audio.output.voice"),
        ({"audio": {"output": {"speed": 1.5}}}, "invalid_value", "session.audio.output.speed"),
        ({"max_output_tokens": 0}, "invalid_value", "session.max_output_tokens"),
        ({"output_modalities": ["video"]}, "invalid_value", "session.output_modalities.0"),
        ({"output_modalities": ["text", "audio"], "type": "realtime"}, "invalid_value", "session.output_modalities"),
        ({"tools": [{"type": "function"}]}, "missing_required_parameter", "session.tools.0.name"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "invalid_value", "session.tools.0.type"),
        ({"tools": [TOOL, TOOL]}, "invalid_value", "session.tools"),
        ({"tool_choice": {"type": "function", "name": "nobody"}}, "invalid_value", "session.tool_choice"),
        ({"prompt": {"id": "x"}}, "invalid_value", "session.prompt"),
        ({"truncation": "disabled"}, "invalid_value", "session.truncation"),
        ({"include": ["item.input_audio_transcription.logprobs"]}, "invalid_value", None),
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


def test_names_that_clients_know_stand_for_what_there_is() -> None:
    session = update({"model": "gpt-realtime-2025", "audio": {"output": {"voice": "marin"}}})
    assert session.model == "m"
    assert session.audio.output.voice == "heart"
    assert update({"audio": {"output": {"voice": {"id": "nova"}}}}).audio.output.voice == "nova"


def test_another_kind_of_turn_detection_starts_from_its_own_defaults() -> None:
    session = update({"audio": {"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}}}})
    assert session.audio.input.turn_detection == SemanticVad(type="semantic_vad", eagerness="low")
    again = update({"audio": {"input": {"turn_detection": {"type": "server_vad"}}}}, session)
    assert again.audio.input.turn_detection == ServerVad()


def test_tools_need_an_engine_that_can_call_them() -> None:
    assert update({"tools": [TOOL], "tool_choice": {"type": "function", "name": "get_weather"}}).tools[0].strict is None
    with pytest.raises(ProtocolError) as refused:
        SessionConfig(model="m").updated({"tools": [TOOL]}, NO_TOOLS, voice_is_fixed=False)
    assert refused.value.param == "session.tools"


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "array"},
        {"type": "object", "properties": {"x": {"description": "y" * 20_000}}},
        {"type": "object", "properties": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": {"j": {"k": {"l": {
            "m": {"n": {"o": {"p": {}}}}}}}}}}}}}}}}}},
    ],
    ids=["array", "long", "deep"],
)  # fmt: skip
def test_a_schema_that_no_function_has_is_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as refused:
        update({"tools": [{**TOOL, "parameters": parameters}]})
    assert refused.value.param == "session.tools.0.parameters"


def test_tracing_is_set_once() -> None:
    session = update({"tracing": "auto"})
    assert update({"tracing": "auto"}, session).tracing == "auto"
    with pytest.raises(ProtocolError):
        update({"tracing": {"workflow_name": "x"}}, session)


def test_fields_that_the_server_sets_may_be_sent_back() -> None:
    body = update({"instructions": "Be brief."}).to_event("sess_1", 1_700_000_000)
    assert update(body).instructions == "Be brief."


def test_a_transcription_session_shows_no_reply_settings() -> None:
    body = SessionConfig(type="transcription").to_event("sess_1", 1_700_000_000)
    assert body["object"] == "realtime.transcription_session"
    assert set(body["audio"]) == {"input"}
    assert "instructions" not in body


def test_names_of_the_beta_are_understood() -> None:
    session = update(
        {
            "modalities": ["text", "audio"],
            "voice": "alloy",
            "input_audio_format": "g711_ulaw",
            "turn_detection": {"type": "server_vad", "silence_duration_ms": 900},
            "input_audio_transcription": {"model": "whisper-1"},
            "temperature": 0.8,
            "max_response_output_tokens": 100,
        }
    )
    assert session.output_modalities == ("audio",)
    assert session.audio.input.format == PcmuFormat(type="audio/pcmu")
    assert session.audio.input.turn_detection == ServerVad(silence_duration_ms=900)
    assert session.audio.input.transcription is not None
    assert session.max_output_tokens == 100
    with pytest.raises(ProtocolError, match=r"session\.voice"):
        update({"type": "realtime", "voice": "alloy"})
