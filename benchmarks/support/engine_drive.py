"""Drives an engine with conversations, as the server's engine host does: one thread, commands between steps.

Paced: turns come when they are due, the listener plays in real time and grants credit as he plays. Flat out: credit for
the whole reply, and a call's next turn at once, until the first call has had all its turns: nobody is ever alone, and
what the others have of their replies counts. A reply is over when it has made the sound that its turn asks for; it
is then cancelled, so that replies are equally long whatever random weights say. History is what was really said.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.support.listening import Listener
from benchmarks.support.workload import UNIT_MS, Script, Turn
from model.interface import (
    AudioDelta,
    ConversationItem,
    EngineEvent,
    GenerateRequest,
    HistoryItem,
    ResponseDone,
    SpeechEngine,
    TextDelta,
)

FIRST_CREDIT_MS = 1_000  # what the server gives
LONGEST_WAIT_SECONDS = 0.1
DRAIN_SECONDS = 30.0  # after the last turn; what is not finished then is cut


@dataclass(frozen=True, slots=True)
class System:
    """One of the things that are compared."""

    name: str
    engine: SpeechEngine
    woken: threading.Event
    """Set by the engine's `wake`."""
    announce: Callable[[str, int], None] | None = None
    """Tells a system that cannot be stopped in time how many speech tokens the reply of this id shall have."""
    busy_seconds: Callable[[], float] | None = None
    """Of a system that computes outside `step`."""
    forget: Callable[[], None] | None = None
    """Drops what it keeps of earlier conversations, so that a run finds nothing of the one before."""


@dataclass(slots=True)
class TurnResult:
    """What became of one turn."""

    call: int
    reply_ms: int
    first_audio_ms: float | None = None
    """From when the turn was due to the first sound. Of a turn that was cut before any: how long it had waited."""
    audio_ms: float = 0.0
    reply_seconds: float | None = None
    """From when the turn was due to the last sound; None when it was not completed."""
    num_text: int = 0
    """Text tokens that go with the sound that was heard."""
    underruns: int = 0
    underrun_ms: float = 0.0
    is_cut: bool = False
    """The next turn was due (or the run over) while the reply was not complete."""
    is_silent: bool = False
    """Cut before its first sound."""
    fault: str | None = None
    """Code of the failure: "engine_busy" is a refusal."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    turns: tuple[TurnResult, ...]
    busy_seconds: float
    """How long the engine computed."""
    wall_seconds: float

    @property
    def audio_seconds(self) -> float:
        return sum(turn.audio_ms for turn in self.turns) / 1000

    @property
    def num_tokens(self) -> int:
        """Text tokens and speech tokens that were heard; what was made beyond and thrown away does not count."""
        return sum(turn.num_text + int(turn.audio_ms / UNIT_MS) for turn in self.turns)

    @property
    def num_refused(self) -> int:
        return sum(turn.fault == "engine_busy" for turn in self.turns)

    @property
    def num_failed(self) -> int:
        return sum(turn.fault is not None for turn in self.turns) - self.num_refused


class _Call:
    """One conversation: its turns, its history, and the reply that is being made."""

    def __init__(self, number: int, script: Script) -> None:
        self.number = number
        self.waiting = deque(script)
        self.items: list[HistoryItem] = []
        self.reply: _Reply | None = None
        self.guess: _Reply | None = None
        """Of the next turn, before that is due."""

    def find(self, response_id: str) -> _Reply | None:
        replies = (reply for reply in (self.reply, self.guess) if reply is not None)
        return next((reply for reply in replies if reply.request.response_id == response_id), None)


class _Reply:
    def __init__(self, turn: Turn, request: GenerateRequest, due: float, call: int) -> None:
        self.turn, self.request, self.due = turn, request, due
        self.listener = Listener(turn.seed)
        self.result = TurnResult(call, turn.reply_ms)
        self.text = ""
        self.early: list[EngineEvent] = []
        """What came while it was a guess."""


class Drive:
    """One run of one system."""

    def __init__(self, system: System, calls: Sequence[Script], *, is_paced: bool, hold_ms: int = 0) -> None:
        """hold_ms: so long before it is due a turn is submitted as a guess, as the server does at a pause."""
        self._system, self._engine, self._is_paced = system, system.engine, is_paced
        self._calls = [_Call(number, script) for number, script in enumerate(calls)]
        self._hold = hold_ms / 1000 if is_paced else 0.0
        self._count = 0
        self._by_id: dict[str, _Call] = {}
        self._results: list[TurnResult] = []
        self._start = 0.0
        self._last_due = max((turn.due for script in calls for turn in script), default=0.0)

    def run(self) -> Outcome:
        engine, busy = self._engine, 0.0
        outside = self._system.busy_seconds
        busy_before = outside() if outside else 0.0
        self._start = time.monotonic()
        while True:
            now = time.monotonic()
            due = self._act(now)
            talking = [bool(call.reply or call.waiting) for call in self._calls]
            if not (any(talking) if self._is_paced else all(talking)):
                self._cut_all(now)
                break
            if self._is_paced and now > self._start + self._last_due + DRAIN_SECONDS:
                self._cut_all(now)
                break
            if not engine.has_work:
                self._system.woken.wait(max(0.001, min(due - time.monotonic(), LONGEST_WAIT_SECONDS)))
            self._system.woken.clear()
            if not engine.has_work:
                continue
            began = time.monotonic()
            events = engine.step(began)
            ended = time.monotonic()
            busy += ended - began
            for event in events:
                self._take(event, ended)
        wall = time.monotonic() - self._start
        self._settle()
        return Outcome(tuple(self._results), outside() - busy_before if outside else busy, wall)

    # --- what is due

    def _act(self, now: float) -> float:
        """Do all that is due; returns when the next thing will be."""
        following = float("inf")
        for call in self._calls:
            if call.waiting:
                due = self._start + call.waiting[0].due if self._is_paced else now
                if not self._is_paced and call.reply:
                    continue  # the next turn comes when this one is complete
                if due - self._hold <= now < due and call.guess is None and call.reply is None:
                    call.guess = self._submit(call, due, is_held=True)
                if now >= due:
                    self._begin(call, due, now)
                    due = self._start + call.waiting[0].due if call.waiting and self._is_paced else now
                following = min(following, due - (0.0 if call.guess else self._hold))
            if call.reply and self._is_paced:
                grant = call.reply.listener.grant(now)
                if grant:
                    self._engine.grant(call.reply.request.response_id, grant)
                following = min(following, call.reply.listener.next_grant_at())
        return following

    def _begin(self, call: _Call, due: float, now: float) -> None:
        """The call's next turn is due."""
        if call.reply:
            self._cut(call, call.reply, now)
        reply, call.guess = call.guess or self._submit(call, due), None
        call.waiting.popleft()
        call.reply = reply
        if reply.request.is_held:
            self._engine.release(reply.request.response_id)
        for event in reply.early:
            if call.reply is reply:
                self._advance(call, reply, event, now)

    def _submit(self, call: _Call, due: float, is_held: bool = False) -> _Reply:
        """Ask for the reply to the call's next turn."""
        turn = call.waiting[0]
        self._count += 1
        key = f"response-{self._count}"
        request = GenerateRequest(
            call_id=f"call-{call.number}",
            response_id=key,
            turn_id=f"turn-{self._count}",
            items=tuple(call.items),
            audio=turn.utterance(),
            max_output_tokens=turn.max_text,
            seed=turn.seed,
            audio_credit_ms=FIRST_CREDIT_MS if self._is_paced else turn.reply_ms,
            is_held=is_held,
        )
        if self._system.announce:
            self._system.announce(key, turn.num_units)
        self._by_id[key] = call
        self._engine.submit(request)
        return _Reply(turn, request, due, call.number)

    # --- what came

    def _take(self, event: EngineEvent, now: float) -> None:
        call = self._by_id.get(event.response_id)
        reply = call.find(event.response_id) if call else None
        if call is None or reply is None:
            return  # of a reply that is over
        if reply is call.guess:
            reply.early.append(event)
        else:
            self._advance(call, reply, event, now)

    def _advance(self, call: _Call, reply: _Reply, event: EngineEvent, now: float) -> None:
        result, listener = reply.result, reply.listener
        match event:
            case TextDelta(text=text):
                reply.text += text
            case AudioDelta(pcm=pcm):
                if result.first_audio_ms is None:
                    result.first_audio_ms = (now - reply.due) * 1000
                left_ms = reply.turn.reply_ms - listener.received_ms
                listener.receive(min(left_ms, len(pcm) * 1000 / self._engine.info.sample_rate), now)
                if listener.received_ms >= reply.turn.reply_ms - 0.5:  # of rounding
                    self._complete(call, reply, now)
            case ResponseDone(status="failed", fault=fault):
                result.fault = fault.code if fault else "unknown"
                self._end(call, reply)
            case ResponseDone():
                self._complete(call, reply, now)

    def _complete(self, call: _Call, reply: _Reply, now: float) -> None:
        """The listener has, or will have, all that he is to hear."""
        reply.result.reply_seconds = now - reply.due
        if reply.result.first_audio_ms is None:  # it said nothing
            reply.result.is_silent = True
        self._engine.cancel(reply.request.response_id)
        self._end(call, reply)

    def _cut(self, call: _Call, reply: _Reply, now: float) -> None:
        """The reply is interrupted, as by somebody who talks over it."""
        result = reply.result
        result.is_cut = True
        reply.listener.stop(now)
        if result.first_audio_ms is None:
            result.is_silent = True
            result.first_audio_ms = (now - reply.due) * 1000
        self._engine.cancel(reply.request.response_id)
        self._end(call, reply)

    def _cut_all(self, now: float) -> None:
        for call in self._calls:
            if call.reply:
                self._cut(call, call.reply, now)

    def _end(self, call: _Call, reply: _Reply) -> None:
        result, listener = reply.result, reply.listener
        result.audio_ms = listener.received_ms
        result.num_text = round(reply.turn.max_text * result.audio_ms / reply.turn.reply_ms)
        result.underruns, result.underrun_ms = listener.num_underruns, listener.underrun_ms
        self._results.append(result)
        call.reply = None
        self._by_id.pop(reply.request.response_id, None)
        call.items.append(ConversationItem("user", "", reply.request.audio))
        if reply.text:
            call.items.append(ConversationItem("assistant", reply.text))

    def _settle(self) -> None:
        """Let the engine tell the ends of what was cancelled."""
        end = time.monotonic() + LONGEST_WAIT_SECONDS
        while self._engine.has_work and time.monotonic() < end:
            self._engine.step(time.monotonic())
