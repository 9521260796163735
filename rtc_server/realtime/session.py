"""The session: what a client may set with `session.update` and what it gets back.

The shape is OpenAI's (GA). Every field is either acted on or refused with an error that names it; nothing is
accepted and forgotten.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rtc_server.errors import ProtocolError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TurnDetection(_Strict):
    """Server VAD, with OpenAI's names."""

    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(0.5, ge=0.0, le=1.0)
    """Speech probability above which a frame counts as speech."""
    prefix_padding_ms: int = Field(300, ge=0, le=5_000)
    """Audio kept from before the onset."""
    silence_duration_ms: int = Field(400, ge=100, le=10_000)
    """Silence that ends a turn."""
    create_response: bool = True
    interrupt_response: bool = True
    idle_timeout_ms: None = None


class AudioFormat(_Strict):
    """Accepted and echoed: over WebRTC the wire format is Opus and this field has no effect."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000] = 24_000


class Transcription(_Strict):
    """Accepted and echoed: engines that recognise speech always send the transcript."""

    model: str = Field("default", max_length=100)
    language: str | None = Field(None, max_length=20)
    prompt: str | None = Field(None, max_length=2_000)


class AudioInput(_Strict):
    format: AudioFormat = AudioFormat()
    transcription: Transcription | None = None
    noise_reduction: None = None
    turn_detection: TurnDetection | None = TurnDetection()


class AudioOutput(_Strict):
    format: AudioFormat = AudioFormat()
    voice: str = Field("", max_length=100)
    speed: float = Field(1.0, ge=1.0, le=1.0)


class Audio(_Strict):
    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


class SessionConfig(_Strict):
    """The effective configuration of one session. Immutable; `updated` gives the next one."""

    type: Literal["realtime"] = "realtime"
    model: str = ""
    output_modalities: tuple[Literal["audio"]] = ("audio",)
    instructions: str = Field("", max_length=20_000)
    tools: tuple[()] = ()
    tool_choice: Literal["auto", "none"] = "auto"
    max_output_tokens: int | Literal["inf"] = "inf"
    truncation: Literal["auto"] = "auto"
    tracing: None = None
    audio: Audio = Audio()

    def updated(self, patch: dict[str, Any], voices: tuple[str, ...], *, voice_is_fixed: bool) -> SessionConfig:
        """Deep-merge a `session.update` payload. Raises ProtocolError that names the first bad field."""
        if patch.get("type", "realtime") != "realtime":
            raise ProtocolError("invalid_value", "session.type must be 'realtime'.", param="session.type")
        if "model" in patch and patch["model"] != self.model:
            message = f"The model of a running session cannot change; it is '{self.model}'."
            raise ProtocolError("invalid_value", message, param="session.model")
        try:
            merged = SessionConfig.model_validate(_merge(self.model_dump(), patch))
        except ValidationError as error:
            raise _protocol_error(error) from error
        voice = merged.audio.output.voice
        if voice != self.audio.output.voice:
            if voice not in voices:
                message = f"voice '{voice}' is not available; use one of: {', '.join(voices)}."
                raise ProtocolError("invalid_value", message, param="session.audio.output.voice")
            if voice_is_fixed:
                message = "The voice cannot change once the session has produced audio."
                raise ProtocolError("cannot_update_voice", message, param="session.audio.output.voice")
        if isinstance(merged.max_output_tokens, int) and not 1 <= merged.max_output_tokens <= 4096:
            message = "max_output_tokens must be from 1 to 4096, or 'inf'."
            raise ProtocolError("invalid_value", message, param="session.max_output_tokens")
        return merged

    def to_event(self, session_id: str, expires_at: int) -> dict[str, Any]:
        """The session object of `session.created` and `session.updated`."""
        return {
            "object": "realtime.session",
            "id": session_id,
            "expires_at": expires_at,
            **self.model_dump(mode="json"),
        }


def _merge(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in patch.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _protocol_error(error: ValidationError) -> ProtocolError:
    first = error.errors(include_url=False, include_input=False)[0]
    param = ".".join(["session", *(str(part) for part in first["loc"])])
    if first["type"] == "extra_forbidden":
        return ProtocolError("unknown_parameter", f"Unknown parameter: '{param}'.", param=param)
    return ProtocolError("invalid_value", f"'{param}': {first['msg']}.", param=param)
