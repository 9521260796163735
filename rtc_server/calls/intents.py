"""What the call core decides, as data: the shell (`call`) carries it out. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from model.interface import GenerateRequest, Pcm16
from rtc_server.realtime.words import Event

from .turn_records import TurnRecord


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
class ReleaseRequest:
    """A held response is one that somebody waits for."""

    response_id: str


@dataclass(frozen=True, slots=True)
class Observe:
    """Something an operator counts: `name` and label, for the metrics."""

    name: str
    label: str


@dataclass(frozen=True, slots=True)
class TurnAnswered:
    """A reply begins to be heard."""

    record: TurnRecord


@dataclass(frozen=True, slots=True)
class ResponseOver:
    """Nothing of a response is to come: it was played, ended without sound, or was dropped."""

    response_id: str
    status: str
    """How it ended; "dropped" for a guess that nobody heard of."""


@dataclass(frozen=True, slots=True)
class SendAudio:
    """Send this sound of a reply to a client that gets it in events."""

    event: Event
    """`response.output_audio.delta` without its `delta`."""
    pcm: Pcm16
    """At the engine's rate."""
    is_last: bool = False
    """Nothing of this reply follows; `pcm` may be empty."""


@dataclass(frozen=True, slots=True)
class JudgeTurn:
    """Ask the turn model whether the turn that ends like this is complete, for `CallCore.receive_completion`."""

    audio: Pcm16
    """The end of the turn with its silence, 16 kHz."""


@dataclass(frozen=True, slots=True)
class StopJudging:
    """Nobody waits for the turn model's answer any more."""


CoreOutput: TypeAlias = (
    SendEvent
    | SendAudio
    | SubmitRequest
    | CancelRequest
    | GrantAudio
    | ReleaseRequest
    | Observe
    | TurnAnswered
    | ResponseOver
    | JudgeTurn
    | StopJudging
)


class Outbox:
    """What was decided and not carried out yet, in order. Shared by the parts of one call's core."""

    def __init__(self) -> None:
        self._outputs: list[CoreOutput] = []

    def add(self, output: CoreOutput) -> None:
        self._outputs.append(output)

    def send(self, events: list[Event]) -> None:
        """Events to the client."""
        self._outputs += [SendEvent(event) for event in events]

    def observe(self, name: str, label: str) -> None:
        self._outputs.append(Observe(name, label))

    def drain(self) -> list[CoreOutput]:
        """Everything since the last call."""
        outputs, self._outputs = self._outputs, []
        return outputs
