"""The order of text and speech tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.opens2s.config import Interleaving
from model.opens2s.interleave import ReplyOrder

TEXT_END, UNIT_END = 9, 99


def play(order: ReplyOrder, text: list[int], units: list[int]) -> str:
    """Feed tokens as they are asked for; "t" and "u" in the order of the reply."""
    texts, speech, steps = iter(text), iter(units), ""
    while order.next != "done":
        if order.next == "text":
            order.add_text(next(texts))
            steps += "t"
        else:
            order.add_unit(next(speech))
            steps += "u"
    return steps


def order(strategy: str = "1:2", max_text: int = 100, max_units: int = 100) -> ReplyOrder:
    return ReplyOrder(
        Interleaving.parse(strategy),
        max_text=max_text,
        max_units=max_units,
        text_ends=frozenset({TEXT_END}),
        unit_ends=frozenset({UNIT_END}),
    )


def test_speech_goes_on_alone_once_the_text_is_finished() -> None:
    assert play(order(), [1, 2, TEXT_END], [0] * 9 + [UNIT_END]) == "tuutuut" + "u" * 6


def test_groups_have_the_checkpoints_sizes() -> None:
    assert play(order("3:5"), [1, 2, 3, 4, TEXT_END], [0] * 6 + [UNIT_END]) == "ttt" + "uuuuu" + "tt" + "uu"


def test_an_end_of_speech_inside_a_group_ends_that_group_alone() -> None:
    assert play(order(), [1, 2, TEXT_END], [UNIT_END, 0, 0, 0, UNIT_END]) == "tu" + "tuu" + "tuu"


def test_a_used_text_budget_finishes_the_text() -> None:
    reply = order(max_text=2)
    assert play(reply, [1, 2], [0, 0, 0, UNIT_END]) == "tuut" + "uu"
    assert reply.hit_text_limit


def test_an_end_with_the_last_token_of_the_budget_is_an_end() -> None:
    reply = order(max_text=2)
    play(reply, [1, TEXT_END], [0, 0, UNIT_END])
    assert not reply.hit_text_limit


def test_a_used_speech_budget_stops_everything_after_the_next_texts() -> None:
    assert play(order("2:2", max_units=3), [1] * 9, [0] * 3) == "ttuuttu" + "tt"


@given(
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 20),
    st.integers(1, 40),
    st.lists(st.sampled_from([0, 1, UNIT_END]), min_size=200, max_size=200),
    st.integers(0, 25),
)
def test_budgets_are_never_exceeded_and_every_reply_ends(
    text: int, units: int, max_text: int, max_units: int, speech: list[int], end_at: int
) -> None:
    reply = order(f"{text}:{units}", max_text, max_units)
    play(reply, [0] * end_at + [TEXT_END] * 40, speech + [0] * 100)
    assert reply.num_text <= max_text
    assert reply.num_units <= max_units


@pytest.mark.parametrize("text", ["", "1", "0:2", "1:0", "a:b", "1:2:3", "-1:2", "1:2.5"])
def test_a_bad_strategy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="interleave_strategy"):
        Interleaving.parse(text)


def test_a_reply_without_room_for_text_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        order(max_text=0)
