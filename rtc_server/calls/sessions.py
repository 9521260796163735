"""The session that a call starts with. Signaling checks with it what a client asks for, before there is a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from model.interface import EngineInfo
from rtc_server.config import Settings
from rtc_server.realtime.session import Audio, AudioInput, AudioOutput, SessionConfig, TurnDetection

EventDialect: TypeAlias = Literal["realtime", "realtime-beta", "rtvi"]
"""Words of the event channel: OpenAI's GA names, OpenAI's beta names, or Pipecat's RTVI messages."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How a call starts, apart from its media."""

    session: SessionConfig | None = None
    """The starting configuration, complete and valid; None = the server's settings."""
    dialect: EventDialect = "realtime"


DEFAULT_OPTIONS = CallOptions()


def initial_session(settings: Settings, model_name: str, voices: tuple[str, ...]) -> SessionConfig:
    """The session that a new call starts with, from the server's settings."""
    turns = settings.turns
    detection = TurnDetection(
        threshold=turns.threshold,
        prefix_padding_ms=turns.prefix_padding_ms,
        silence_duration_ms=turns.silence_duration_ms,
        create_response=turns.create_response,
        interrupt_response=turns.interrupt_response,
    )
    return SessionConfig(
        model=model_name,
        instructions=settings.session.instructions,
        audio=Audio(input=AudioInput(turn_detection=detection), output=AudioOutput(voice=voices[0])),
    )


def starting_session(settings: Settings, engine: EngineInfo, patch: dict[str, Any] | None) -> SessionConfig:
    """The session of a call that asked for `patch` (a session object of the API, any part of it). Raises ProtocolError
    that names the first bad field."""
    session = initial_session(settings, engine.name, engine.voices)
    return session if patch is None else session.updated(patch, engine.voices, voice_is_fixed=False)
