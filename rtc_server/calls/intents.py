"""What the call core decides, as data: the shell (`call`) carries it out. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from model.interface import GenerateRequest
from rtc_server.realtime.events import Event


@dataclass(frozen=True, slots=True)
class SendEvent:
    """Send this event to the client."""

    event: Event


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    request: GenerateRequest


@dataclass(frozen=True, slots=True)
class CancelRequest:
    response_id: str


@dataclass(frozen=True, slots=True)
class GrantAudio:
    response_id: str
    audio_ms: int


@dataclass(frozen=True, slots=True)
class Observe:
    """Something an operator counts: `name` and label or value, for the metrics."""

    name: str
    label: str = ""
    value: float = 0.0


CoreOutput: TypeAlias = SendEvent | SubmitRequest | CancelRequest | GrantAudio | Observe
