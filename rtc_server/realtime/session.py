"""The session: what a client may set with `session.update` and what it gets back.

The shape is OpenAI's (GA). Every field is either acted on or refused with an error that names it; the few that are
accepted without effect, because SDKs send them unasked, are listed in `realtime.compatibility`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationError, field_validator

from model.interface import EngineInfo
from rtc_server.errors import ProtocolError

from .beta import upgrade_session
from .tools import MAX_TOOLS, FunctionTool, NamedTool, check_tools
from .validation import Strict, protocol_error

OPENAI_VOICES = frozenset(
    ("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse")
)
"""Names that existing clients ask for; they get the backend's first voice unless it has one of that name."""
READ_ONLY = ("id", "object", "expires_at", "client_secret")
"""Fields of the session object that clients send back unchanged."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What sessions of this server can be: what its engine can do, and the names that stand for it."""

    model: str
    model_aliases: tuple[str, ...] = ()
    """Patterns (`gpt-realtime*`) of names that mean this model too."""
    voices: tuple[str, ...] = ("default",)
    speed_range: tuple[float, float] = (1.0, 1.0)
    supports_tools: bool = False
    gives_transcripts: bool = False
    reduces_noise: bool = False

    @classmethod
    def of(cls, engine: EngineInfo, model_aliases: tuple[str, ...] = ()) -> Capabilities:
        """Of a loaded engine."""
        return cls(
            engine.name,
            model_aliases,
            engine.voices,
            engine.speed_range,
            engine.supports_tools,
            engine.gives_transcripts,
        )

    def is_model(self, name: str) -> bool:
        """`name` means the loaded model."""
        return name == self.model or any(fnmatchcase(name, pattern) for pattern in self.model_aliases)

    def voice(self, name: str, param: str) -> str:
        """The voice that `name` means. Raises ProtocolError when there is none."""
        if name in self.voices:
            return name
        if name in OPENAI_VOICES or name == "":
            return self.voices[0]
        message = f"voice '{name}' is not available; use one of: {', '.join(self.voices)}."
        raise ProtocolError("invalid_value", message, param=param)

    def check_speed(self, speed: float, param: str) -> None:
        """Raises ProtocolError when the voice cannot speak that fast or slowly."""
        slowest, fastest = self.speed_range
        if not slowest <= speed <= fastest:
            limits = f"it must be {slowest}" if slowest == fastest else f"it must be from {slowest} to {fastest}"
            raise ProtocolError("invalid_value", f"speed {speed} is not available; {limits}.", param=param)

    def check_noise_reduction(self, wanted: NoiseReduction | None, param: str) -> None:
        """Raises ProtocolError where the optional package that does it is not installed."""
        if wanted is not None and not self.reduces_noise:
            message = "Noise reduction is not installed on this server (the extra 'cleaning'); use null."
            raise ProtocolError("invalid_value", message, param=param)


class ServerVad(Strict):
    """A turn ends after a fixed silence."""

    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(0.5, ge=0.0, le=1.0)
    """Speech probability above which a frame counts as speech."""
    prefix_padding_ms: int = Field(300, ge=0, le=5_000)
    """Audio kept from before the onset."""
    silence_duration_ms: int = Field(400, ge=100, le=10_000)
    """Silence that ends a turn."""
    idle_timeout_ms: int | None = Field(None, ge=1_000, le=600_000)
    """Silence after a reply has been heard that makes the model speak again."""
    create_response: bool = True
    interrupt_response: bool = True


class SemanticVad(Strict):
    """A turn ends when it sounds complete, at the latest after a wait that `eagerness` bounds."""

    type: Literal["semantic_vad"]
    eagerness: Literal["low", "medium", "high", "auto"] = "auto"
    create_response: bool = True
    interrupt_response: bool = True


TurnDetection: TypeAlias = ServerVad | SemanticVad


class PcmFormat(Strict):
    """Signed 16-bit little-endian samples, mono. Over WebRTC the wire format is negotiated and this has no effect."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000] = 24_000


class PcmuFormat(Strict):
    """G.711 mu-law at 8 kHz."""

    type: Literal["audio/pcmu"]


class PcmaFormat(Strict):
    """G.711 A-law at 8 kHz."""

    type: Literal["audio/pcma"]


AudioFormat: TypeAlias = Annotated[PcmFormat | PcmuFormat | PcmaFormat, Field(discriminator="type")]


class Transcription(Strict):
    """Transcripts of the user's turns. The engine's own recognition makes them, whatever model is named."""

    model: str = Field("default", max_length=100)
    language: str | None = Field(None, max_length=20)
    prompt: str | None = Field(None, max_length=2_000)


class NoiseReduction(Strict):
    """Noise is kept from the voice detector; "far_field" (a speakerphone, a kiosk) has the echo taken out too."""

    type: Literal["near_field", "far_field"]


class AudioInput(Strict):
    format: AudioFormat = PcmFormat()
    transcription: Transcription | None = None
    noise_reduction: NoiseReduction | None = None
    turn_detection: Annotated[TurnDetection, Field(discriminator="type")] | None = ServerVad()


class AudioOutput(Strict):
    format: AudioFormat = PcmFormat()
    voice: str = Field("", max_length=100)
    speed: float = Field(1.0, ge=0.25, le=1.5)

    @field_validator("voice", mode="before")
    @classmethod
    def _unwrap(cls, value: object) -> object:
        return value["id"] if isinstance(value, dict) and set(value) == {"id"} else value  # the API's other form


class Audio(Strict):
    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


Modalities: TypeAlias = tuple[Literal["audio", "text"]]
TokenLimit: TypeAlias = Annotated[int, Field(ge=1, le=4096)] | Literal["inf"]


class SessionConfig(Strict):
    """The effective configuration of one session. Immutable; `updated` gives the next one."""

    type: Literal["realtime", "transcription"] = "realtime"
    """"transcription": turns are written down and never answered."""
    model: str = ""
    output_modalities: Modalities = ("audio",)
    instructions: str = Field("", max_length=20_000)
    tools: tuple[FunctionTool, ...] = Field((), max_length=MAX_TOOLS)
    tool_choice: Literal["auto", "none", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool = True
    max_output_tokens: TokenLimit = "inf"
    truncation: Literal["auto"] = "auto"
    tracing: Literal["auto"] | dict[str, Any] | None = None
    prompt: None = None
    include: tuple[()] | None = None
    audio: Audio = Audio()

    @property
    def answers(self) -> bool:
        """There can be responses."""
        return self.type == "realtime"

    def updated(self, patch: Mapping[str, Any], can: Capabilities, *, voice_is_fixed: bool) -> SessionConfig:
        """Deep-merge a `session.update` payload. Raises ProtocolError that names the first bad field."""
        patch = {key: value for key, value in upgrade_session(patch).items() if key not in READ_ONLY}
        self._check_fixed(patch, can)
        wanted = _merge(self.model_dump(), {**patch, "model": self.model})
        try:
            merged = SessionConfig.model_validate(wanted)
        except ValidationError as error:
            raise protocol_error(error, wanted, "session") from error
        output = merged.audio.output
        voice = can.voice(output.voice, "session.audio.output.voice")
        if voice != self.audio.output.voice and voice_is_fixed:
            message = "The voice cannot change once the session has produced audio."
            raise ProtocolError("cannot_update_voice", message, param="session.audio.output.voice")
        can.check_speed(output.speed, "session.audio.output.speed")
        can.check_noise_reduction(merged.audio.input.noise_reduction, "session.audio.input.noise_reduction")
        check_tools(merged.tools, merged.tool_choice, can.supports_tools, "session")
        if voice != output.voice:
            output = output.model_copy(update={"voice": voice})
            merged = merged.model_copy(update={"audio": merged.audio.model_copy(update={"output": output})})
        return merged

    def to_event(self, session_id: str, expires_at: int) -> dict[str, Any]:
        """The session object of `session.created` and `session.updated`."""
        body = self.model_dump(mode="json")
        if self.type == "transcription":
            body = {"type": body["type"], "include": None, "audio": {"input": body["audio"]["input"]}}
        return {
            "object": f"realtime.{'transcription_' * (not self.answers)}session",
            "id": session_id,
            "expires_at": expires_at,
            **body,
        }

    def _check_fixed(self, patch: Mapping[str, Any], can: Capabilities) -> None:
        kind = patch.get("type", self.type)
        if kind != self.type:
            message = f"session.type must be '{self.type}' in this session."
            raise ProtocolError("invalid_value", message, param="session.type")
        model = patch.get("model", self.model)
        if model != self.model and not (isinstance(model, str) and can.is_model(model)):
            message = f"The model of a running session cannot change; it is '{self.model}'."
            raise ProtocolError("invalid_value", message, param="session.model")
        if self.tracing is not None and patch.get("tracing", self.tracing) != self.tracing:
            message = "Tracing cannot change once it was set."
            raise ProtocolError("invalid_value", message, param="session.tracing")


def _merge(base: dict[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in patch.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and key not in ("tool_choice", "tracing"):
            # Another kind of object starts from its own defaults.
            is_other_kind = value.get("type", old.get("type")) != old.get("type")
            merged[key] = dict(value) if is_other_kind else _merge(old, value)
        else:
            merged[key] = value
    return merged
