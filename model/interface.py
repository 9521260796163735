"""The contract between the server and whatever generates speech.

Plain data and one protocol: standard library and numpy only, so that the server never needs torch
and a model author never meets asyncio. The server owns calls, conversations and playout; the engine
owns weights, caches and everything between "the user said this" and "this is the sound of the reply".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Pcm16: TypeAlias = NDArray[np.int16]
"""Mono signed 16-bit PCM, shape [samples]; the rate stands beside it."""

INPUT_SAMPLE_RATE = 16_000
"""Rate in Hz of all audio that enters an engine."""

Role = Literal["system", "user", "assistant"]
OutputMode = Literal["audio", "text", "transcript", "listen"]
"""What a response is made of: sound with its text; text alone; only the words that were understood, no reply; or
nothing at all: "listen" means hear the audio and get ready, and the response ends `completed` without output."""
ToolChoice = Literal["auto", "none", "required"]
ResponseStatus = Literal["completed", "cancelled", "failed", "incomplete"]


@dataclass(frozen=True, slots=True)
class ConversationItem:
    """One finished message of the conversation."""

    role: Role
    text: str
    """What was said. For an assistant item that was interrupted: only the words that were heard."""
    audio: Pcm16 | None = None
    """The user's own audio at 16 kHz, for engines that listen to history (`EngineInfo.listens_to_history`); None where
    it is not kept. `text` may then be empty."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A function that the model may ask the client to call."""

    name: str
    description: str
    parameters: Mapping[str, object]
    """JSON Schema of its arguments, an object; plain dicts, lists and scalars."""


@dataclass(frozen=True, slots=True)
class ToolCallItem:
    """A call that the model asked for earlier."""

    call_id: str
    name: str
    arguments: str
    """JSON text."""


@dataclass(frozen=True, slots=True)
class ToolResultItem:
    """What the client's function returned."""

    call_id: str
    output: str
    """Any text, usually JSON."""


HistoryItem: TypeAlias = ConversationItem | ToolCallItem | ToolResultItem


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Ask for one reply. Everything the engine needs is in here; it keeps no conversation of its own."""

    call_id: str
    response_id: str
    """Names this reply in every event. A reply that was dropped is recognised by this id alone."""
    turn_id: str
    """Names the stretch of user speech; several speculative requests may carry the same one."""
    items: tuple[HistoryItem, ...]
    """History, oldest first, without the turn in `audio`. When `audio` is None the reply follows the last item,
    whatever it is: a user's text, a tool's result, or nothing at all when there are only `instructions`."""
    audio: Pcm16 | None = None
    """The user's turn at 16 kHz, pre-roll included; None when the reply follows the last item."""
    pauses: tuple[int, ...] = ()
    """Sample offsets in `audio` where the user paused, rising: safe places to cut a long turn."""
    instructions: str = ""
    """The session's instructions; "" means the backend's own default."""
    voice: str = ""
    """One of `EngineInfo.voices`; "" means the first."""
    max_output_tokens: int | None = None
    """Upper bound on generated text tokens; None means the backend's default."""
    speed: float = 1.0
    """How fast to speak, inside `EngineInfo.speed_range`."""
    output: OutputMode = "audio"
    tools: tuple[ToolSpec, ...] = ()
    """Never given to an engine whose `EngineInfo.supports_tools` is False."""
    tool_choice: ToolChoice = "auto"
    """"required": the response is a call of one of `tools` (one that was named stands there alone)."""
    seed: int = 0
    audio_credit_ms: int = 1_000
    """Milliseconds of audio the engine may emit before it is granted more."""
    is_held: bool = False
    """Nobody hears it yet: a guess that the turn is over. It may be dropped (`SpeechEngine.cancel`), or somebody may
    begin to wait for it (`SpeechEngine.release`)."""
    traceparent: str = ""
    """The W3C trace context that its work belongs to; "" where nobody traces it. Engines need not look at it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one response, as OpenAI's Realtime API reports them."""

    input_text_tokens: int = 0
    input_audio_tokens: int = 0
    cached_tokens: int = 0
    output_text_tokens: int = 0
    output_audio_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineFault:
    """Why a response failed; safe to show to the caller (no paths, no transcript)."""

    code: str
    """Short and stable: "engine_lost", "engine_busy", "invalid_request", "internal_error", ..."""
    message: str


# --- events: engine -> server. `at` is time.monotonic() in seconds when the engine produced it;
# --- on Linux that clock is shared by all processes of a machine, so stages can be subtracted.


@dataclass(frozen=True, slots=True)
class ResponseStarted:
    """The request left the queue and is being worked on."""

    response_id: str
    at: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """What the engine understood of `GenerateRequest.audio`; at most one per response, before any text.

    "" means that no words were found; the engine then ends the response `completed` without output."""

    response_id: str
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class TranscriptDelta:
    """The next words of what is being understood, before `Transcript`; pieces joined are its text, spaces included.

    Engines that recognise a turn in one go send none."""

    response_id: str
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """The next piece of a call that the model asks for. Pieces of one `index` joined are the arguments' JSON text."""

    response_id: str
    index: int
    """Number of the call within the response, from 0; the pieces of one call come in a row."""
    name: str
    arguments: str
    is_last: bool
    """The call is complete: its arguments are valid JSON, and fit the tool's schema as far as the engine can tell."""
    at: float


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the reply's text; pieces joined are the whole text, spaces included."""

    response_id: str
    text: str
    at: float


@dataclass(frozen=True, slots=True)
class AudioDelta:
    """The next piece of the reply's sound at `EngineInfo.sample_rate`; pieces joined are the whole reply."""

    response_id: str
    pcm: Pcm16
    text_end: int | None
    """How many characters of the reply's text are spoken when this piece ends, as far as the engine
    knows; never falls; None when it does not know. Used to cut the transcript at what was heard."""
    at: float


@dataclass(frozen=True, slots=True)
class ResponseDone:
    """Always the last event of a response, exactly once, whatever the outcome."""

    response_id: str
    status: ResponseStatus
    at: float
    fault: EngineFault | None = None
    """Set when `status` is "failed"."""
    usage: Usage = field(default_factory=Usage)


EngineEvent: TypeAlias = (
    ResponseStarted | TranscriptDelta | Transcript | TextDelta | AudioDelta | ToolCallDelta | ResponseDone
)


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine is and can do; constant once the engine is warm."""

    name: str
    """The model's name as clients see it in `session.model`."""
    sample_rate: int
    """Rate in Hz of every `AudioDelta`."""
    max_sequences: int
    """How many responses are worked on at once; more are queued inside the engine."""
    gives_transcripts: bool
    """True when every audio turn yields a `Transcript`. Only then is `output` "transcript" possible."""
    voices: tuple[str, ...] = ("default",)
    speed_range: tuple[float, float] = (1.0, 1.0)
    """Slowest and fastest `GenerateRequest.speed`; equal when it cannot be changed."""
    supports_tools: bool = False
    listens_to_history: bool = False
    """Wants the sound of the user's past turns; other engines are told their words alone."""
    listen_ahead_ms: int = 0
    """0: not wanted. Otherwise the server hands over what the user has said so far each time so much more of the turn
    was spoken, so that the engine can hear long turns while they are spoken (`output` "listen")."""
    max_calls: int | None = None
    """How many calls this engine serves in time, at least 1, as it measured while warming up; None: it does not
    know."""
    description: str = ""
    """One honest sentence for the page, e.g. "small embedded demo models"."""


class EngineSetupError(ValueError):
    """What the operator gave (settings, files, a device) cannot be used. The message is a full sentence for them: what
    it is, what was found, and what to do."""


class SpeechEngine(Protocol):
    """A backend. Synchronous and driven by `step`; all methods are called from one thread.

    Laws (tests/support/engine_contract.py runs them over every backend):
    * every submitted response ends in exactly one `ResponseDone`, and nothing follows it;
    * after `cancel` returns, `step` yields for that id only `ResponseDone(status="cancelled")`
      (or nothing, if it had already ended) and all its memory is free;
    * the audio emitted for a response never exceeds the credit granted to it;
    * one response's failure never disturbs another.
    """

    @property
    def info(self) -> EngineInfo: ...

    @property
    def has_work(self) -> bool:
        """True when `step` should be called again at once; False when it may wait for the next command
        or for the `wake` callback that the factory was given."""

    def warm_up(self) -> None:
        """Run every model once so that the first caller does not pay for it. Blocks; called once."""

    def submit(self, request: GenerateRequest) -> None:
        """Queue a request. Raises ValueError if it is not valid for this engine."""

    def cancel(self, response_id: str) -> None:
        """Stop and free a response; unknown or ended ids are ignored."""

    def grant(self, response_id: str, audio_ms: int) -> None:
        """Add `audio_ms` to the credit of a response; unknown or ended ids are ignored."""

    def release(self, response_id: str) -> None:
        """The response is no longer a guess (`GenerateRequest.is_held`): somebody waits for it. What it says does not
        change; unknown, ended and never held ids are ignored."""

    def step(self, now: float) -> list[EngineEvent]:
        """Do one bounded piece of work (never wait for input) and return what came out of it.

        `now` is time.monotonic() in seconds; engines stamp events with it or with a later reading."""

    def close(self) -> None:
        """Release threads, memory and devices; idempotent. Live responses end without events."""


@dataclass(frozen=True, slots=True)
class CacheUse:
    """One KV cache."""

    name: Literal["text", "speech"]
    used_blocks: int
    """Held by responses; what is only kept in case it is wanted again does not count."""
    blocks: int


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine is doing, as far as it knows: numbers only."""

    running: int = 0
    """Responses that are worked on."""
    waiting: int = 0
    """Responses that wait for a place inside the engine."""
    caches: tuple[CacheUse, ...] = ()
    passes: Mapping[int, int] = field(default_factory=dict)
    """Passes of the model since the engine began, by the number of responses that were worked on together."""
    compute_seconds: float | None = None
    """Time that its threads computed since then, together; None: what its steps took."""


@runtime_checkable
class ReportsLoad(Protocol):
    """What a `SpeechEngine` may offer besides; asked about once a second, between two steps."""

    def load(self) -> EngineLoad: ...


Wake: TypeAlias = Callable[[], None]
"""Callable from any thread: asks the host to call `step` soon. Engines with threads of their own use it."""

EngineFactory: TypeAlias = Callable[[Mapping[str, object], Wake], SpeechEngine]
"""Builds and loads an engine from the settings of its backend (a plain mapping) and a wake callback.

Raises `model.registry.ModelsMissingError` when weights are absent, and EngineSetupError or ValueError for what cannot
be used."""
