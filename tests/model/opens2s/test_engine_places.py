"""Who gets a place in the OpenS2S engine, in what memory, and what is not computed again."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from model.backends.opens2s.engine import MAX_LIVE, OpenS2SEngine, create
from model.backends.opens2s.memory import BLOCK_SIZE, CacheSizes
from model.engine.costs import Costs
from model.engine.scheduler import Limits
from model.interface import (
    AudioDelta,
    ConversationItem,
    EngineSetupError,
    ResponseDone,
    ResponseStarted,
    TextDelta,
)
from model.opens2s.audio_encoder import Listener
from tests.support.engine_contract import Driver
from tests.support.opens2s_engine import REPLY_ENDS, engine_of, forget, sequence_of
from tests.support.opens2s_small import MAX_TEXT, MAX_UNITS, small_checkpoint
from tests.support.recordings import recording


def test_the_engine_says_how_many_calls_it_serves_in_time(options: dict[str, object]) -> None:
    driver = Driver(lambda wake: create(options | {"max_sequences": 2}, wake))
    try:
        assert driver.engine.info.max_calls is None  # not measured yet
        driver.engine.warm_up()
        info = driver.engine.info
        assert 1 <= info.max_calls <= info.max_sequences == 2
        assert engine_of(driver).stats.steps == 0  # what warming up did does not count
        assert not driver.engine.has_work
    finally:
        driver.engine.close()


def test_a_machine_that_is_slow_warms_up_all_the_same(
    options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one reply at a time is in time, the others of the warm-up find no place."""
    monkeypatch.setattr(Costs, "capacity", lambda self, most: 1)
    monkeypatch.setattr("model.backends.opens2s.engine.Limits", partial(Limits, patience=0.05))
    driver = Driver(lambda wake: create(options | {"max_sequences": 2}, wake))
    try:
        driver.engine.warm_up()
        assert driver.engine.info.max_calls == 1
    finally:
        driver.engine.close()


def test_no_round_is_larger_than_max_batch_and_all_are_answered(options: dict[str, object]) -> None:
    names = ("f0_rms", "f1_rms", "f2_rms")
    texts: list[list[str]] = []
    for max_batch, largest in ((0, 3), (2, 2)):
        driver = Driver(lambda wake, size=max_batch: create(options | {"max_batch": size}, wake))
        try:
            keys = [driver.submit(recording(name), output="text") for name in names]
            driver.finish(*keys)
            assert max(engine_of(driver).stats.rounds) == largest
            texts.append([driver.text(key) for key in keys])
        finally:
            driver.engine.close()
    assert texts[0] == texts[1]


def test_the_caches_are_as_large_as_kv_cache_gb_allows(options: dict[str, object]) -> None:
    def sizes(**changes: object) -> CacheSizes:
        engine = create(options | changes, lambda: None)
        try:
            return engine.sizes
        finally:
            engine.close()

    whole, one = sizes(max_sequences=4), sizes(max_sequences=1)
    assert whole.text_blocks == 4 * one.text_blocks
    assert one.text_blocks * BLOCK_SIZE >= one.most_text
    assert one.speech_blocks * BLOCK_SIZE >= one.most_speech == 1 + MAX_TEXT + MAX_UNITS
    half = sizes(max_sequences=4, kv_cache_gb=whole.bytes / 2e9)
    assert half.bytes == pytest.approx(whole.bytes / 2, abs=1)
    assert half.text_blocks == pytest.approx(whole.text_blocks / 2, abs=1)
    assert half.speech_blocks == pytest.approx(whole.speech_blocks / 2, abs=1)
    assert sizes(max_sequences=4, kv_cache_gb=100.0) == whole  # a bound, not a size
    with pytest.raises(EngineSetupError, match=r"raise opens2s\.kv_cache_gb\.$"):
        sizes(max_sequences=4, kv_cache_gb=one.bytes / 2e9)


def windows_heard(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of each window that is encoded from now on."""
    forget(driver)
    heard: list[int] = []
    encode = Listener.encode_window

    def counted(self: Listener, mel: object, number: int) -> object:
        heard.append(number)
        return encode(self, mel, number)

    monkeypatch.setattr(Listener, "encode_window", counted)
    return heard


def test_what_was_heard_ahead_is_not_heard_again(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = windows_heard(driver, monkeypatch)
    parts = engine_of(driver)._parts
    window = parts.model.config.audio.window_frames * parts.checkpoint.front_end.hop_length
    turn = np.tile(recording("f0_rms"), 30)[: window * 9 // 5]
    said = {"turn_id": "long", "seed": 1, "output": "audio"}
    ahead = driver.say(turn[: window * 3 // 2], **said | {"output": "listen", "is_held": True, "audio_credit_ms": 0})
    assert driver.done(ahead).status == "completed"
    assert [type(event) for event in driver.events[ahead]] == [ResponseStarted, ResponseDone]
    assert driver.done(ahead).usage.output_text_tokens == 0
    assert heard == [0, 1]
    key = driver.say(turn, **said)
    assert heard == [0, 1, 1]  # the window that was complete is known
    assert driver.done(key).usage.cached_tokens > 0  # what stands before the turn

    heard.clear()
    again = driver.say(turn, **said)
    usage = driver.done(again).usage
    assert not heard
    assert usage.cached_tokens == cacheable(usage.input_text_tokens + usage.input_audio_tokens)
    np.testing.assert_array_equal(driver.audio(again), driver.audio(key))

    forget(driver)  # and by itself it is answered alike
    np.testing.assert_array_equal(driver.audio(driver.say(turn, **said)), driver.audio(key))


def test_listening_reads_what_was_said_before(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = windows_heard(driver, monkeypatch)
    items = (ConversationItem("user", "", recording("f1_rms")), ConversationItem("assistant", "hello there"))
    driver.say(recording("f0_rms"), items=items, output="listen", is_held=True, audio_credit_ms=0)
    assert heard == [0, 0]
    usage = driver.done(driver.say(recording("f0_rms"), items=items)).usage
    assert heard == [0, 0]
    assert usage.cached_tokens == cacheable(usage.input_text_tokens + usage.input_audio_tokens)


def test_a_second_turn_reads_only_what_is_new(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = windows_heard(driver, monkeypatch)
    first = driver.done(driver.say(recording("f0_rms"))).usage
    assert first.cached_tokens == 0
    items = (ConversationItem("user", "", recording("f0_rms")), ConversationItem("assistant", "hello there"))
    second = driver.done(driver.say(recording("f1_rms"), items=items)).usage
    assert heard == [0, 0]  # each turn once
    read = first.input_text_tokens + first.input_audio_tokens
    assert read - 2 * BLOCK_SIZE <= second.cached_tokens <= read  # but for the request for a reply, and part of a block
    assert second.cached_tokens % BLOCK_SIZE == 0


def cacheable(positions: int) -> int:
    """Positions of a prompt that can be had without reading: complete blocks, and never the last one."""
    return (positions - 1) // BLOCK_SIZE * BLOCK_SIZE


@pytest.mark.parametrize("made", [ResponseStarted, TextDelta, AudioDelta])
def test_a_guess_gives_its_place_to_a_reply_that_somebody_waits_for(
    driver: Driver, options: dict[str, object], made: type
) -> None:
    alone = driver.say(recording("f0_rms"), seed=3)
    small = Driver(lambda wake: create(options | {"max_sequences": 1}, wake))
    try:
        guess = small.submit(recording("f0_rms"), seed=3, is_held=True)
        small.run_until(lambda: bool(small.of(guess, made)))
        real = small.submit(recording("f1_rms"))
        small.run_until(lambda: small.done(real) is not None)
        assert small.done(real).status in REPLY_ENDS
        assert small.done(guess) is None
        assert engine_of(small).stats.preemptions == 1
        small.engine.release(guess)
        small.finish(guess)
        assert small.text(guess) == driver.text(alone)  # it went on where it was
        np.testing.assert_array_equal(small.audio(guess), driver.audio(alone))
    finally:
        small.engine.close()


def test_a_response_that_is_released_has_a_deadline(disposable: Driver) -> None:
    engine = disposable.engine
    key = disposable.submit(recording("f0_rms"), is_held=True, audio_credit_ms=0)
    early = disposable.submit(recording("f1_rms"), is_held=True, audio_credit_ms=0)
    engine.release(early)  # before anything was done for it
    disposable.run_until(lambda: not engine.has_work)
    assert sequence_of(disposable, key).deadline == float("inf")
    assert sequence_of(disposable, early).deadline < time.monotonic() + 60
    engine.release(key)
    assert sequence_of(disposable, key).deadline < time.monotonic() + 60


def test_one_response_too_many_is_refused(driver: Driver) -> None:
    *keys, last = [driver.submit(text="hello there", audio_credit_ms=0) for _ in range(MAX_LIVE + 1)]
    driver.step()
    assert driver.done(last).status == "failed"
    assert driver.done(last).fault.code == "engine_busy"
    assert not any(driver.done(key) for key in keys)
    driver.engine.cancel(keys[0])
    more = driver.submit(text="hello there")
    driver.step()
    assert driver.done(more) is None


def test_who_gets_no_place_in_time_is_refused(options: dict[str, object]) -> None:
    driver = Driver(lambda wake: create(options | {"max_sequences": 1}, wake))
    try:
        engine = driver.engine
        first = driver.submit(recording("f0_rms"), audio_credit_ms=100)
        second = driver.submit(recording("f1_rms"))
        driver.run_until(lambda: not engine.has_work)
        assert not driver.events[second]
        events = engine.step(time.monotonic() + 11.0)
        assert [type(event) for event in events] == [ResponseStarted, ResponseDone]
        assert {event.response_id for event in events} == {second}
        assert events[-1].fault.code == "engine_busy"
        engine.grant(first, 120_000)
        driver.finish(first)
        assert driver.done(first).status in REPLY_ENDS
    finally:
        driver.engine.close()


def test_a_prompt_that_is_read_in_parts_is_answered_alike(
    driver: Driver, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = driver.say(recording("f0_rms"), seed=2)
    monkeypatch.setattr("model.backends.opens2s.engine.MAX_READ", 7)
    parts = Driver(lambda wake: create(options, wake))
    try:
        key = parts.say(recording("f0_rms"), seed=2)
        assert parts.text(key) == driver.text(whole)
        np.testing.assert_array_equal(parts.audio(key), driver.audio(whole))
    finally:
        parts.engine.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="passes are recorded on a GPU only")
def test_a_reply_of_recorded_passes_is_the_reply_of_plain_ones(tmp_path: Path) -> None:
    options = small_checkpoint(tmp_path) | {"device": "cuda", "dtype": "float32"}
    sounds, texts = [], []
    for is_recorded in (True, False):
        driver = Driver(lambda wake: create(options, wake))
        engine = engine_of(driver)
        runner, advance = engine._runner, engine._parts.decoder.flow.decoder.advance
        passes = (runner._read_last, runner._text, runner._first_units, advance)
        if is_recorded:
            engine.warm_up()
        before = [one.num_replays for one in passes]
        key = driver.say(recording("f0_rms"), seed=5)
        assert all((one.num_replays > count) == is_recorded for one, count in zip(passes, before, strict=True))
        texts.append(driver.text(key))
        sounds.append(driver.audio(key).astype(np.float32) / 32_768)
        engine.close()
    assert texts[0] == texts[1]
    assert len(sounds[0]) == len(sounds[1])
    assert np.abs(sounds[0] - sounds[1]).max() < 0.02


def test_admission_bounds_replies_and_calls_by_what_they_cost_or_not_at_all(
    options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Such a machine makes no reply in time, so it makes one at a time.
    monkeypatch.setattr("model.engine.costs.Costs.load", lambda self, voices: 2.0 * voices)
    for admission, max_calls in (("measured", 1), ("none", None)):
        driver = Driver(lambda wake, admission=admission: create(options | {"admission": admission}, wake))
        engine = driver.engine
        assert isinstance(engine, OpenS2SEngine)
        try:
            engine.warm_up()
            assert engine.info.max_calls == max_calls
            assert engine._core.scheduler.capacity == (max_calls or engine.info.max_sequences)
        finally:
            engine.close()
