"""The voice starts at once, leaves natural pauses, and never asks the network for anything."""

from __future__ import annotations

import numpy as np
import pytest

from model.backends.cascade.tts import (
    KEEP_AFTER_MS,
    KEEP_BEFORE_MS,
    PAUSE_AFTER_MS,
    SAMPLE_RATE,
    SPEED_RANGE,
    Voice,
    speakable,
    trim,
    voices,
)
from model.interface import Pcm16


@pytest.fixture(scope="module")
def voice() -> Voice:
    return Voice("heart")


def onset_ms(pcm: Pcm16) -> float:
    return float(np.flatnonzero(np.abs(pcm.astype(np.int32)) > 100)[0]) * 1000 / SAMPLE_RATE


@pytest.mark.parametrize("text", ["The capital of France is Paris.", "Honey never spoils,", "Well,", "How about you?"])
def test_the_first_clause_sounds_within_a_few_milliseconds(voice: Voice, text: str) -> None:
    assert onset_ms(voice.synthesize(text, None, 0).pcm) <= KEEP_BEFORE_MS + 5


def test_clauses_are_kept_apart_by_the_pause_that_their_ending_asks_for(voice: Voice) -> None:
    first = voice.synthesize("thanks for asking.", None, 0)
    for ending, pause_ms in PAUSE_AFTER_MS.items():
        later = voice.synthesize("thanks for asking.", ending, 0)
        assert later.lead == pause_ms * SAMPLE_RATE // 1000
        np.testing.assert_array_equal(later.pcm[later.lead :], first.pcm)


def test_equal_text_and_seed_give_equal_samples(voice: Voice) -> None:
    first, second, other = (voice.synthesize("Hello there.", None, seed).pcm for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("speed", [1.0, 1.5])
@pytest.mark.parametrize("text", ["", "🙂", "你好", "***"])
def test_text_without_sound_gives_nothing(voice: Voice, text: str, speed: float) -> None:
    assert len(voice.synthesize(text, "sentence", 0, speed).pcm) == 0


@pytest.mark.parametrize("speed", [SPEED_RANGE[0], 0.5, 0.8, 1.1, 1.25, SPEED_RANGE[1]])
def test_speech_is_as_fast_as_asked_for(voice: Voice, speed: float) -> None:
    text = "Honey never spoils, so you can eat honey that is thousands of years old."
    normal, other = (len(voice.synthesize(text, "comma", 1, pace).pcm) for pace in (1.0, speed))
    assert normal / other == pytest.approx(speed, rel=0.07)


def test_fast_speech_is_the_same_for_the_same_seed(voice: Voice) -> None:
    first, second, other = (voice.synthesize("Hello there.", None, seed, 1.3).pcm for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_more_threads_speak_the_same_way() -> None:
    slow, fast = Voice("heart", 1), Voice("heart", 2)
    first, second = (v.synthesize("Hello there.", None, 1).pcm.astype(np.int32) for v in (slow, fast))
    assert len(first) == len(second)
    assert np.abs(first - second).max() < 330  # 1 % of full scale: sums in another order


def test_marks_are_not_read_out() -> None:
    assert speakable("**Really** `good`, _yes_ # now") == "Really good , yes now"


def test_only_voices_in_the_package_are_offered() -> None:
    assert voices() == ("heart",)
    with pytest.raises(ValueError, match="emma"):
        Voice("emma")


def test_trim_keeps_speech_and_little_else() -> None:
    wave = np.zeros(SAMPLE_RATE, np.float32)
    wave[8_000:12_000] = 0.3 * np.sin(np.arange(4_000) / 10).astype(np.float32)
    speech = trim(wave)
    around = (KEEP_BEFORE_MS + KEEP_AFTER_MS) * SAMPLE_RATE // 1000
    assert abs(len(speech) - 4_000 - around) < 50
    assert len(trim(wave * 0.001)) == 0
    assert len(trim(wave[:0])) == 0
