"""The turn model beside the event loop: the newest question of each call is answered, late answers reach nobody."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from model.interface import Pcm16
from model.weights import SMART_TURN, default_models_dir
from rtc_server.config import load_settings
from rtc_server.media.parts import turn_judge_factory
from rtc_server.media.turn_judges import ThreadedTurnJudge, TurnJudges
from rtc_server.turns.judge import TurnJudge
from rtc_server.turns.smart_turn import SmartTurn
from tests.support.recordings import recording


def audio(value: int) -> Pcm16:
    return np.full(160, value, np.int16)


class Model:
    """Answers with a hundredth of the first sample, once it is let."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.asked = threading.Semaphore(0)
        self.heard: list[int] = []
        self.loaded_in: list[str] = []

    def load(self) -> Callable[[Pcm16], float]:
        self.loaded_in.append(threading.current_thread().name)
        return self

    def __call__(self, pcm: Pcm16) -> float:
        self.heard.append(int(pcm[0]))
        self.asked.release()
        assert self.may_answer.wait(10)
        return int(pcm[0]) / 100

    async def is_asked(self) -> None:
        assert await asyncio.to_thread(self.asked.acquire, timeout=10)


@asynccontextmanager
async def judging(model: Model, calls: int = 1, max_waiting: int = 8) -> AsyncIterator[list[ThreadedTurnJudge]]:
    judges = TurnJudges(model.load, max_waiting)
    found = [judges() for _ in range(calls)]
    try:
        yield found
    finally:
        model.may_answer.set()
        for judge in found:
            judge.close()
            judge.close()  # idempotent


async def answer(judge: TurnJudge, pcm: Pcm16) -> float:
    future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    judge.ask(pcm, future.set_result)
    return await asyncio.wait_for(future, 10)


async def test_a_question_is_answered_on_the_loop() -> None:
    model, here = Model(), threading.get_ident()
    model.may_answer.set()
    async with judging(model) as (judge,):
        done, where = asyncio.Event(), list[int]()
        judge.ask(audio(70), lambda _: (where.append(threading.get_ident()), done.set()))
        assert not where, "never from within ask"
        await asyncio.wait_for(done.wait(), 10)
        assert where == [here]
        assert await answer(judge, audio(30)) == 0.3


async def test_the_model_is_loaded_in_the_thread_by_the_first_question_only() -> None:
    model = Model()
    model.may_answer.set()
    async with judging(model, calls=2) as (one, other):
        assert not model.loaded_in
        await answer(one, audio(1))
        await answer(other, audio(2))
    assert model.loaded_in == ["turn-judge"]


async def test_the_thread_leaves_with_the_last_call_and_comes_back_with_the_next() -> None:
    model = Model()
    model.may_answer.set()
    judges = TurnJudges(model.load)
    for _ in range(3):
        judge = judges()
        assert await answer(judge, audio(5)) == 0.05
        thread = judges._thread
        judge.close()
        if thread is not None:
            await asyncio.to_thread(thread.join, 10)
        assert judges._thread is None
    assert len(model.loaded_in) == 1, "the model stays"


async def test_the_newest_question_of_a_call_wins() -> None:
    model = Model()
    async with judging(model, calls=2) as (busy, judge):
        busy.ask(audio(1), lambda _: None)
        await model.is_asked()
        heard: list[float] = []
        judge.ask(audio(10), heard.append)
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        judge.ask(audio(20), future.set_result)
        model.may_answer.set()
        assert await asyncio.wait_for(future, 10) == 0.2
        assert not heard
        assert model.heard == [1, 20]


@pytest.mark.parametrize("end", ["ask", "cancel", "close"])
async def test_a_late_answer_reaches_nobody(end: str) -> None:
    model = Model()
    async with judging(model, calls=2) as (judge, other):
        late: list[float] = []
        judge.ask(audio(10), late.append)
        await model.is_asked()  # the model is at it
        if end == "ask":
            judge.ask(audio(20), lambda _: None)
        else:
            getattr(judge, end)()
        model.may_answer.set()
        assert await answer(other, audio(30)) == 0.3
        assert not late


async def test_a_cancelled_question_is_not_even_put_to_the_model() -> None:
    model = Model()
    async with judging(model, calls=3) as (busy, judge, last):
        busy.ask(audio(1), lambda _: None)
        await model.is_asked()
        judge.ask(audio(2), lambda _: None)
        judge.cancel()
        model.may_answer.set()
        await answer(last, audio(3))
        assert model.heard == [1, 3]


async def test_when_too_many_wait_the_new_question_is_not_answered_and_the_old_ones_are() -> None:
    model = Model()
    async with judging(model, calls=4, max_waiting=2) as (busy, one, two, three):
        busy.ask(audio(1), lambda _: None)
        await model.is_asked()
        heard: list[float] = []
        one.ask(audio(2), heard.append)
        two.ask(audio(3), lambda _: None)
        three.ask(audio(4), heard.append)
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        two.ask(audio(5), future.set_result)  # in place of its own
        model.may_answer.set()
        assert await asyncio.wait_for(future, 10) == 0.05
        assert heard == [0.02]
        assert model.heard == [1, 2, 5]
        assert await answer(three, audio(6)) == 0.06


async def test_a_closed_judge_asks_no_more() -> None:
    model = Model()
    async with judging(model, calls=2) as (judge, other):
        model.may_answer.set()
        judge.close()
        judge.ask(audio(1), lambda _: None)
        await answer(other, audio(2))
        assert model.heard == [2]


@pytest.mark.parametrize("where", ["load", "run"])
async def test_a_model_that_fails_is_logged_once_and_never_asked_again(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(pcm: Pcm16) -> float:
        raise OSError("the file is damaged")

    def load() -> Callable[[Pcm16], float]:
        if where == "load":
            raise OSError("the file is damaged")
        return fail

    judges = TurnJudges(load)
    judge, answers = judges(), list[float]()
    with caplog.at_level(logging.ERROR):
        judge.ask(audio(1), answers.append)
        thread = judges._thread
        if thread is not None:
            await asyncio.to_thread(thread.join, 10)
        judge.ask(audio(2), answers.append)
    assert judges._thread is None
    assert not answers
    assert [record.message for record in caplog.records] == ["the turn model failed; it is not asked again"]
    judge.close()


def test_an_answer_for_a_loop_that_is_gone_is_dropped() -> None:
    model = Model()
    judges = TurnJudges(model.load)
    judge = judges()

    async def ask() -> None:
        judge.ask(audio(1), lambda _: None)
        await model.is_asked()

    asyncio.run(ask())
    thread = judges._thread
    assert thread is not None
    model.may_answer.set()
    judge.close()
    thread.join(10)
    assert not thread.is_alive()


async def test_the_real_model_answers_through_the_factory_as_it_does_by_itself() -> None:
    path = default_models_dir() / SMART_TURN
    if not path.exists():
        pytest.skip("the turn model is missing; run `rtc-server models fetch`")
    judge = turn_judge_factory(load_settings(Path("config/server.toml"), {}))()
    try:
        assert await answer(judge, recording("f0_rms")) == SmartTurn(path)(recording("f0_rms"))
    finally:
        judge.close()
