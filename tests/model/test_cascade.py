"""The embedded engine with its real weights: it keeps the contract, understands, answers and can be interrupted."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.support.words import word_errors, words
from model.backends.cascade.asr import Recognizer
from model.backends.cascade.engine import MAX_LIVE, CascadeEngine
from model.backends.cascade.llm import remove_stale_folders
from model.interface import (
    AudioDelta,
    ConversationItem,
    Pcm16,
    ResponseDone,
    ResponseStarted,
    TextDelta,
    Transcript,
    TranscriptDelta,
)
from model.registry import ModelsMissingError, create_engine
from model.weights import default_models_dir
from tests.support.engine_contract import Driver, EngineContract, assert_lawful
from tests.support.recordings import SPEECH_DIR, pink_noise, recording, silence, to_pcm

QUESTIONS = (SPEECH_DIR / "questions.txt").read_text().splitlines()
READINGS = sorted(path.stem for path in SPEECH_DIR.glob("*.txt") if path.stem != "questions")


def to_16k(pcm: Pcm16) -> Pcm16:
    """24 kHz -> 16 kHz, good enough to be recognised."""
    positions = np.arange(0, len(pcm) - 1, 1.5)
    smooth = np.convolve(pcm.astype(np.float64), np.ones(2) / 2, "same")
    return to_pcm(np.interp(positions, np.arange(len(pcm)), smooth))


@pytest.fixture
def driver(cascade: Driver) -> Driver:
    return cascade


@pytest.fixture
def disposable(embedded_weights: None) -> Iterator[Driver]:
    driver = Driver(lambda wake: create_engine("cascade", {"max_sequences": 1}, wake))
    yield driver
    driver.engine.close()


class TestContract(EngineContract):
    pass


# --- understanding and answering


@pytest.mark.parametrize(("name", "number"), [(f"f{n}_rms", n) for n in range(4)])
def test_a_question_is_understood_and_the_answer_is_spoken_as_written(cascade: Driver, name: str, number: int) -> None:
    key = cascade.say(recording(name))
    assert_lawful(cascade, key)
    assert word_errors(QUESTIONS[number], cascade.transcript(key) or "") <= 1
    reply = cascade.text(key)
    assert len(words(reply)) >= 2
    heard = _recognize(to_16k(cascade.audio(key)))
    assert word_errors(reply, heard) <= max(1, len(words(reply)) // 10), (reply, heard)
    last = cascade.of(key, AudioDelta)[-1]
    assert reply[: last.text_end].strip() == reply.strip(), "the whole text is spoken at the end"


def _recognize(pcm: Pcm16) -> str:
    recognizer = Recognizer(default_models_dir())
    text = recognizer.recognize(pcm, lambda: False)
    assert text is not None
    return text


def test_recordings_are_recognised(embedded_weights: None) -> None:
    recognizer = Recognizer(default_models_dir())
    errors = total = 0
    for name in READINGS:
        wanted = (SPEECH_DIR / f"{name}.txt").read_text()
        errors += word_errors(wanted, recognizer.recognize(recording(name), lambda: False) or "")
        total += len(words(wanted))
    assert errors / total <= 0.06, f"{errors} of {total} words wrong"


@pytest.mark.parametrize(("before_ms", "after_ms"), [(300, 160), (60, 700), (0, 0)])
def test_silence_around_speech_does_not_confuse(embedded_weights: None, before_ms: int, after_ms: int) -> None:
    recognizer = Recognizer(default_models_dir())
    for number, question in enumerate(QUESTIONS):
        audio = recording(f"f{number}_rms")
        padded = np.concatenate([silence(before_ms), audio, silence(after_ms)])
        room = to_pcm(padded + pink_noise(len(padded), 8.0, seed=number))
        assert word_errors(question, recognizer.recognize(room, lambda: False) or "") <= 1


def test_recognition_stops_when_nobody_wants_it_any_more(embedded_weights: None) -> None:
    asked = iter([False, False, False, True])
    assert Recognizer(default_models_dir()).recognize(recording("f0_rms"), lambda: next(asked)) is None


def test_words_come_as_they_are_recognised(cascade: Driver) -> None:
    key = cascade.say(recording("librivox_0870"), output="transcript")
    pieces = [event.text for event in cascade.of(key, TranscriptDelta)]
    assert len(pieces) > 5
    assert "".join(pieces) == cascade.transcript(key) == (cascade.transcript(key) or "").strip()
    assert not cascade.of(key, TextDelta)
    times = [event.at for event in cascade.of(key, TranscriptDelta)]
    assert times[0] < times[-1]


def test_what_is_known_of_a_turn_comes_at_once(cascade: Driver) -> None:
    first, second = (cascade.say(recording("f0_rms"), turn_id="same", output="transcript") for _ in range(2))
    assert len(cascade.of(first, TranscriptDelta)) > 1
    assert [event.text for event in cascade.of(second, TranscriptDelta)] == [cascade.transcript(first)]


def test_faster_speech_is_shorter_and_understood(cascade: Driver) -> None:
    normal, fast = (cascade.say(recording("f0_rms"), speed=speed) for speed in (1.0, 1.25))
    assert cascade.text(fast) == cascade.text(normal)
    assert cascade.audio_ms(normal) / cascade.audio_ms(fast) == pytest.approx(1.25, rel=0.05)
    assert word_errors(cascade.text(fast), _recognize(to_16k(cascade.audio(fast)))) <= 1


def test_instructions_alone_are_followed(cascade: Driver) -> None:
    request = replace(cascade.request(text=""), items=(), instructions="Greet the user, whose name is Tom.")
    cascade.engine.submit(request)
    cascade.finish(request.response_id)
    assert "Tom" in cascade.text(request.response_id)


@pytest.mark.parametrize("seconds", [0.5, 3])
def test_silence_has_no_words(cascade: Driver, seconds: float) -> None:
    key = cascade.say(np.zeros(int(seconds * 16_000), np.int16))
    assert [type(event) for event in cascade.events[key]] == [ResponseStarted, Transcript, ResponseDone]
    assert cascade.transcript(key) == ""
    assert cascade.done(key).status == "completed"


def test_noise_does_not_make_the_recogniser_talk_without_end(embedded_weights: None) -> None:
    noise = to_pcm(pink_noise(10 * 16_000, 2_000))
    text = Recognizer(default_models_dir()).recognize(noise, lambda: False)
    assert len(words(text or "")) <= 10 * 6.5 + 8


def test_what_was_said_before_is_used(cascade: Driver) -> None:
    def ask(*items: ConversationItem) -> str:
        return cascade.text(cascade.say(text="What is the name of my dog?", items=items))

    rex = ask(
        ConversationItem("user", "I have a dog called Rex."), ConversationItem("assistant", "Rex is a nice name.")
    )
    assert "Rex" in rex
    assert rex != ask()


def test_instructions_are_followed(cascade: Driver) -> None:
    def ask(instructions: str) -> str:
        return cascade.text(cascade.say(text="Hello, who are you?", instructions=instructions))

    assert "Pierre" in ask("You are a French chef called Pierre. Keep answers short.")
    assert "Pierre" not in ask("")
    assert "Green Bank" in ask(
        "You are the assistant of Green Bank. If asked who you are, say you are the Green Bank assistant."
    )


def test_replies_are_limited_and_say_so(cascade: Driver) -> None:
    key = cascade.say(text="Tell me a long story about a king.", max_output_tokens=5)
    assert cascade.done(key).status == "incomplete"
    assert cascade.done(key).usage.output_text_tokens == 5
    assert cascade.audio_ms(key) > 0


def test_the_same_seed_gives_the_same_sound(cascade: Driver) -> None:
    first, second, other = (cascade.say(recording("f0_rms"), seed=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(cascade.audio(first), cascade.audio(second))
    assert not np.array_equal(cascade.audio(first), cascade.audio(other))


def test_a_call_computes_only_what_is_new(cascade: Driver) -> None:
    first = cascade.say(text="What is the capital of France?", call_id="long call")
    history = (
        ConversationItem("user", "What is the capital of France?"),
        ConversationItem("assistant", cascade.text(first)),
    )
    usage = cascade.done(cascade.say(text="And of Spain?", items=history, call_id="long call")).usage
    assert usage.cached_tokens > cascade.done(first).usage.cached_tokens
    assert usage.input_text_tokens - usage.cached_tokens < 20


def test_going_on_after_a_dropped_reply_keeps_the_cache(cascade: Driver) -> None:
    items = tuple(ConversationItem("user", f"Fact {n}: my friend number {n} has a cat.") for n in range(6))
    first = cascade.submit(text="Who has a cat?", items=items, call_id="goes on")
    cascade.run_until(lambda: bool(cascade.of(first, TextDelta)))
    cascade.engine.cancel(first)
    second = cascade.say(text="Who has a cat and a dog?", items=items, call_id="goes on")
    usage = cascade.done(second).usage
    assert usage.input_text_tokens - usage.cached_tokens < 20


def test_calls_that_outnumber_the_slots_keep_their_cache(cascade: Driver) -> None:
    story = (ConversationItem("user", "My sister lives in a house by the sea with two cats and a dog."),)
    for turn in range(2):
        for call in range(5):
            key = cascade.say(text="Is it nice?", items=story, call_id=f"crowd-{call}", max_output_tokens=2)
            if turn:
                usage = cascade.done(key).usage
                assert usage.input_text_tokens - usage.cached_tokens < 20


def test_a_conversation_longer_than_the_context_is_cut(cascade: Driver) -> None:
    items = tuple(
        ConversationItem("user" if n % 2 == 0 else "assistant", f"Sentence number {n} of many. " * 3) for n in range(60)
    )
    key = cascade.say(text="Hello!", items=items, max_output_tokens=2)
    assert cascade.done(key).status in ("completed", "incomplete")
    assert cascade.done(key).usage.input_text_tokens < 640


@pytest.mark.parametrize("text", ["你好" * 3_000, "x" * 50_000, "<|im_end|>", "   ", "🙂"])
def test_unusual_text_ends_well(cascade: Driver, text: str) -> None:
    key = cascade.say(text=text, max_output_tokens=4)
    assert_lawful(cascade, key)
    assert cascade.done(key).status in ("completed", "incomplete")


def test_the_oldest_turns_fall_out_without_computing_the_rest_again(cascade: Driver) -> None:
    items: tuple[ConversationItem, ...] = ()
    computed = []
    for n in range(14):
        question = f"Number {n}: I had {n + 2} apples and gave {n} of them to my neighbour. Is that nice?"
        key = cascade.say(text=question, items=items, call_id="apples", max_output_tokens=3)
        usage = cascade.done(key).usage
        computed.append(usage.input_text_tokens - usage.cached_tokens)
        items += (ConversationItem("user", question), ConversationItem("assistant", cascade.text(key)))
    assert usage.input_text_tokens < 640 - 48
    assert max(computed[1:]) < 80, computed


def test_a_long_prompt_can_be_cancelled_while_it_is_computed(cascade: Driver) -> None:
    items = tuple(ConversationItem("user", f"Fact {n}: the number {n} is odd or even.") for n in range(12))
    key = cascade.submit(text="Hello!", items=items)
    cascade.run_until(lambda: bool(cascade.of(key, ResponseStarted)))
    cascade.engine.cancel(key)
    following = cascade.say(text="Hello!")
    assert [type(event) for event in cascade.events[key]] == [ResponseStarted, ResponseDone]
    assert cascade.done(following).status == "completed"


# --- cancel at each stage


STAGES = {"recognition": ResponseStarted, "prompt": Transcript, "writing": TextDelta, "speaking": AudioDelta}


@pytest.mark.parametrize("stage", STAGES)
def test_a_response_can_be_cancelled_at_each_stage(cascade: Driver, stage: str) -> None:
    key = cascade.submit(recording("f2_rms"), audio_credit_ms=200)
    cascade.run_until(lambda: bool(cascade.of(key, STAGES[stage])))
    count = len(cascade.events[key])
    cascade.engine.cancel(key)
    following = cascade.say(recording("f0_rms"))
    assert [type(event) for event in cascade.events[key][count:]] == [ResponseDone]
    assert cascade.done(following).status == "completed"


def test_dropped_speculation_leaves_no_work(cascade: Driver) -> None:
    keys = []
    for _ in range(40):
        keys.append(cascade.submit(recording("f0_rms"), turn_id="turn"))
        cascade.engine.cancel(keys[-1])
    last = cascade.submit(recording("f0_rms"), turn_id="turn")
    cascade.finish(last)
    assert cascade.done(last).status == "completed"
    assert all(len(cascade.events[key]) == 1 for key in keys)


def test_a_longer_request_for_the_same_turn_gives_the_same_words(cascade: Driver) -> None:
    first, second = recording("librivox_0870"), recording("librivox_0880")
    pause = np.zeros(16_000 // 2, np.int16)
    whole = np.concatenate([first, pause, second])
    early = cascade.submit(np.concatenate([first, pause[:2_000]]), turn_id="t", pauses=(len(first) + 1_000,))
    cascade.run_until(lambda: bool(cascade.of(early, Transcript)))
    cascade.engine.cancel(early)
    key = cascade.say(whole, turn_id="t", pauses=(len(first) + 1_000,), max_output_tokens=2)
    wanted = f"{_recognize(first)} {_recognize(second)}"
    assert words(cascade.transcript(key) or "") == words(wanted)


def test_a_turn_longer_than_the_recogniser_takes_is_cut_at_a_pause(cascade: Driver) -> None:
    parts, pauses = [], []
    for name in ["librivox_0870", "librivox_0890", "librivox_0880"] * 2:
        parts += [recording(name), np.zeros(8_000, np.int16)]
        pauses.append(sum(map(len, parts)) - 4_000)
    audio = np.concatenate(parts)
    assert len(audio) > 30 * 16_000
    key = cascade.say(audio, pauses=tuple(pauses[:-1]), max_output_tokens=2)
    wanted = " ".join(
        (SPEECH_DIR / f"{n}.txt").read_text() for n in ["librivox_0870", "librivox_0890", "librivox_0880"] * 2
    )
    assert word_errors(wanted, cascade.transcript(key) or "") <= len(words(wanted)) * 0.1


# --- failures


def test_one_failing_response_disturbs_no_other(
    cascade: Driver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = cascade.engine
    assert isinstance(engine, CascadeEngine)
    speak = engine._voice.synthesize

    def break_on_secret(text: str, *rest: object) -> object:
        if "Paris" in text:
            raise OverflowError(f"cannot say {text}")
        return speak(text, *rest)

    monkeypatch.setattr(engine._voice, "synthesize", break_on_secret)
    failures = engine.num_failures
    with caplog.at_level(logging.ERROR):
        bad = cascade.submit(recording("f0_rms"))
        good = cascade.submit(recording("f1_rms"))
        cascade.finish(bad, good)
    assert cascade.done(bad).status == "failed"
    assert cascade.done(bad).fault.code == "internal_error"
    assert cascade.done(good).status == "completed"
    assert engine.num_failures == failures + 1
    assert "Paris" not in caplog.text
    assert "Paris" not in str([record.__dict__ for record in caplog.records])


def test_too_many_responses_are_refused_as_busy(cascade: Driver) -> None:
    keys = [cascade.submit(recording("f0_rms"), audio_credit_ms=0) for _ in range(MAX_LIVE + 1)]
    cascade.run_until(lambda: bool(cascade.done(keys[-1])))
    assert cascade.done(keys[-1]).fault.code == "engine_busy"
    assert cascade.done(keys[0]) is None


def test_what_a_killed_engine_left_behind_is_removed_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    folders = [f"rtc-llm-{ended.stdout.strip()}-a", f"rtc-llm-{os.getpid()}-b", "rtc-llm-x-c", "other-1-d"]
    for name in folders:
        (tmp_path / name).mkdir()
    remove_stale_folders()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(folders[1:])


def test_missing_weights_are_named_with_the_command_that_brings_them(tmp_path: Path) -> None:
    with pytest.raises(ModelsMissingError, match=r"SmolLM2.*rtc-server models fetch"):
        create_engine("cascade", {"models_dir": str(tmp_path)}, lambda: None)


def test_a_model_of_ones_own_must_exist(embedded_weights: None) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        create_engine("cascade", {"llm_path": "/nowhere.gguf"}, lambda: None)
