"""What goes wrong stays with the reply it went wrong for, what ends leaves nothing, and what was read is read once."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from model.engine.runner import PendingRound, TorchRunner
from model.interface import AudioDelta, ConversationItem, ResponseDone
from tests.model.engine.conftest import BuildEngine
from tests.support.opens2s_watch import (
    F0,
    F1,
    LONG,
    PAST,
    Case,
    NoWaiting,
    Outcome,
    Watched,
    assert_clean,
    assert_same,
)

BLOCK = 16
Alone = Callable[..., Outcome]
NAN = float("nan")


@pytest.fixture
def driver(engine: Watched) -> Iterator[Watched]:
    """The shared engine, having read and heard nothing."""
    engine.forget()
    yield engine
    assert_clean(engine)
    engine.forget()


def assert_failed(driver: Watched, key: str) -> None:
    done = driver.done(key)
    assert isinstance(done, ResponseDone)
    assert done.status == "failed"
    assert done.fault is not None
    assert done.fault.code == "internal_error"
    assert driver.events[key][-1] is done


def assert_all_the_same(driver: Watched, alone: Alone, names: dict[str, str]) -> None:
    for key, name in names.items():
        assert_same(driver.outcome(key), alone(name), name)


# --- one that raises


class Broken:
    """Makes one call of the runner raise whenever a reply takes part, from its `after`th token on."""

    def __init__(self, driver: Watched, patch: pytest.MonkeyPatch, call: str, after: int = 0) -> None:
        self.driver, self.after, self.key = driver, after, ""
        self.count = 0
        original = getattr(driver.runner, call)

        def broken(given: Any) -> Any:
            if self._is_in(given):
                self.count += 1
                raise RuntimeError("a secret")
            return original(given)

        patch.setattr(driver.runner, call, broken)

    def _is_in(self, given: Any) -> bool:
        """Whether a sequence, parts, rows or jobs are, or are about, the one that is broken."""
        ids = [one[0] if isinstance(one, tuple) else getattr(one, "sequence", one) for one in _listed(given)]
        return any(one.id == self.key for one in ids) and len(self.driver.tokens.get(self.key, ())) >= self.after


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, (list, tuple)) else [given]


@pytest.mark.parametrize(("call", "after"), [("begin", 0), ("hear", 0), ("read", 0), ("round", 1), ("round", 9)])
def test_whoever_raises_fails_alone(
    driver: Watched, alone: Alone, monkeypatch: pytest.MonkeyPatch, call: str, after: int
) -> None:
    broken = Broken(driver, monkeypatch, call, after)
    good = {driver.ask("audio"): "audio", driver.ask("typed"): "typed"}
    broken.key = driver.ask("other audio")
    good |= {driver.ask("history"): "history", driver.ask("written"): "written"}
    driver.read_prompts()
    driver.run(*good, broken.key)
    assert broken.count > 0
    assert_failed(driver, broken.key)
    assert_all_the_same(driver, alone, good)
    assert_clean(driver)
    monkeypatch.undo()
    again = driver.ask("other audio")
    driver.run(again)
    assert_same(driver.outcome(again), alone("other audio"))


def test_a_round_that_fails_once_it_was_launched_fails_whoever_is_to_blame(
    driver: Watched, alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU most errors come when results are read back."""
    result = PendingRound.result
    bad = driver.ask("other audio")

    def failing(self: PendingRound) -> object:
        if any(row.sequence.id == bad for row in self._rows) and len(driver.tokens[bad]) > 4:
            raise RuntimeError("a secret")
        return result(self)

    monkeypatch.setattr(PendingRound, "result", failing)
    good = {driver.ask(name): name for name in ("audio", "typed", "written")}
    driver.run(*good, bad)
    assert_failed(driver, bad)
    assert_all_the_same(driver, alone, good)


@pytest.mark.parametrize("call", ["start_sound", "collect_sound"])
@pytest.mark.parametrize("is_beside", [False, True])
def test_a_batch_of_sound_that_fails_ends_its_own_replies_and_the_engine_goes_on(
    build: BuildEngine, alone: Alone, monkeypatch: pytest.MonkeyPatch, call: str, is_beside: bool
) -> None:
    monkeypatch.setattr(TorchRunner, "sound_is_beside", is_beside)
    driver = build()
    original = getattr(driver.runner, call)
    fails = [True]

    def failing(given: Any) -> Any:
        if fails and (driver.core._decoding or call == "start_sound"):
            fails.clear()
            if call == "collect_sound":
                original(True)  # a device that failed gives the batch up
            raise RuntimeError("a secret")
        return original(given)

    monkeypatch.setattr(driver.runner, call, failing)
    keys = {driver.ask(name): name for name in ("audio", "other audio", "voice", "written")}
    driver.run(*keys)
    failed = {key: name for key, name in keys.items() if driver.done(key).status == "failed"}
    assert 1 <= len(failed) <= 3
    for key in failed:
        assert_failed(driver, key)
        assert not driver.of(key, AudioDelta)
    assert_all_the_same(driver, alone, {key: name for key, name in keys.items() if key not in failed})
    assert_clean(driver)
    again = driver.ask("audio")
    driver.run(again)
    assert_same(driver.outcome(again), alone("audio"))


# --- numbers that are none


def spoil_prompt(driver: Watched, key: str, patch: pytest.MonkeyPatch) -> None:
    embeds = driver.runner._embeds

    def spoilt(part: Any) -> torch.Tensor:
        return embeds(part) * (NAN if part.sequence.id == key else 1.0)

    patch.setattr(driver.runner, "_embeds", spoilt)


def spoil_speaker(driver: Watched, key: str, patch: pytest.MonkeyPatch) -> None:
    driver.run_to(lambda: driver.runner._works[key].slot)
    driver.runner._speakers[driver.runner._works[key].slot] = NAN


def spoil_text(driver: Watched, key: str, patch: pytest.MonkeyPatch) -> None:
    """What it has read last: its keys and values."""
    driver.run_to(lambda: len(driver.tokens[key]) > 6)
    driver.runner.text_cache.k[:, driver.sequence(key).text.blocks[-1]] = NAN


def spoil_speech(driver: Watched, key: str, patch: pytest.MonkeyPatch) -> None:
    driver.run_to(lambda: len(driver.tokens[key]) > 6)
    driver.runner.speech_cache.v[:, driver.sequence(key).speech.blocks[0]] = NAN


@pytest.mark.parametrize("spoil", [spoil_prompt, spoil_speaker, spoil_text, spoil_speech])
@pytest.mark.parametrize("is_padded", [False, True])
def test_numbers_that_are_not_finite_end_one_reply_and_are_gone_with_it(
    driver: Watched, alone: Alone, monkeypatch: pytest.MonkeyPatch, spoil: Callable[..., None], is_padded: bool
) -> None:
    """The others are in the same batches; theirs are shorter and longer, so that tables and rows are filled up."""
    monkeypatch.setattr(driver.runner, "_is_padded", is_padded)
    good = {driver.ask(name): name for name in ("typed", "much typed", "typed")}
    bad = driver.submit(text="hello there " * 15, seed=3)  # the last, so that nobody writes over what it leaves
    driver.read_prompts()
    spoil(driver, bad, monkeypatch)
    driver.run(*good, bad)
    assert_failed(driver, bad)
    assert_all_the_same(driver, alone, good)
    assert_clean(driver)
    assert torch.isfinite(driver.runner.text_cache.k).all()
    assert torch.isfinite(driver.runner.speech_cache.v).all()
    monkeypatch.undo()
    monkeypatch.setattr(driver.runner, "_is_padded", is_padded)
    later = {driver.ask(name): name for name in ("audio", "much typed", "other audio", "voice", "history")}
    driver.run(*later)
    assert_all_the_same(driver, alone, later)


# --- cancel


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 6, 9, 14])
def test_after_a_cancel_the_next_step_says_so_and_nothing_else(driver: Watched, steps: int) -> None:
    key = driver.ask("long audio")
    for _ in range(steps):
        driver.step()
    assert driver.done(key) is None
    count = len(driver.events[key])
    driver.engine.cancel(key)
    assert not driver.core.sequences
    assert driver.core.text.num_used == 0
    events = driver.step()
    assert [(type(event), event.response_id) for event in events] == [(ResponseDone, key)]
    assert events[0].status == "cancelled"
    assert len(driver.events[key]) == count + 1
    assert_clean(driver)


def test_a_thousand_that_begin_and_are_cancelled_leave_no_memory_behind(driver: Watched) -> None:
    process = psutil.Process()
    driver.works.clear()

    def cycle(number: int) -> None:
        audio = np.roll(F0, number) if number % 50 == 0 else None
        key = driver.submit(audio, text="hello there", seed=number, audio_credit_ms=300)
        for _ in range(number % 4 if number % 50 else 12):
            driver.step()
        driver.engine.cancel(key)
        driver.step()
        for kept in (driver.events, driver.tokens, driver.works):
            kept.clear()

    def measured() -> tuple[int, int]:
        gc.collect()
        return len(gc.get_objects()), process.memory_info().rss

    for number in range(300):
        cycle(number)
    objects, rss = measured()
    for number in range(300, 1_300):
        cycle(number)
    more, larger = measured()
    assert more - objects < 200
    assert larger - rss < 8 << 20
    assert_clean(driver)
    memory = driver.opens2s._hearing
    assert len(memory._turns) <= 64
    assert driver.core.text.num_cached > 0, "what was read is still known"


def test_what_is_heard_for_somebody_who_leaves_does_not_spoil_it_for_another(driver: Watched, alone: Alone) -> None:
    """Two replies to one long turn share what is encoded of it; the first is dropped in the middle."""
    for windows in (1, 2):
        first = driver.ask("long audio", is_held=True)
        second = driver.ask("the long audio again")
        driver.read_prompts()
        for _ in range(windows):
            driver.step()
        assert driver.sequence(second).phase == "hear"
        driver.engine.cancel(first)
        driver.run(second)
        assert driver.done(second).fault is None
        assert_same(driver.outcome(second), alone("the long audio again"))
        driver.forget()


# --- guesses and too little room


def test_a_guess_that_is_released_where_there_is_no_room_waits_and_is_right(build: BuildEngine, alone: Alone) -> None:
    """It had a place without being counted among those that must fit together."""
    driver = build(kv_cache_gb=0.0007)
    keys = {driver.ask(name, is_held=True): name for name in ("audio", "other audio", "another seed", "typed")}
    driver.read_prompts()
    driver.run_to(lambda: sum(one.speech.num_tokens > 3 for one in driver.core.sequences) > 1)
    assert sum(one.most_speech for one in driver.started()) > driver.core.speech.num_blocks * BLOCK
    for key in keys:
        driver.engine.release(key)
    driver.run(*keys)
    assert_all_the_same(driver, alone, keys)
    assert_clean(driver)


def test_what_a_reply_has_not_spoken_yet_comes_back_with_it(build: BuildEngine, alone: Alone) -> None:
    """A guess gives way between its first text and its first speech; the other takes its place until it ends."""
    driver = build(max_sequences=1)
    guess = driver.ask("voice", is_held=True)
    driver.run_to(lambda: driver.tokens.get(guess))
    assert driver.sequence(guess).num_bridged == 1
    other = driver.ask("other audio")
    driver.run(other)
    assert driver.core.stats.preemptions == 1
    assert driver.done(guess) is None
    driver.run(guess)
    assert_all_the_same(driver, alone, {guess: "voice", other: "other audio"})


def test_a_guess_that_gives_way_to_one_beside_it_takes_no_block(driver: Watched, alone: Alone) -> None:
    """Both are to be read in one step; the first needs the room of what the second has found."""
    driver.run(driver.ask("much typed"))
    blocks = driver.core.text
    reply = driver.ask("instructions", audio_credit_ms=0)
    guess = driver.ask("much typed", is_held=True)
    driver.read_prompts()
    driver.core.sequences[0].start(driver.core.sequences[0].num_prompt)  # as if its audio were heard: read next
    driver.core.sequences[0].phase = "queued"
    assert driver.core._give_places(driver.clock.now)
    first, second = driver.core.sequences
    while first.phase == "hear":
        first.heard_window(driver.runner.hear(first))
    assert second.text.blocks
    occupied = blocks.open()
    assert blocks.extend(occupied, (blocks.num_available - blocks.blocks_for(first.num_prompt) + 1) * BLOCK)
    driver.step()
    assert second.phase == "queued"
    assert not second.text.blocks
    blocks.check([first.text, occupied])
    blocks.release(occupied)
    driver.engine.grant(reply, 120_000)
    driver.run(reply, guess)
    assert_all_the_same(driver, alone, {reply: "instructions", guess: "much typed"})


def test_the_engine_rests_while_a_guess_has_neither_place_nor_reason(build: BuildEngine) -> None:
    """Somebody who has heard enough holds the room; the guess that gave way has sound to decode, but no place."""
    driver = build(kv_cache_gb=0.0007)
    guess = driver.ask("audio", is_held=True)
    driver.run_to(lambda: len(driver.tokens.get(guess, ())) > 20)
    reply = driver.ask("other audio", audio_credit_ms=0)
    driver.run_to(lambda: not driver.engine.has_work)
    assert driver.done(reply) is None
    driver.engine.cancel(guess)
    driver.engine.cancel(reply)
    driver.step()
    assert_clean(driver)


# --- what was read is read once


def reused(driver: Watched, **fields: object) -> tuple[int, int, Outcome]:
    """Positions of the prompt, how many were there already, and the reply."""
    key = driver.submit(**fields)
    driver.run(key)
    usage = driver.done(key).usage
    return usage.input_text_tokens + usage.input_audio_tokens, usage.cached_tokens, driver.outcome(key)


def whole(positions: int) -> int:
    """Positions in complete blocks."""
    return positions // BLOCK * BLOCK


def common(driver: Watched, one: str, other: str) -> int:
    """Positions in which the prompts of two replies begin alike."""
    first, second = driver.works[one], driver.works[other]
    count = number = 0
    for left, right in zip(first.ids, second.ids, strict=False):
        if left != right:
            break
        if left < 0:
            if first.digests[number] != second.digests[number]:
                break
            count += first.lengths[number]
            number += 1
        else:
            count += 1
    return count


def test_the_second_turn_reads_only_what_is_new(driver: Watched, build: BuildEngine) -> None:
    length, cached, _ = reused(driver, audio=F1, seed=1)
    assert cached == 0
    turns = {"audio": F0, "seed": 2, "items": PAST}
    longer, cached, reply = reused(driver, **turns)
    first, second = list(driver.works)[-2:]
    shared = common(driver, first, second)
    assert shared > length / 2
    assert cached == whole(shared)
    assert longer > cached
    _, again, same = reused(driver, **turns)
    assert again == whole(longer - 1), "the last position is always computed"
    assert_same(same, reply)
    driver.forget()
    _, none, fresh = reused(driver, **turns)
    assert none == 0
    assert_same(reply, fresh)


def test_a_prompt_that_fills_its_blocks_is_not_answered_from_the_cache_alone(driver: Watched) -> None:
    """What comes after its last position must be computed."""
    for count in range(1, 40):
        text = "hello" + "!" * count
        length, _, first = reused(driver, text=text, seed=1, output="text", max_output_tokens=3)
        if length % BLOCK == 0:
            break
    else:
        raise AssertionError("no prompt of whole blocks")
    _, cached, again = reused(driver, text=text, seed=1, output="text", max_output_tokens=3)
    assert cached == length - BLOCK
    assert_same(again, first)


def test_what_was_cut_at_an_interruption_finds_exactly_what_is_still_true(driver: Watched) -> None:
    said = "sure, I can help. " * 12
    items = (*PAST[:1], ConversationItem("assistant", said))
    reused(driver, audio=F0, seed=2, items=items)
    heard = (*PAST[:1], ConversationItem("assistant", said[: len(said) // 2]))
    length, cached, reply = reused(driver, audio=F0, seed=2, items=heard)
    first, second = list(driver.works)[-2:]
    assert 0 < cached == whole(common(driver, first, second)) < length - BLOCK
    driver.forget()
    _, none, fresh = reused(driver, audio=F0, seed=2, items=heard)
    assert none == 0
    assert_same(reply, fresh)


def test_sound_that_differs_by_one_sample_is_not_taken_for_the_same(driver: Watched) -> None:
    other = F1.copy()
    other[5_000] += 1
    reused(driver, audio=F0, seed=2, items=PAST)
    _, cached, _ = reused(driver, audio=F0, seed=2, items=(replace(PAST[0], audio=other), PAST[1]))
    first, second = list(driver.works)[-2:]
    assert cached == whole(common(driver, first, second)) < BLOCK * 3


def test_listening_ahead_makes_the_reply_read_less(driver: Watched, alone: Alone) -> None:
    hearing = driver.opens2s._hearing
    key = driver.submit(LONG, items=PAST, output="listen", turn_id="t", is_held=True)
    driver.run(key)
    assert hearing.known(hearing.digest(LONG)) is not None
    length, cached, reply = reused(driver, audio=LONG, items=PAST, turn_id="t", seed=9)
    assert cached == whole(length - 1)
    driver.forget()
    _, none, fresh = reused(driver, audio=LONG, items=PAST, seed=9)
    assert none == 0
    assert_same(reply, fresh)


def test_under_pressure_the_longest_unused_is_forgotten(build: BuildEngine) -> None:
    driver = build(kv_cache_gb=0.0007)
    blocks = driver.core.text.num_blocks
    cases = [Case(text=f"{word} there " * 30) for word in ("hello", "sure", "what", "time", "help", "good", "day")]
    sizes = [reused(driver, text=case.text, seed=1)[0] // BLOCK for case in cases]
    assert sum(sizes) > blocks, "they do not fit together"
    assert driver.core.text.num_evictions > 0
    length, cached, _ = reused(driver, text=cases[-1].text, seed=1)
    assert cached == whole(length - 1), "the latest is there"
    _, cached, _ = reused(driver, text=cases[0].text, seed=1)
    assert cached <= 2 * BLOCK, "of the first nothing but what all begin with"
    assert_clean(driver)


# --- nothing waits


@pytest.mark.parametrize("is_padded", [False, True])
def test_a_round_waits_for_nothing_until_its_result_is_read(
    driver: Watched, monkeypatch: pytest.MonkeyPatch, is_padded: bool
) -> None:
    launch, rows_of = driver.runner.round, []

    def watched(rows: Any) -> Any:
        rows_of.append(len(rows))
        with NoWaiting():
            return launch(rows)

    monkeypatch.setattr(driver.runner, "round", watched)
    monkeypatch.setattr(driver.runner, "_is_padded", is_padded)
    keys = [driver.ask(name) for name in ("audio", "other audio", "typed", "written")]
    driver.run(*keys)
    assert max(rows_of) >= 3
    assert {driver.done(key).status for key in keys} <= {"completed", "incomplete"}
