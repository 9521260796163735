"""Results in words, and whether a reply tells them."""

from __future__ import annotations

import pytest

from model.backends.cascade.tool_results import DONE, MAX_CHARS, in_words, is_told, prose, read_out

WEATHER = '{"temperature_c": 18, "sky": "sunny"}'


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (WEATHER, "temperature c: 18, sky: sunny"),
        ('[{"a": 1}, {"a": [2, true, null]}]', "a: 1, a: 2, a: yes, a: nothing"),
        ("21.5", "21.5"),
        ("not { json", "not { json"),
        ("", ""),
        ("{}", ""),
        ("[" * 10_000, "[" * MAX_CHARS),
        ('{"a":' * 50 + "1" + "}" * 50, ""),
    ],
)
def test_a_result_in_words(output: str, words: str) -> None:
    assert in_words(output) == words


def test_a_long_result_is_cut_between_words() -> None:
    assert len(in_words("many words " * 1_000)) <= MAX_CHARS


@pytest.mark.parametrize(
    ("reply", "is_good"),
    [
        ("It is 18 degrees and sunny.", True),
        ("It is Sunny in Paris.", True),
        ("It is 18 degrees.", True),
        ("It is 26 degrees and sunny.", False),
        ("The sky is beautiful.", False),
        ("", False),
    ],
)
def test_a_reply_must_have_a_value_and_no_other_number(reply: str, is_good: bool) -> None:
    assert is_told(reply, "What is the weather in Paris?", WEATHER) == is_good


def test_a_result_without_values_needs_only_words() -> None:
    assert is_told("Okay, it is set to 10 minutes.", "Set it to 10 minutes.", '{"ok": true}')
    assert not is_told("It is set to 12 minutes.", "Set it to 10 minutes.", '{"ok": true}')


def test_what_is_not_told_is_read_out() -> None:
    assert read_out(WEATHER) == "temperature c: 18, sky: sunny."
    assert read_out('{"ok": true}') == read_out("") == DONE


def test_a_result_that_is_a_sentence_is_said_as_it_is() -> None:
    recipe = "Boil the carrots for twenty minutes, then add salt"
    assert prose(recipe) == prose(f'{{"recipe": "{recipe}"}}') == f"{recipe}."
    assert prose("sent") is None
    assert prose(WEATHER) is None
