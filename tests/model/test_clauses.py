"""Clauses start early, sound natural, and cover the text exactly, however it arrives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.backends.cascade.clauses import FIRST_MAX_WORDS, MAX_WORDS, Clause, ClauseCutter

REPLIES = {
    "The capital of France is Paris.": ["The capital of France is Paris."],
    "I'm doing great, thanks for asking. How about you?": [
        "I'm doing great,",
        "thanks for asking.",
        "How about you?",
    ],
    "Well, I am fine.": ["Well, I am fine."],  # one word alone would sound chopped
    "You can have a big pot of pasta with risotto made with chicken and vegetables.": [
        "You can have a big pot",
        "of pasta with risotto made with chicken and vegetables.",
    ],
    "Dr. Smith met J. Doe in St. Louis. They talked.": ["Dr. Smith met J. Doe", "in St. Louis.", "They talked."],
    "It costs 3.50 dollars, or 1,000 yen. Deal?": ["It costs 3.50 dollars,", "or 1,000 yen.", "Deal?"],
    'She said "Stop!" and left. Then he said "Go." too.': [
        'She said "Stop!',  # the quote that follows has no sound
        '" and left.',
        'Then he said "Go."',
        "too.",
    ],
    "One line\nanother line": ["One line", "another line"],
    "No end": ["No end"],
    "": [],
    "...": [],
    "Hi!!! How are you?": ["Hi!", "!! How are you?"],
}


def cut(text: str, sizes: int | None = None) -> list[Clause]:
    """All clauses of a text that arrives in pieces of `sizes` characters."""
    cutter, clauses = ClauseCutter(), []
    size = sizes or max(1, len(text))
    for start in range(0, len(text), size):
        clauses += cutter.feed(text[start : start + size])
    return clauses + cutter.flush()


@pytest.mark.parametrize("reply", REPLIES)
def test_replies_are_cut_where_one_would_breathe(reply: str) -> None:
    assert [clause.text for clause in cut(reply)] == REPLIES[reply]


@given(st.text(alphabet="aI o,.!?\n\"'3éA-—Mr", max_size=200), st.integers(1, 7))
def test_pieces_change_nothing(text: str, size: int) -> None:
    assert cut(text, size) == cut(text)


@given(st.text(alphabet="aI o,.!?\n\"'3é-", max_size=200))
def test_clauses_lie_in_the_text_in_order_and_leave_out_no_word(text: str) -> None:
    clauses, last = cut(text), 0
    for clause in clauses:
        assert last <= clause.start < clause.end <= len(text)
        assert text[clause.start : clause.end] == clause.text
        assert not any(character.isalnum() for character in text[last : clause.start])
        last = clause.end
    assert not any(character.isalnum() for character in text[last:])


@given(st.text(alphabet="abc ,.", max_size=120), st.text(alphabet="abc ,.", max_size=60))
def test_what_follows_never_changes_what_was_cut(text: str, more: str) -> None:
    first = ClauseCutter().feed(text)
    assert ClauseCutter().feed(text + more)[: len(first)] == first


def test_the_first_clause_does_not_wait_for_the_blank_after_a_comma() -> None:
    cutter = ClauseCutter()
    assert cutter.feed("I see") == []
    assert [clause.text for clause in cutter.feed(",")] == ["I see,"]
    assert cutter.feed(" and I think so,") == []
    assert [clause.text for clause in cutter.feed(" too")] == ["and I think so,"]


def test_endless_text_without_marks_is_cut_anyway() -> None:
    lengths = [len(clause.text.split()) for clause in cut("word " * 100)]
    assert lengths[0] == FIRST_MAX_WORDS
    assert max(lengths) == MAX_WORDS


@pytest.mark.parametrize(("text", "ending"), [("Yes.", "sentence"), ("Yes", "none"), ('He said "yes!"', "sentence")])
def test_the_last_clause_knows_how_it_ends(text: str, ending: str) -> None:
    assert cut(text)[-1].ending == ending
