"""One response inside the cascade: its text, its clauses, the sound that waits for credit, and how it ends.

Belongs to the engine's thread alone. Workers see only its `Ticket`.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from model.backends.requests import AudioCredit
from model.interface import (
    AudioDelta,
    EngineEvent,
    GenerateRequest,
    Pcm16,
    ResponseDone,
    ResponseStatus,
    TextDelta,
    Usage,
)

from .clauses import Clause, ClauseCutter, Ending
from .llm import Completion
from .tts import Speech


class Ticket:
    """Shared between the engine's thread and workers: whose work it is, and whether it is still wanted."""

    __slots__ = ("_cancelled", "request")

    def __init__(self, request: GenerateRequest) -> None:
        self.request = request
        self._cancelled = threading.Event()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()


@dataclass(slots=True)
class _Sound:
    """A synthesized clause of which `emitted` samples went out."""

    clause: Clause
    pcm: Pcm16
    lead: int
    """Samples of silence before its first word."""
    emitted: int = 0

    def text_end(self) -> int:
        """Characters of the reply that are spoken after `emitted` samples: proportional inside the clause."""
        if self.emitted >= len(self.pcm):
            return self.clause.end
        spoken = max(0, self.emitted - self.lead) / max(1, len(self.pcm) - self.lead)
        return self.clause.start + int(spoken * (self.clause.end - self.clause.start))


@dataclass(slots=True)
class Response:
    """State of one live response."""

    ticket: Ticket
    credit: AudioCredit
    cutter: ClauseCutter = field(default_factory=ClauseCutter)
    clauses: deque[Clause] = field(default_factory=deque)
    """Written and not yet given to the voice."""
    sound: _Sound | None = None
    """Synthesized and not yet emitted: at most one clause, which is all that runs ahead of the credit."""
    is_speaking: bool = False
    """The voice works on a clause of this response."""
    num_clauses: int = 0
    """Clauses given to the voice so far."""
    after: Ending | None = None
    """How the clause before the next one ended."""
    completion: Completion | None = None
    """How the text ended; None while it is being written."""
    text_end: int = 0

    @property
    def response_id(self) -> str:
        return self.ticket.request.response_id

    @property
    def can_emit(self) -> bool:
        return self.sound is not None and self.credit.samples > 0

    def write(self, text: str, at: float) -> TextDelta:
        """Take the next piece of text from the language model."""
        if self.ticket.request.output == "audio":
            self.clauses += self.cutter.feed(text)
        return TextDelta(self.response_id, text, at)

    def finish_text(self, completion: Completion) -> None:
        """The language model is done."""
        self.clauses += self.cutter.flush()  # nothing where nothing is spoken
        self.completion = completion

    def next_clause(self) -> Clause | None:
        """The clause that the voice shall speak now. None while it has work for this response, or while sound
        waits for credit: nothing is synthesized more than one clause ahead."""
        if self.is_speaking or self.sound is not None or not self.clauses:
            return None
        self.is_speaking = True
        self.num_clauses += 1
        return self.clauses.popleft()

    def add_speech(self, clause: Clause, speech: Speech) -> None:
        """The voice is done with a clause; one that has no sound vanishes."""
        self.is_speaking = False
        if len(speech.pcm):
            self.sound = _Sound(clause, speech.pcm, speech.lead)
            self.after = clause.ending

    def emit(self, at: float) -> list[EngineEvent]:
        """Everything that the credit allows, in pieces."""
        events: list[EngineEvent] = []
        while self.sound is not None:
            sound = self.sound
            size = self.credit.piece(len(sound.pcm) - sound.emitted)
            if not size:
                break
            piece = sound.pcm[sound.emitted : sound.emitted + size].copy()
            sound.emitted += size
            self.credit.spend(size)
            self.text_end = max(self.text_end, sound.text_end())
            events.append(AudioDelta(self.response_id, piece, self.text_end, at))
            if sound.emitted == len(sound.pcm):
                self.sound = None
        return events

    def done(self, at: float) -> ResponseDone | None:
        """The last event, once nothing is left to say."""
        if self.completion is None or self.clauses or self.is_speaking or self.sound is not None:
            return None
        completion = self.completion
        status: ResponseStatus = "incomplete" if completion.reason == "length" else "completed"
        usage = Usage(
            input_text_tokens=completion.num_prompt_tokens,
            cached_tokens=completion.num_cached_tokens,
            output_text_tokens=completion.num_output_tokens,
        )
        return ResponseDone(self.response_id, status, at, usage=usage)
