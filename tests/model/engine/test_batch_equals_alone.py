"""The law of the engine: every reply is what it would be alone, whoever else is served, waits, leaves or gives way."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
import torch

from model.engine.runner import TorchRunner
from tests.model.engine.conftest import BuildEngine
from tests.support.engine_contract import PLENTY_MS, assert_lawful
from tests.support.opens2s_watch import (
    CASES,
    MAX_STEPS,
    Outcome,
    Watched,
    assert_clean,
    assert_same,
    at_random,
    readable_tokens,
)

Alone = Callable[..., Outcome]


class Schedule:
    """Requests that come, wait, are cancelled, released and granted credit, and give way, as a seed draws it."""

    def __init__(self, driver: Watched, seed: int, *, gives_way: float = 0.08) -> None:
        self.driver, self.numbers = driver, random.Random(seed)
        self.gives_way = gives_way
        driver.pace = at_random(self.numbers)
        names = self.numbers.choices(list(CASES), k=self.numbers.randrange(7, 12))
        self.arrivals = sorted((self.numbers.randrange(60), name) for name in names)
        """Step and case."""
        self.names: dict[str, str] = {}
        self.frugal: set[str] = set()
        self.dropped: set[str] = set()
        self.phases: set[str] = set()
        """In which somebody gave way."""

    def run(self) -> None:
        for number in range(MAX_STEPS):
            while self.arrivals and self.arrivals[0][0] <= number:
                self._arrive(self.arrivals.pop(0)[1])
            live = [key for key in self.names if self.driver.done(key) is None and key not in self.dropped]
            if not live and not self.arrivals:
                break
            for key in live:
                self._happen(key)
            started = self.driver.started()
            if started and self.numbers.random() < self.gives_way:
                self._give_way(self.numbers.choice(started).id)
            is_hungry = any(key in self.frugal for key in live)
            assert self.driver.engine.has_work or self.arrivals or is_hungry, self.driver.states()
            self.driver.step()
            self.driver.core.check()
        else:
            raise AssertionError(f"no end: {self.driver.states()}")
        self.driver.step()

    def _arrive(self, name: str) -> None:
        credit_ms = self.numbers.choice([0, 300, PLENTY_MS, PLENTY_MS])
        key = self.driver.ask(name, is_held=self.numbers.random() < 0.4, audio_credit_ms=credit_ms)
        self.names[key] = name
        if credit_ms < PLENTY_MS:
            self.frugal.add(key)

    def _happen(self, key: str) -> None:
        """What the server may do to a response at any time."""
        if key in self.frugal and self.numbers.random() < 0.3:
            self.driver.engine.grant(key, self.numbers.choice([20, 170, 900]))
        if self.numbers.random() < 0.02:
            self.driver.engine.release(key)
        if len(self.dropped) < 3 and self.numbers.random() < 0.006:
            self.driver.engine.cancel(key)
            self.dropped.add(key)

    def _give_way(self, key: str) -> None:
        sequence = self.driver.sequence(key)
        self.phases.add(sequence.phase)
        self.driver.core._preempt(sequence)

    def check(self, alone: Alone, interleaving: str = "1:2") -> None:
        for key, name in self.names.items():
            done = self.driver.done(key)
            assert done is not None
            if key in self.dropped:
                assert done.status == "cancelled"
                continue
            assert done.fault is None, (name, done.fault)
            assert_lawful(self.driver, key)
            if CASES[name].fields.get("output") != "listen":
                assert_same(self.driver.outcome(key), alone(name, interleaving), name)
        assert_clean(self.driver)
        self.driver.events.clear()


def test_there_are_replies_of_every_kind(alone: Alone) -> None:
    """What the law is tried on: ends of text and of groups of speech, budgets, and replies without sound."""
    found = {name: alone(name) for name in CASES}
    assert {one.status for one in found.values()} == {"completed", "incomplete"}
    spoken = [one for name, one in found.items() if CASES[name].fields.get("output") is None]
    assert all(len(one.audio) for one in spoken)
    assert len({len(one.tokens) for one in spoken}) > 4
    assert found["audio"].tokens == found["the same again"].tokens != found["another seed"].tokens


ALL = [("1:2", name) for name in CASES if name != "listening"]
SOME = [("3:5", name) for name in ("audio", "history", "voice", "written", "short reply")]


@pytest.mark.parametrize(("interleaving", "name"), ALL + SOME)
def test_a_reply_is_that_of_the_readable_loop(
    engine_of: Callable[[str], Watched], alone: Alone, interleaving: str, name: str
) -> None:
    """Token for token, though the engine makes several per step, in blocks, and shares what it has read."""
    driver = engine_of(interleaving)
    key = driver.ask(name)
    driver.run(key)
    request = driver.request(CASES[name].audio, CASES[name].text, **CASES[name].fields)
    assert driver.tokens[key] == readable_tokens(driver, key, request, request.seed)
    assert_same(driver.outcome(key), alone(name, interleaving), name)


def test_greedy_replies_are_those_of_the_readable_loop(build: BuildEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.backends.opens2s.engine.SPEECH_TEMPERATURE", 0.0)
    driver = build(temperature=0.0)
    assert driver.runner._options.text_sampling.is_greedy
    assert driver.runner._options.unit_sampling.is_greedy
    keys = {driver.ask(name): name for name in ("audio", "history", "much typed", "written", "another seed")}
    driver.run(*keys)
    for key, name in keys.items():
        request = driver.request(CASES[name].audio, CASES[name].text, **CASES[name].fields)
        assert driver.tokens[key] == readable_tokens(driver, key, request, seed=99), name
    assert len({str(driver.tokens[key]) for key in keys}) == 4, "a seed makes no difference"


@pytest.mark.parametrize("seed", range(4))
def test_at_random_with_room_for_all(engine: Watched, alone: Alone, seed: int) -> None:
    schedule = Schedule(engine, seed)
    schedule.run()
    schedule.check(alone)
    assert schedule.phases


@pytest.mark.parametrize("seed", range(10, 12))
def test_at_random_in_groups_of_other_sizes(engine_of: Callable[[str], Watched], alone: Alone, seed: int) -> None:
    schedule = Schedule(engine_of("3:5"), seed)
    schedule.run()
    schedule.check(alone, "3:5")


@pytest.fixture(scope="module")
def narrow(build: BuildEngine) -> Watched:
    """Room for one reply of full length and a little more."""
    driver = build(kv_cache_gb=0.001, max_sequences=3)
    assert driver.opens2s.sizes.speech_blocks < 8
    return driver


@pytest.mark.parametrize("seed", range(20, 24))
def test_at_random_in_caches_that_are_too_small(narrow: Watched, alone: Alone, seed: int) -> None:
    """Guesses give way to replies, and to each other, by themselves."""
    before = narrow.core.stats.preemptions
    schedule = Schedule(narrow, seed, gives_way=0.01)
    schedule.run()
    schedule.check(alone)
    assert narrow.core.stats.preemptions > before


@pytest.mark.parametrize("seed", range(30, 33))
def test_at_random_with_rows_and_tables_filled_up(
    build: BuildEngine, alone: Alone, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where passes are recorded for a few sizes."""
    driver = build(max_sequences=6, max_batch=3) if seed % 2 else build()
    monkeypatch.setattr(driver.runner, "_is_padded", True)
    schedule = Schedule(driver, seed)
    schedule.run()
    schedule.check(alone)


@pytest.mark.parametrize("seed", range(40, 43))
def test_at_random_with_sound_decoded_beside(
    build: BuildEngine, alone: Alone, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: a batch of sound is ready some steps later, and those it belongs to go on, leave or give way."""
    monkeypatch.setattr(TorchRunner, "sound_is_beside", True)
    driver = build(kv_cache_gb=0.001) if seed % 2 else build(max_sequences=4)
    collect, numbers = driver.runner.collect_sound, random.Random(seed)

    def later(wait: bool) -> object:
        return collect(wait) if wait or numbers.random() < 0.3 else None

    monkeypatch.setattr(driver.runner, "collect_sound", later)
    schedule = Schedule(driver, seed)
    schedule.run()
    driver.run_to(lambda: not driver.engine.has_work)
    schedule.check(alone)


@pytest.fixture(scope="module")
def on_gpu(build: BuildEngine) -> Iterator[tuple[Watched, Watched]]:
    """Two engines on a GPU: one that launches every pass from Python, and one that has recorded them."""
    with pytest.MonkeyPatch.context() as patch:
        # All 24 bits: kernels that are chosen by the size of a batch then differ by rounding alone.
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        options: dict[str, object] = {"device": "cuda", "dtype": "float32"}
        plain, recorded = build(**options), build(**options, max_sequences=6, max_batch=3)
        recorded.opens2s._record()
        yield plain, recorded


@pytest.mark.skipif(not torch.cuda.is_available(), reason="passes are recorded on a GPU only")
@pytest.mark.parametrize("seed", range(50, 54))
def test_at_random_on_a_gpu(on_gpu: tuple[Watched, Watched], seed: int) -> None:
    """Recorded passes, two streams and pinned buffers, against plain passes of one reply."""
    plain, driver = on_gpu
    schedule = Schedule(driver, seed)
    schedule.run()
    driver.run_to(lambda: not driver.engine.has_work)
    assert driver.runner._text.num_replays
    assert driver.runner._next_units.num_replays

    def alone(name: str, interleaving: str) -> Outcome:
        key = plain.ask(name)
        plain.run(key)
        outcome = plain.outcome(key)
        plain.forget()
        return outcome

    schedule.check(alone)
