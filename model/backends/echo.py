"""The engine without a model: it repeats what was said. For tests, benchmarks and trying out the media path.

An audio turn comes back as the same audio, or as a sentence about it where only text is wanted; a text turn comes
back as text without sound. There are no threads: everything happens in `step`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from model.backends.requests import AudioCredit, check_request
from model.interface import (
    INPUT_SAMPLE_RATE,
    AudioDelta,
    ConversationItem,
    EngineEvent,
    EngineInfo,
    EngineLoad,
    GenerateRequest,
    ResponseDone,
    ResponseStarted,
    TextDelta,
    ToolResultItem,
    Wake,
)

INFO = EngineInfo(
    name="echo",
    sample_rate=INPUT_SAMPLE_RATE,
    max_sequences=64,
    gives_transcripts=False,
    voices=("default",),
    description="Repeats what you say. No model is involved.",
)


@dataclass(slots=True)
class _Echo:
    request: GenerateRequest
    credit: AudioCredit
    is_started: bool = False
    num_emitted: int = 0
    """Samples that went out."""

    @property
    def remaining(self) -> int:
        """Samples still to emit."""
        audio = self.request.audio
        return 0 if audio is None or self.request.output == "text" else len(audio) - self.num_emitted

    @property
    def can_move(self) -> bool:
        return not self.is_started or self.remaining == 0 or self.credit.samples > 0


class EchoEngine:
    """`SpeechEngine` that answers with the question."""

    def __init__(self) -> None:
        self._live: dict[str, _Echo] = {}
        self._cancelled: list[str] = []  # at most one entry per live response
        self._passes: Counter[int] = Counter()

    @property
    def info(self) -> EngineInfo:
        return INFO

    @property
    def has_work(self) -> bool:
        return bool(self._cancelled) or any(echo.can_move for echo in self._running())

    def warm_up(self) -> None:
        """Nothing to warm."""

    def submit(self, request: GenerateRequest) -> None:
        check_request(request, INFO)
        if request.response_id in self._live:
            raise ValueError(f"response_id {request.response_id!r} is in use.")
        self._live[request.response_id] = _Echo(request, AudioCredit(INPUT_SAMPLE_RATE, request.audio_credit_ms))

    def cancel(self, response_id: str) -> None:
        if self._live.pop(response_id, None) is not None:
            self._cancelled.append(response_id)

    def grant(self, response_id: str, audio_ms: int) -> None:
        echo = self._live.get(response_id)
        if echo is not None:
            echo.credit.grant(audio_ms)

    def release(self, response_id: str) -> None:
        """Nothing to do: held responses are worked on like all others."""

    def step(self, now: float) -> list[EngineEvent]:
        """One piece of every running response that has credit."""
        events: list[EngineEvent] = [ResponseDone(key, "cancelled", now) for key in self._cancelled]
        self._cancelled.clear()
        moving = [echo for echo in self._running() if echo.can_move]
        if moving:
            self._passes[len(moving)] += 1
        for echo in moving:
            events += self._advance(echo, now)
        return events

    def load(self) -> EngineLoad:
        """See `ReportsLoad`."""
        running = len(self._running())
        return EngineLoad(running, len(self._live) - running, passes=dict(self._passes))

    def close(self) -> None:
        self._live.clear()
        self._cancelled.clear()

    def _running(self) -> list[_Echo]:
        return list(self._live.values())[: INFO.max_sequences]

    def _advance(self, echo: _Echo, now: float) -> list[EngineEvent]:
        request, events = echo.request, list[EngineEvent]()
        if not echo.is_started:
            echo.is_started = True
            events.append(ResponseStarted(request.response_id, now))
            if text := _text(request):
                events.append(TextDelta(request.response_id, text, now))
        size = echo.credit.piece(echo.remaining)
        if request.audio is not None and size:
            piece = request.audio[echo.num_emitted : echo.num_emitted + size].copy()
            echo.num_emitted += size
            echo.credit.spend(size)
            events.append(AudioDelta(request.response_id, piece, None, now))
        if echo.remaining == 0:
            del self._live[request.response_id]
            events.append(ResponseDone(request.response_id, "completed", now))
        return events


def _text(request: GenerateRequest) -> str:
    if request.audio is not None:
        seconds = len(request.audio) / INPUT_SAMPLE_RATE
        return f"I heard {seconds:.1f} seconds of audio." if request.output == "text" else ""
    match request.items[-1] if request.items else None:
        case ConversationItem(text=text) | ToolResultItem(output=text):
            return text
        case _:
            return request.instructions


def create(options: Mapping[str, object], wake: Wake) -> EchoEngine:
    """Engine factory. Raises ValueError for any option: there are none."""
    if options:
        raise ValueError(f"The echo backend has no options, got {', '.join(sorted(options))}.")
    return EchoEngine()
