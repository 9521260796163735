"""The turn model of a media process: one thread that judges pauses for all calls, beside the event loop.

A judgement takes tens of milliseconds, which is several ticks of the pacer; onnxruntime and numpy give the GIL back
meanwhile. The thread starts with the first question, loads the model, and leaves when no call that has asked is left.
It has no lower priority: waiting for a core it may hold the GIL, and then the loop waits too (docs/experiments.md).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from model.interface import Pcm16
from rtc_server import metrics
from rtc_server.turns.judge import TurnModel

log = logging.getLogger(__name__)

MAX_WAITING = 8  # questions: the last of them is answered after a quarter of a second; later it is of no use


@dataclass(frozen=True, slots=True)
class _Question:
    number: int
    audio: Pcm16
    loop: asyncio.AbstractEventLoop


class TurnJudges:
    """A `TurnJudgeFactory`. `load` makes the model, in the thread; `place` is what the thread calls first."""

    def __init__(
        self, load: Callable[[], TurnModel], max_waiting: int = MAX_WAITING, place: Callable[[], None] | None = None
    ) -> None:
        self._load = load
        self._place = place
        self._max_waiting = max_waiting
        self._model: TurnModel | None = None  # kept for the process's life; used by the thread only
        # Everything below belongs to the lock.
        self._changed = threading.Condition()
        self._waiting: dict[ThreadedTurnJudge, _Question] = {}  # one per call, the oldest first
        self._askers: set[ThreadedTurnJudge] = set()
        self._thread: threading.Thread | None = None
        self._has_failed = False

    def __call__(self) -> ThreadedTurnJudge:
        """The judge of one call."""
        return ThreadedTurnJudge(self)

    # --- for the judges, on the event loop

    def put(self, judge: ThreadedTurnJudge, question: _Question) -> None:
        """Take a question in place of the call's former one. What when full: the new question is never answered."""
        with self._changed:
            if self._has_failed or (judge not in self._waiting and len(self._waiting) >= self._max_waiting):
                self._waiting.pop(judge, None)
                metrics.TURN_QUESTIONS_DROPPED.inc()
                return
            self._waiting[judge] = question
            self._askers.add(judge)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="turn-judge", daemon=True)
                self._thread.start()
            self._changed.notify()

    def withdraw(self, judge: ThreadedTurnJudge) -> None:
        """Its question need not be answered."""
        with self._changed:
            self._waiting.pop(judge, None)

    def leave(self, judge: ThreadedTurnJudge) -> None:
        """It will ask no more; the thread ends with the last one."""
        with self._changed:
            self._waiting.pop(judge, None)
            self._askers.discard(judge)
            self._changed.notify()

    # --- the thread

    def _work(self) -> None:
        if self._place is not None:
            self._place()
        while (taken := self._take()) is not None:
            judge, question = taken
            try:
                if self._model is None:
                    self._model = self._load()
                probability = self._model(question.audio)
            except Exception:  # whatever the runtime raises: turns then end by their words, as without a model
                log.exception("the turn model failed; it is not asked again")
                with self._changed:
                    self._has_failed = True
                    self._waiting.clear()
                    self._thread = None
                return
            with suppress(RuntimeError):  # the loop was closed: nobody is there to hear the answer
                question.loop.call_soon_threadsafe(judge.answer, question.number, probability)

    def _take(self) -> tuple[ThreadedTurnJudge, _Question] | None:
        """The oldest question; None when the thread is to leave."""
        with self._changed:
            while not self._waiting:
                if not self._askers:
                    self._thread = None  # under the lock: who asks from now on starts another
                    return None
                self._changed.wait()
            judge = next(iter(self._waiting))
            return judge, self._waiting.pop(judge)


class ThreadedTurnJudge:
    """One call's side of `TurnJudges`. A `TurnJudge`."""

    def __init__(self, judges: TurnJudges) -> None:
        self._judges = judges
        self._number = 0  # of the latest question; answers to others are late
        self._on_answer: Callable[[float], None] | None = None
        self._is_closed = False

    def ask(self, audio: Pcm16, on_answer: Callable[[float], None]) -> None:
        """See `TurnJudge`."""
        if self._is_closed:
            return
        self._number += 1
        self._on_answer = on_answer
        self._judges.put(self, _Question(self._number, audio, asyncio.get_running_loop()))

    def cancel(self) -> None:
        """See `TurnJudge`."""
        if self._on_answer is not None:
            self._on_answer = None
            self._judges.withdraw(self)

    def close(self) -> None:
        """See `TurnJudge`."""
        self._on_answer = None
        self._is_closed = True
        self._judges.leave(self)

    def answer(self, number: int, probability: float) -> None:
        """The thread has judged question `number`; called on the event loop."""
        if number == self._number and self._on_answer is not None:
            on_answer, self._on_answer = self._on_answer, None
            on_answer(probability)
