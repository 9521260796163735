"""How long a pause may be: never longer than the eagerness allows, shorter the surer it is that the user is done."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc_server.turns.completion import (
    LONGEST_WAIT_MS,
    SHORTEST_WAIT_MS,
    Eagerness,
    completion,
    transcript_completion,
    wait_ms,
)

EAGERNESSES: tuple[Eagerness, ...] = get_args(Eagerness)
probabilities = st.floats(0.0, 1.0)
eagernesses = st.sampled_from(EAGERNESSES)


def test_unjudged_pauses_last_as_long_as_openai_says() -> None:
    assert {eagerness: wait_ms(eagerness, None) for eagerness in EAGERNESSES} == {
        "low": 8_000,
        "medium": 4_000,
        "high": 2_000,
        "auto": 4_000,
    }


@pytest.mark.parametrize("eagerness", EAGERNESSES)
def test_the_ends_of_the_curve(eagerness: Eagerness) -> None:
    assert wait_ms(eagerness, 0.0) == LONGEST_WAIT_MS[eagerness]
    assert wait_ms(eagerness, 1.0) == SHORTEST_WAIT_MS[eagerness] <= 500
    assert wait_ms(eagerness, 0.95) < SHORTEST_WAIT_MS[eagerness] + 20
    middle = wait_ms(eagerness, 0.5)
    assert LONGEST_WAIT_MS[eagerness] / 5 < middle < LONGEST_WAIT_MS[eagerness] / 2


@given(eagernesses, probabilities, probabilities)
def test_the_surer_the_shorter(eagerness: Eagerness, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert wait_ms(eagerness, high) <= wait_ms(eagerness, low) <= wait_ms(eagerness, None)


@given(probabilities)
def test_the_more_eager_the_shorter(probability: float) -> None:
    waits = [wait_ms(eagerness, probability) for eagerness in ("low", "medium", "high")]
    assert all(longer > shorter for longer, shorter in pairwise(waits))
    assert wait_ms("auto", probability) == wait_ms("medium", probability)


@pytest.mark.parametrize("probability", [-0.01, 1.01, float("nan")])
def test_what_is_no_probability_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        wait_ms("auto", probability)


# --- words


@pytest.mark.parametrize(
    "text",
    ["What is the capital of France?", "Yes.", "She said \u201cno.\u201d", "\u4f60\u597d\u5417\uff1f", "Call 911!"],
)
def test_a_closed_sentence_looks_finished(text: str) -> None:
    assert transcript_completion(text) > 0.8


@pytest.mark.parametrize(
    ("finished", "open_"),
    [
        ("I would like some tea.", "I would like some tea and."),
        ("I would like some tea.", "I would like some tea because"),
        ("Go forward ten meters.", "Go forward,"),
        ("Tell me about cats.", "Tell me about."),
        ("He was there.", "He was there \u2014"),
        ("He was there.", "He was there..."),
        ("Fine, I think I'll go.", "Fine, I think I'll."),
        ("Fine, I think I'll go.", "Fine, I think I\u2019ll"),
        ("A table for two.", "A table for, um."),
        ("A table for two.", "A table for two"),
        ("\u4f60\u597d\u3002", "\u4f60\u597d\uff0c"),
    ],
)
def test_words_that_want_more_look_less_finished(finished: str, open_: str) -> None:
    assert transcript_completion(finished) > transcript_completion(open_) + 0.3


def test_a_hesitation_is_the_surest_sign_and_no_words_are_none() -> None:
    assert transcript_completion("And then, um") < transcript_completion("And then, the") < 0.2
    assert transcript_completion("") == transcript_completion(" ...\n") == 0.5


def test_case_and_blanks_do_not_matter() -> None:
    assert transcript_completion("  TELL ME OF ") == transcript_completion("tell me of")


@given(st.text(max_size=200))
def test_any_text_gets_a_probability(text: str) -> None:
    assert 0.0 <= transcript_completion(text) <= 1.0


# --- both


@given(probabilities, probabilities)
def test_two_witnesses_lie_between_them_and_one_is_enough(sound: float, words: float) -> None:
    both = completion(sound, words)
    assert both is not None
    assert min(sound, words) <= both <= max(sound, words)
    assert completion(sound, None) == sound
    assert completion(None, words) == words
    assert completion(None, None) is None
