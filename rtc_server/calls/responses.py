"""One reply as the call sees it: its texts, its audio credit, and when each of its stages happened."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from model.interface import (
    AudioDelta,
    EngineEvent,
    Pcm16,
    ResponseDone,
    ResponseStarted,
    TextDelta,
    Transcript,
    Usage,
)
from rtc_server.realtime.conversation import AnyItem, FunctionCall, Item

from .plans import ResponsePlan

GRANT_STEP_MS = 200  # credit goes to the engine in lumps of this size: 5 messages a second instead of 50


@dataclass(slots=True)
class StageTimes:
    """Monotonic seconds at which a response reached each stage; None where it did not (yet)."""

    submitted: float | None = None
    started: float | None = None
    transcript: float | None = None
    first_text: float | None = None
    first_audio: float | None = None


@dataclass(slots=True)
class TurnTiming:
    """When a user turn ended, on the monotonic clock."""

    last_voice_at: float
    """When the last voiced sample reached the server's VAD input."""
    jitter_buffer_ms: float
    """How long that sample had been inside the server by then (receive buffer and decoder)."""
    endpoint_at: float
    """When the turn was declared over."""


@dataclass(slots=True)
class Response:
    """A reply from request to last sample. Owned by `Replies`; found by `response_id`, or dead."""

    response_id: str
    turn_id: str
    plan: ResponsePlan
    is_held: bool
    """Speculative: works, but nothing of it is shown or played until the endpoint releases it."""
    conversation_id: str | None = None
    """None for one that is out of band."""
    speculated: bool = False
    timing: TurnTiming | None = None
    user_item_id: str | None = None
    """The user item that its transcript belongs to; None when that has one of its own."""
    user_items: tuple[str, ...] = ()
    """All user items whose sound it answers."""
    stages: StageTimes = field(default_factory=StageTimes)
    held_events: list[EngineEvent] = field(default_factory=list)
    transcript: str | None = None
    audio: Pcm16 | None = None
    """The user audio it answers, until its words are known: an unheard response gives it back when it dies."""
    audio_seconds: float = 0.0
    """Length of the user audio it answers."""
    text: str = ""
    message: Item | None = None
    """The assistant's message as it stands, once it was announced."""
    calls: dict[int, FunctionCall] = field(default_factory=dict)
    """Function calls that were announced, by the engine's number."""
    output_index: dict[str, int] = field(default_factory=dict)
    """Item id -> its place in the response's output."""
    previous_item_id: dict[str, str | None] = field(default_factory=dict)
    """Item id -> the item before it in the conversation."""
    marks: list[tuple[int, int]] = field(default_factory=list)
    """(milliseconds of sound, characters of the text spoken by then)."""
    unplayed: list[AudioDelta] = field(default_factory=list)
    """Sound that waits for an earlier response to finish playing; bounded by the audio credit."""
    received_audio_ms: float = 0.0
    granted_ms: int = 0
    done: ResponseDone | None = None
    """The engine's last word; playing may go on after it."""
    is_announced_done: bool = False
    """`response.done` went out."""
    output_started: bool = False
    measured: bool = False
    deadline: float | None = None
    """When the engine must have produced something, monotonic seconds; None once it has."""

    @property
    def is_generating(self) -> bool:
        return self.done is None

    @property
    def is_floor_holder(self) -> bool:
        """The user hears it, or it is the conversation's reply: one that works silently beside it is neither."""
        return not self.is_held and (self.plan.in_conversation or self.plan.output == "audio")

    def note(self, event: EngineEvent) -> None:
        """An engine event of it has come: when its stages happened, and its words."""
        stages = self.stages
        if isinstance(event, ResponseStarted):
            stages.started = event.at
        elif isinstance(event, Transcript):
            stages.transcript = event.at
            self.transcript = event.text
            self.audio = None
        elif isinstance(event, TextDelta) and stages.first_text is None:
            stages.first_text = event.at
        elif isinstance(event, AudioDelta) and stages.first_audio is None:
            stages.first_audio = event.at

    def items(self) -> list[AnyItem]:
        """What it has put out so far, in order."""
        found: list[AnyItem] = [*([self.message] if self.message is not None else []), *self.calls.values()]
        return sorted(found, key=lambda item: self.output_index[item.item_id])

    def credit_due(self, played_ms: float, credit_ms: int) -> int:
        """Milliseconds to grant now so that the engine stays `credit_ms` ahead of what was played; 0 if too few."""
        due = int(played_ms) + credit_ms - self.granted_ms
        if due < GRANT_STEP_MS or self.done is not None:
            return 0
        self.granted_ms += due
        return due


class InputClock:
    """Remembers when recent input samples arrived, so that a sample number can be turned into a time.

    Bounded: about `KEPT_FRAMES` frames, which is longer than any endpoint wait that matters for latency."""

    KEPT_FRAMES = 1_024  # 20 s of 20 ms frames

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float, float]] = deque(maxlen=self.KEPT_FRAMES)

    def received(self, end_sample: int, now: float, jitter_buffer_ms: float) -> None:
        """Samples up to `end_sample` are here at `now`, after `jitter_buffer_ms` inside the server."""
        self._marks.append((end_sample, now, jitter_buffer_ms))

    def arrival(self, sample: int) -> tuple[float, float]:
        """(monotonic seconds, jitter buffer ms) of `sample`; the oldest known when it is too old.

        Raises LookupError before any audio arrived."""
        if not self._marks:
            raise LookupError("no audio has been received yet")
        found = self._marks[-1]
        for mark in reversed(self._marks):
            if mark[0] < sample:
                break
            found = mark
        return found[1], found[2]


def response_object(response: Response, status: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
    """The `response` resource of the Realtime API."""
    plan, done = response.plan, response.done
    body: dict[str, Any] = {
        "object": "realtime.response",
        "id": response.response_id,
        "conversation_id": response.conversation_id,
        "status": status,
        "status_details": details,
        "output": [] if status == "in_progress" else [item.to_event() for item in response.items()],
        "output_modalities": [plan.output],
        "max_output_tokens": plan.max_output_tokens or "inf",
        "metadata": plan.metadata,
        "usage": None,
    }
    if plan.output == "audio":
        body["audio"] = {"output": {"format": plan.audio_format, "voice": plan.voice}}
    if status == "in_progress" or done is None:
        return body
    if done.fault is not None and status == "failed":
        error = {"type": "server_error", "code": done.fault.code, "message": done.fault.message}
        body["status_details"] = {"type": "failed", "error": error}
    body["usage"] = usage_object(done.usage)
    return body


def usage_object(usage: Usage) -> dict[str, Any]:
    """Token counts in the API's shape. What came from the cache is text: engines cache what they have read."""
    total_in = usage.input_text_tokens + usage.input_audio_tokens
    total_out = usage.output_text_tokens + usage.output_audio_tokens
    cached_text = min(usage.cached_tokens, usage.input_text_tokens)
    return {
        "total_tokens": total_in + total_out,
        "input_tokens": total_in,
        "output_tokens": total_out,
        "input_token_details": {
            "text_tokens": usage.input_text_tokens,
            "audio_tokens": usage.input_audio_tokens,
            "image_tokens": 0,
            "cached_tokens": usage.cached_tokens,
            "cached_tokens_details": {"text_tokens": cached_text, "audio_tokens": usage.cached_tokens - cached_text},
        },
        "output_token_details": {
            "text_tokens": usage.output_text_tokens,
            "audio_tokens": usage.output_audio_tokens,
        },
    }
