"""The session that a call starts with. Signaling checks with it what a client asks for, before there is a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from model.interface import EngineInfo
from rtc_server.audio.cleaning import is_cleaning_available
from rtc_server.config import Settings, TurnsSection
from rtc_server.errors import ModelNotFoundError
from rtc_server.realtime.session import (
    Audio,
    AudioInput,
    AudioOutput,
    Capabilities,
    NoiseReduction,
    SemanticVad,
    ServerVad,
    SessionConfig,
    Transcription,
)
from rtc_server.tracing import CallTrace
from rtc_server.turns.completion import LONGEST_WAIT_MS
from rtc_server.turns.detector import TurnDetectorConfig

from .snapshot import ResumeGrant

PAUSE_MS = 120  # silence after which semantic_vad looks at a pause, where the settings do not speculate

EventDialect: TypeAlias = Literal["realtime", "realtime-beta", "rtvi"]
"""Words of the event channel: OpenAI's GA names, OpenAI's beta names, or Pipecat's RTVI messages."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How a call starts, apart from its media."""

    session: SessionConfig | None = None
    """The starting configuration, complete and valid; None = the server's settings."""
    dialect: EventDialect = "realtime"
    resume: ResumeGrant | None = None
    """How its client may come back after the call was lost; None = it may not."""
    trace: CallTrace | None = None
    """Set for a call that is traced."""
    is_telephone: bool = False
    """It comes over SIP: from a telephone, which may not take its own echo out."""


DEFAULT_OPTIONS = CallOptions()


def capabilities(settings: Settings, engine: EngineInfo) -> Capabilities:
    """What sessions of this server can be."""
    can = Capabilities.of(engine, settings.session.model_aliases)
    return replace(can, reduces_noise=is_cleaning_available())


def initial_session(settings: Settings, engine: EngineInfo) -> SessionConfig:
    """The session that a new call starts with, from the server's settings."""
    detection = _configured_vad(settings.turns)
    transcription = Transcription(model=engine.name) if engine.gives_transcripts else None
    kind = settings.audio.noise_suppression
    reduction = None if kind == "off" or not is_cleaning_available() else NoiseReduction(type=kind)
    return SessionConfig(
        model=engine.name,
        instructions=settings.session.instructions,
        audio=Audio(
            input=AudioInput(turn_detection=detection, transcription=transcription, noise_reduction=reduction),
            output=AudioOutput(voice=engine.voices[0]),
        ),
    )


def starting_session(settings: Settings, engine: EngineInfo, patch: Mapping[str, Any] | None) -> SessionConfig:
    """The session of a call that asked for `patch`: a session object of the API, any part of it. Raises
    ModelNotFoundError, or ProtocolError that names the first bad field."""
    session, can = initial_session(settings, engine), capabilities(settings, engine)
    if patch is None:
        return session
    model = patch.get("model")
    if isinstance(model, str) and not can.is_model(model):
        raise ModelNotFoundError(f"There is no model '{model[:100]}'; this server has '{can.model}'.", param="model")
    if patch.get("type") == "transcription":
        session = session.model_copy(update={"type": "transcription"})
    return session.updated(patch, can, voice_is_fixed=False)


def detector_config(turns: TurnsSection, session: SessionConfig) -> TurnDetectorConfig:
    """How turns are cut in this session."""
    detection = session.audio.input.turn_detection
    # Without turn detection the values do not matter: nothing is detected, audio waits for a commit.
    values = detection if isinstance(detection, ServerVad) else _configured_vad(turns)
    silence_ms, speculation_ms = values.silence_duration_ms, turns.speculation_silence_ms
    if isinstance(detection, SemanticVad):
        silence_ms = LONGEST_WAIT_MS[detection.eagerness]
        speculation_ms = speculation_ms or PAUSE_MS
    return TurnDetectorConfig(
        is_enabled=detection is not None,
        threshold=values.threshold,
        prefix_padding_ms=values.prefix_padding_ms,
        silence_duration_ms=silence_ms,
        min_speech_ms=turns.min_speech_ms,
        max_utterance_ms=turns.max_utterance_ms,
        speculation_silence_ms=speculation_ms,
    )


def _configured_vad(turns: TurnsSection) -> ServerVad:
    return ServerVad(
        threshold=turns.threshold,
        prefix_padding_ms=turns.prefix_padding_ms,
        silence_duration_ms=turns.silence_duration_ms,
        create_response=turns.create_response,
        interrupt_response=turns.interrupt_response,
    )
