"""Engines that listen to the conversation: past turns are sound to them, each exactly once."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from model.interface import ConversationItem, GenerateRequest
from rtc_server.calls import core as call_core
from tests.support.client_words import text_item
from tests.support.virtual_call import RATE, VirtualCall, tone


@pytest.fixture
def call() -> VirtualCall:
    return VirtualCall(gives_transcripts=False, listens_to_history=True)


def turn(call: VirtualCall, ms: int = 600, answer: str | None = "Paris is nice.") -> GenerateRequest:
    """The user says something; returns the request that it became."""
    call.say(ms)
    call.be_quiet(700)
    request = call.requests[-1]
    if answer is not None:
        call.answer(answer, transcript=None)
        call.be_quiet(1_500)
    return request


def told(request: GenerateRequest) -> list[tuple[str, str, int]]:
    """(role, words, milliseconds of sound) of each item."""
    return [
        (item.role, item.text, 0 if item.audio is None else len(item.audio) // 16)
        for item in request.items
        if isinstance(item, ConversationItem)
    ]


def clip(ms: int) -> dict[str, object]:
    audio = base64.b64encode(tone(ms, RATE).tobytes()).decode()
    return {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": audio}]}


def test_past_turns_are_heard_again_and_the_present_one_stands_in_the_request_alone(call: VirtualCall) -> None:
    first = turn(call)
    assert told(first) == []
    second = turn(call)
    assert [(role, text) for role, text, _ in told(second)] == [("user", ""), ("assistant", "Paris is nice.")]
    heard, said = second.items[0].audio, first.audio
    assert heard is not None
    assert said is not None
    # the first request was speculative: it was made in the pause, and the turn went on for a while
    np.testing.assert_array_equal(heard[: len(said)], said)
    third = turn(call)
    assert [role for role, _, _ in told(third)] == ["user", "assistant", "user", "assistant"]


def test_what_nobody_answered_is_in_the_request_and_not_in_the_history_too() -> None:
    call = VirtualCall(gives_transcripts=False, listens_to_history=True, create_response=False)
    call.say(600)
    call.be_quiet(700)
    call.say(400)
    call.be_quiet(700)
    call.send(type="response.create")
    request = call.requests[-1]
    assert request.audio is not None
    assert len(request.audio) > 16 * 1_000
    assert told(request) == []


def test_a_turn_that_went_on_before_the_reply_was_heard_is_asked_again_once(call: VirtualCall) -> None:
    call.say(600)
    call.be_quiet(420)  # the endpoint has passed, nothing of the reply is heard
    number = len(call.requests)
    call.say(600)
    call.be_quiet(700)
    assert len(call.requests) > number
    request = call.requests[-1]
    assert request.audio is not None
    assert len(request.audio) > 16 * 1_200  # both stretches
    assert told(request) == []


def test_sound_that_a_client_brings_is_heard_where_it_stands(call: VirtualCall) -> None:
    call.send(type="conversation.item.create", item=clip(500))
    call.send(type="response.create")
    assert call.requests[-1].audio is not None
    call.answer(transcript=None)
    call.be_quiet(1_500)
    call.send(type="conversation.item.create", item=text_item("And Rome?"))
    call.send(type="response.create")
    request = call.requests[-1]
    assert request.audio is None
    assert [(role, text) for role, text, _ in told(request)] == [
        ("user", ""),
        ("assistant", "Paris is nice."),
        ("user", "And Rome?"),
    ]
    assert told(request)[0][2] == pytest.approx(500, abs=10)


def test_a_response_of_its_own_may_have_sound_anywhere(call: VirtualCall) -> None:
    call.send(type="response.create", response={"conversation": "none", "input": [clip(300), text_item("And this?")]})
    request = call.requests[-1]
    assert [(role, text) for role, text, _ in told(request)] == [("user", ""), ("user", "And this?")]
    assert request.audio is None


def test_deleted_sound_is_not_heard_again(call: VirtualCall) -> None:
    turn(call)
    item_id = call.sent("conversation.item.added")[0]["item"]["id"]
    call.send(type="conversation.item.delete", item_id=item_id)
    assert [role for role, _, _ in told(turn(call))] == ["assistant"]


def test_the_sound_of_a_long_call_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_core, "HEARD_SECONDS", 2.0)
    call = VirtualCall(gives_transcripts=False, listens_to_history=True)
    for _ in range(4):
        request = turn(call)
    sounds = sum(ms for _, _, ms in told(request))
    assert 0 < sounds <= 2_000
    assert [role for role, _, _ in told(request)].count("assistant") == 3  # its words stay


def test_engines_that_go_by_words_get_no_sound() -> None:
    call = VirtualCall()
    call.say(600)
    call.be_quiet(700)
    call.answer(transcript="Hello there.")
    call.be_quiet(1_500)
    call.say(600)
    call.be_quiet(700)
    items = [item for item in call.requests[-1].items if isinstance(item, ConversationItem)]
    assert [item.text for item in items] == ["Hello there.", "Paris is nice."]
    assert all(item.audio is None for item in items)
