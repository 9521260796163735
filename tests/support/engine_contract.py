"""The laws of `model.interface.SpeechEngine` as tests, and a driver to run any engine step by step.

A backend's test module derives a class from `EngineContract` and provides the fixtures `driver` (a running
engine, idle) and `disposable` (one that the test may close)."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from model.interface import (
    AudioDelta,
    ConversationItem,
    EngineEvent,
    GenerateRequest,
    Pcm16,
    ReportsLoad,
    ResponseDone,
    ResponseStarted,
    SpeechEngine,
    TextDelta,
    ToolCallDelta,
    ToolCallItem,
    ToolResultItem,
    ToolSpec,
    Transcript,
    TranscriptDelta,
    Wake,
)
from tests.support.recordings import recording

PATIENCE_SECONDS = 60.0
PLENTY_MS = 120_000
MAX_PIECE_MS = 200


class Driver:
    """Does what the engine host does: steps when there is work, sleeps until woken when there is none."""

    def __init__(self, build: Callable[[Wake], SpeechEngine]) -> None:
        self._woken = threading.Event()
        self.engine = build(self._woken.set)
        self.events: dict[str, list[EngineEvent]] = defaultdict(list)
        self._count = 0

    def request(self, audio: Pcm16 | None = None, text: str = "", **fields: object) -> GenerateRequest:
        """A request with a new id and, unless said otherwise, all the credit it can use."""
        self._count += 1
        items = fields.pop("items", ()) + ((ConversationItem("user", text),) if audio is None else ())
        request = GenerateRequest(f"call-{self._count}", f"resp-{self._count}", f"turn-{self._count}", items, audio)
        return replace(request, **({"audio_credit_ms": PLENTY_MS} | fields))

    def submit(self, audio: Pcm16 | None = None, text: str = "", **fields: object) -> str:
        """Submit `request(...)`; returns its response id."""
        request = self.request(audio, text, **fields)
        self.engine.submit(request)
        return request.response_id

    def step(self) -> list[EngineEvent]:
        events = self.engine.step(time.monotonic())
        for event in events:
            self.events[event.response_id].append(event)
        return events

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Step until the condition holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if not self.engine.has_work:
                self._woken.wait(0.2)
            self._woken.clear()
            self.step()
            assert time.monotonic() < deadline, dict(self.events)

    def finish(self, *response_ids: str) -> None:
        """Run until all of these have ended, then a little longer: nothing may follow."""
        self.run_until(lambda: all(self.done(key) for key in response_ids))
        self.settle()

    def settle(self, seconds: float = 0.15) -> None:
        """Step for a while, whatever comes."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not self.engine.has_work:
                self._woken.wait(left)
            self._woken.clear()
            self.step()

    def say(self, audio: Pcm16 | None = None, text: str = "", **fields: object) -> str:
        """Submit and run to the end; returns the response id."""
        key = self.submit(audio, text, **fields)
        self.finish(key)
        return key

    def reset(self) -> None:
        """End what a test left behind."""
        for key in self.events:
            self.engine.cancel(key)
        for count in range(self._count + 1):
            self.engine.cancel(f"resp-{count}")
        self.settle(0.02)
        self.events.clear()

    # --- what came out

    def of(self, key: str, kind: type) -> list:
        return [event for event in self.events[key] if isinstance(event, kind)]

    def done(self, key: str) -> ResponseDone | None:
        return next(iter(self.of(key, ResponseDone)), None)

    def transcript(self, key: str) -> str | None:
        return next((event.text for event in self.of(key, Transcript)), None)

    def text(self, key: str) -> str:
        return "".join(event.text for event in self.of(key, TextDelta))

    def audio(self, key: str) -> Pcm16:
        pieces = [event.pcm for event in self.of(key, AudioDelta)]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)

    def audio_ms(self, key: str) -> float:
        return len(self.audio(key)) * 1000 / self.engine.info.sample_rate


def assert_lawful(driver: Driver, key: str) -> None:
    """What holds for the events of every response that ended by itself."""
    events = driver.events[key]
    assert [type(e) for e in events].count(ResponseDone) == 1, events
    assert isinstance(events[-1], ResponseDone)
    assert isinstance(events[0], ResponseStarted)
    assert len(driver.of(key, ResponseStarted)) == 1
    kinds = [type(event) for event in events]
    if Transcript in kinds:
        assert kinds.count(Transcript) == 1
        before = kinds[1 : kinds.index(Transcript)]
        assert set(before) <= {TranscriptDelta}, "the transcript comes before any text"
        assert kinds.count(TranscriptDelta) == len(before)
        pieces = [event.text for event in driver.of(key, TranscriptDelta)]
        assert all(pieces)
        assert not pieces or "".join(pieces) == driver.transcript(key)
    assert_lawful_calls(driver, key)
    ends = [event.text_end for event in driver.of(key, AudioDelta) if event.text_end is not None]
    assert ends == sorted(ends)
    assert not ends or ends[-1] <= len(driver.text(key))
    for event in driver.of(key, AudioDelta):
        assert event.pcm.dtype == np.int16
        assert 0 < len(event.pcm) <= MAX_PIECE_MS * driver.engine.info.sample_rate // 1000
    assert [event.at for event in events] == pytest.approx([event.at for event in events], abs=PATIENCE_SECONDS)


def assert_lawful_calls(driver: Driver, key: str) -> None:
    """The calls of a response that ended well are complete, in order, and stand alone."""
    pieces = driver.of(key, ToolCallDelta)
    if not pieces or driver.done(key).status != "completed":
        return
    assert not driver.of(key, TextDelta)
    assert not driver.of(key, AudioDelta)
    assert [piece.index for piece in pieces] == sorted(piece.index for piece in pieces)
    for index in range(pieces[-1].index + 1):
        call = [piece for piece in pieces if piece.index == index]
        assert [piece.is_last for piece in call] == [False] * (len(call) - 1) + [True]
        assert len({piece.name for piece in call}) == 1
        assert isinstance(json.loads("".join(piece.arguments for piece in call)), dict)


SPOON = ToolSpec("order_spoon", "Order spoons.", {"type": "object", "properties": {"count": {"type": "integer"}}})

BAD_REQUESTS: dict[str, dict[str, object]] = {
    "float audio": {"audio": np.zeros(1600, np.float32)},
    "stereo audio": {"audio": np.zeros((1600, 2), np.int16)},
    "ten minutes of audio": {"audio": np.zeros(16_000 * 600, np.int16)},
    "neither audio nor text": {"audio": None, "items": ()},
    "unknown voice": {"voice": "nobody"},
    "no tokens": {"max_output_tokens": 0},
    "negative credit": {"audio_credit_ms": -1},
    "falling pauses": {"pauses": (900, 300)},
    "a pause outside": {"pauses": (900_000,)},
    "no id": {"response_id": ""},
    "too slow": {"speed": 0.1},
    "too fast": {"speed": 9.0},
    "no speed": {"speed": float("nan")},
    "unknown output": {"output": "smell"},
    "transcript of text": {"output": "transcript", "audio": None},
    "listening to text": {"output": "listen", "audio": None},
    "unknown choice": {"tool_choice": "maybe"},
    "a required tool that is not there": {"tool_choice": "required"},
    "two tools of one name": {"tools": (SPOON, SPOON)},
    "a tool without a name": {"tools": (replace(SPOON, name=""),)},
}


class EngineContract:
    """Laws that hold for every backend."""

    reply_ends: tuple[str, ...] = ("completed",)
    """How a reply may end by itself; a model with random weights does not know when to stop."""

    def test_a_spoken_turn_is_answered_and_ends_once(self, driver: Driver) -> None:
        key = driver.say(recording("f0_rms"))
        assert_lawful(driver, key)
        assert driver.done(key).status in self.reply_ends
        assert driver.audio_ms(key) > 300
        assert (driver.transcript(key) is not None) == driver.engine.info.gives_transcripts

    def test_a_typed_turn_is_answered_and_ends_once(self, driver: Driver) -> None:
        key = driver.say(text="What is the capital of Spain?")
        assert_lawful(driver, key)
        assert driver.done(key).status in self.reply_ends
        assert driver.text(key)
        assert driver.transcript(key) is None, "nothing was recognised"

    @pytest.mark.parametrize("samples", [0, 1, 800])
    def test_a_turn_too_short_to_hold_a_word_ends_completed(self, driver: Driver, samples: int) -> None:
        key = driver.say(np.full(samples, 5, np.int16))
        assert_lawful(driver, key)
        assert driver.done(key).status == "completed"

    @pytest.mark.parametrize("fault", BAD_REQUESTS)
    def test_a_bad_request_is_refused_and_leaves_no_trace(self, driver: Driver, fault: str) -> None:
        good = driver.request(recording("f0_rms"))
        with pytest.raises(ValueError, match=r"\w+ .*"):
            driver.engine.submit(replace(good, **BAD_REQUESTS[fault]))
        driver.settle(0.02)
        assert not driver.events

    def test_an_id_that_is_in_use_is_refused(self, driver: Driver) -> None:
        key = driver.submit(recording("f0_rms"))
        with pytest.raises(ValueError, match=key):
            driver.submit(recording("f0_rms"), response_id=key)
        driver.finish(key)
        assert driver.done(key).status in self.reply_ends

    def test_its_load_is_told_in_numbers_that_come_back_to_nothing(self, driver: Driver) -> None:
        engine = driver.engine
        assert isinstance(engine, ReportsLoad), "all backends of this repository tell their load"
        driver.settle(0.02)
        before = engine.load()
        assert (before.running, before.waiting) == (0, 0)
        key = driver.submit(recording("f0_rms"), audio_credit_ms=200)
        driver.run_until(lambda: bool(driver.of(key, AudioDelta)))
        during = engine.load()
        assert (during.running, during.waiting) == (1, 0)
        driver.engine.cancel(key)
        driver.settle(0.02)
        after = engine.load()
        assert (after.running, after.waiting) == (0, 0)
        for cache in after.caches:
            assert cache.used_blocks == 0 < cache.blocks
        if after.compute_seconds is not None:
            assert before.compute_seconds is not None
            assert after.compute_seconds > before.compute_seconds

    def test_an_id_may_be_used_again_once_it_ended(self, driver: Driver) -> None:
        key = driver.submit(recording("f1_rms"))
        driver.engine.cancel(key)
        driver.submit(recording("f0_rms"), response_id=key)
        driver.run_until(lambda: len(driver.of(key, ResponseDone)) == 2)
        first, second = driver.of(key, ResponseDone)
        assert first.status == "cancelled"
        assert second.status in self.reply_ends

    def test_a_response_cancelled_in_the_queue_never_starts(self, driver: Driver) -> None:
        key = driver.submit(recording("f0_rms"))
        driver.engine.cancel(key)
        driver.settle()
        assert [type(event) for event in driver.events[key]] == [ResponseDone]
        assert driver.done(key).status == "cancelled"

    def test_after_cancel_only_the_end_follows(self, driver: Driver) -> None:
        key = driver.submit(recording("f0_rms"), audio_credit_ms=200)
        driver.run_until(lambda: bool(driver.of(key, AudioDelta)))
        count = len(driver.events[key])
        driver.engine.cancel(key)
        driver.engine.cancel(key)
        driver.engine.grant(key, 5_000)
        driver.engine.release(key)
        driver.settle()
        assert [type(event) for event in driver.events[key][count:]] == [ResponseDone]
        assert driver.done(key).status == "cancelled"

    def test_unknown_and_ended_ids_are_ignored(self, driver: Driver) -> None:
        key = driver.say(recording("f0_rms"))
        count = len(driver.events[key])
        for other in (key, "nobody"):
            driver.engine.cancel(other)
            driver.engine.grant(other, 1_000)
            driver.engine.release(other)
        driver.settle(0.05)
        assert len(driver.events[key]) == count
        assert not driver.engine.has_work

    @pytest.mark.parametrize("is_held", [True, False], ids=["held", "never held"])
    @pytest.mark.parametrize("delay_seconds", [0.0, 0.1], ids=["at once", "while it works"])
    def test_a_response_that_is_released_answers_as_usual(
        self, driver: Driver, is_held: bool, delay_seconds: float
    ) -> None:
        usual = driver.say(recording("f0_rms"), seed=3)
        key = driver.submit(recording("f0_rms"), seed=3, is_held=is_held)
        driver.settle(delay_seconds)
        driver.engine.release(key)
        driver.engine.release(key)
        driver.finish(key)
        assert_lawful(driver, key)
        assert driver.text(key) == driver.text(usual)
        np.testing.assert_array_equal(driver.audio(key), driver.audio(usual))

    def test_a_held_response_can_be_dropped(self, driver: Driver) -> None:
        key = driver.submit(recording("f0_rms"), is_held=True, audio_credit_ms=100)
        driver.settle(0.05)
        driver.engine.cancel(key)
        driver.settle()
        assert driver.done(key).status == "cancelled"

    def test_audio_never_exceeds_the_credit(self, driver: Driver) -> None:
        key = driver.submit(recording("f0_rms"), audio_credit_ms=0)
        granted = 0
        driver.settle(0.05)
        while driver.done(key) is None:
            assert driver.audio_ms(key) <= granted
            granted += 130
            driver.engine.grant(key, 130)
            before = driver.audio_ms(key)
            driver.run_until(lambda before=before: driver.audio_ms(key) > before or bool(driver.done(key)))
        assert driver.audio_ms(key) <= granted
        assert_lawful(driver, key)

    def test_without_credit_nothing_moves_and_the_engine_rests(self, driver: Driver) -> None:
        key = driver.submit(recording("f0_rms"), audio_credit_ms=100)
        driver.run_until(lambda: driver.audio_ms(key) == 100)
        driver.settle()
        assert driver.audio_ms(key) == 100
        assert driver.done(key) is None
        driver.run_until(lambda: not driver.engine.has_work)

    def test_little_credit_gives_the_same_sound_as_much(self, driver: Driver) -> None:
        whole = driver.say(recording("f0_rms"), seed=3)
        key = driver.submit(recording("f0_rms"), seed=3, audio_credit_ms=0)
        while driver.done(key) is None:
            driver.engine.grant(key, 170)
            driver.settle(0.03)
        assert driver.text(key) == driver.text(whole)
        np.testing.assert_array_equal(driver.audio(key), driver.audio(whole))

    def test_three_at_once_are_all_answered(self, driver: Driver) -> None:
        keys = [driver.submit(recording(name)) for name in ("f0_rms", "f1_rms", "f2_rms")]
        driver.finish(*keys)
        for key in keys:
            assert_lawful(driver, key)
            assert driver.done(key).status in ("completed", "incomplete")
            assert driver.audio_ms(key) > 300

    def test_cancelling_one_leaves_the_others(self, driver: Driver) -> None:
        first, second, third = (driver.submit(recording("f0_rms"), seed=seed) for seed in range(3))
        driver.engine.cancel(second)
        driver.finish(first, second, third)
        assert driver.done(second).status == "cancelled"
        assert {driver.done(key).status for key in (first, third)} <= set(self.reply_ends)
        assert not driver.of(second, AudioDelta)

    def test_a_closed_engine_ends_without_events_and_closes_twice(self, disposable: Driver) -> None:
        key = disposable.submit(recording("f0_rms"))
        disposable.engine.close()
        disposable.engine.close()
        assert not disposable.events[key]

    @pytest.mark.parametrize("from_audio", [True, False])
    def test_a_text_reply_has_no_sound(self, driver: Driver, from_audio: bool) -> None:
        audio = recording("f0_rms") if from_audio else None
        key = driver.say(audio, text="Hello!", output="text", audio_credit_ms=0)
        assert_lawful(driver, key)
        assert driver.done(key).status in ("completed", "incomplete")
        assert driver.text(key).strip()
        assert not driver.of(key, AudioDelta)

    def test_a_transcript_alone_is_possible_where_there_are_transcripts(self, driver: Driver) -> None:
        if not driver.engine.info.gives_transcripts:
            with pytest.raises(ValueError, match=r"transcript.*\.$"):
                driver.submit(recording("f0_rms"), output="transcript")
            return
        key = driver.say(recording("f0_rms"), output="transcript", audio_credit_ms=0)
        assert_lawful(driver, key)
        assert driver.transcript(key)
        assert driver.done(key).status == "completed"
        kinds = {type(event) for event in driver.events[key]}
        assert kinds <= {ResponseStarted, TranscriptDelta, Transcript, ResponseDone}

    def test_listening_ahead_makes_no_output_and_is_refused_where_it_is_not_wanted(self, driver: Driver) -> None:
        if not driver.engine.info.listen_ahead_ms:
            with pytest.raises(ValueError, match=r"listen.*\.$"):
                driver.submit(recording("f0_rms"), output="listen")
            return
        key = driver.say(recording("f0_rms"), output="listen", is_held=True, audio_credit_ms=0)
        assert driver.done(key).status == "completed"
        assert {type(event) for event in driver.events[key]} <= {ResponseStarted, ResponseDone}

    @pytest.mark.parametrize(
        "items",
        [
            (ConversationItem("user", "Hello."), ConversationItem("assistant", "Hello! How are you?")),
            (ConversationItem("system", "Tell the user that it is time for lunch."),),
            (ConversationItem("user", "Order a spoon."), ToolCallItem("c1", "order_spoon", '{"count": 1}')),
            (
                ConversationItem("user", "How much is a spoon?"),
                ToolCallItem("c1", "get_price", "{}"),
                ToolResultItem("c1", '{"price": "2 euros"}'),
            ),
            (),
        ],
        ids=["assistant", "system", "call", "result", "nothing"],
    )
    def test_a_reply_can_follow_anything(self, driver: Driver, items: tuple[object, ...]) -> None:
        request = replace(driver.request(), items=items, instructions="Say hello to the user.")
        driver.engine.submit(request)
        driver.finish(request.response_id)
        assert_lawful(driver, request.response_id)
        assert driver.done(request.response_id).status in ("completed", "incomplete")
        assert driver.text(request.response_id).strip()

    def test_both_ends_of_the_speed_are_spoken(self, driver: Driver) -> None:
        slow, fast = (driver.say(recording("f0_rms"), speed=speed, seed=1) for speed in driver.engine.info.speed_range)
        assert_lawful(driver, slow)
        assert_lawful(driver, fast)
        assert driver.audio_ms(slow) >= driver.audio_ms(fast) > 0

    def test_tools_are_taken_or_refused_as_announced(self, driver: Driver) -> None:
        if not driver.engine.info.supports_tools:
            with pytest.raises(ValueError, match="tools"):
                driver.submit(text="Order two spoons.", tools=(SPOON,))
            return
        key = driver.say(text="Order two spoons.", tools=(SPOON,), tool_choice="required")
        assert_lawful(driver, key)
        assert {piece.name for piece in driver.of(key, ToolCallDelta)} == {"order_spoon"}
        key = driver.say(text="Order two spoons.", tools=(SPOON,), tool_choice="none")
        assert_lawful(driver, key)
        assert not driver.of(key, ToolCallDelta)
        assert driver.text(key)

    def test_the_description_fits(self, driver: Driver) -> None:
        info = driver.engine.info
        assert info.name
        assert info.sample_rate in (8_000, 16_000, 22_050, 24_000, 48_000)
        assert info.max_sequences >= 1
        assert info.max_calls is None or info.max_calls >= 1
        assert info.listen_ahead_ms >= 0
        assert info.voices
        key = driver.say(recording("f0_rms"), voice=info.voices[0])
        assert driver.done(key).status in self.reply_ends
