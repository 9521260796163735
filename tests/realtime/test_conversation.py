"""The conversation: order, insertion, deletion, and cutting a reply at what was heard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtc_server.calls.contexts import engine_history
from rtc_server.errors import ProtocolError
from rtc_server.realtime.conversation import MAX_ITEMS, Conversation, Item, heard_text


def user(item_id: str, text: str = "hello") -> Item:
    return Item(item_id, "user", "input_text", text)


def test_items_keep_their_order_and_know_their_predecessor() -> None:
    conversation = Conversation()
    assert conversation.append(user("a")) is None
    assert conversation.append(user("b")) == "a"
    assert conversation.insert(user("c"), "a") == "a"
    assert conversation.insert(user("d"), "root") is None
    assert [item.item_id for item in conversation] == ["d", "a", "c", "b"]


def test_unknown_and_repeated_ids_are_the_clients_mistake() -> None:
    conversation = Conversation()
    conversation.append(user("a"))
    with pytest.raises(ProtocolError, match="exists already"):
        conversation.insert(user("a"), None)
    with pytest.raises(ProtocolError, match="no item 'x'"):
        conversation.insert(user("b"), "x")
    with pytest.raises(ProtocolError, match="no item 'x'"):
        conversation.delete("x")


def test_the_engine_is_told_only_items_with_words() -> None:
    conversation = Conversation()
    conversation.append(user("a", "Hi."))
    conversation.append(Item("b", "assistant", "output_audio", "", "incomplete"))
    conversation.append(user("c", ""))
    assert [(item.role, item.text) for item in engine_history(conversation, {}, None, ())] == [("user", "Hi.")]


def test_a_long_call_forgets_its_oldest_items() -> None:
    conversation = Conversation()
    for number in range(MAX_ITEMS + 5):
        conversation.append(user(f"i{number}"))
    assert len(conversation) == MAX_ITEMS
    assert next(iter(conversation)).item_id == "i5"


@pytest.mark.parametrize(
    ("text_end", "heard"),
    [
        (None, ""),
        (0, ""),
        (3, ""),
        (5, "Paris"),
        (7, "Paris"),
        (8, "Paris is"),
        (9, "Paris is"),
        (100, "Paris is big."),
    ],
)
def test_a_word_counts_as_heard_when_it_was_finished(text_end: int | None, heard: str) -> None:
    assert heard_text("Paris is big.", text_end) == heard


@given(st.text(max_size=60), st.integers(0, 80))
def test_what_was_heard_is_a_prefix(text: str, text_end: int) -> None:
    assert text.startswith(heard_text(text, text_end))


def test_clients_never_see_null_in_an_item() -> None:
    body = Item("b", "assistant", "output_audio", "", "in_progress").to_event()
    assert None not in body.values()
    assert body["content"] == []
