"""Engines that want to hear long turns while they are spoken: what they are handed, and that nobody else notices."""

from __future__ import annotations

import numpy as np
import pytest

from model.interface import (
    AudioDelta,
    EngineFault,
    GenerateRequest,
    ResponseDone,
    ResponseStarted,
    TextDelta,
    Transcript,
)
from tests.support.client_words import errors, text_item
from tests.support.virtual_call import RATE, VirtualCall, tone

STEP_MS = 1_000


@pytest.fixture
def call() -> VirtualCall:
    call = VirtualCall(listen_ahead_ms=STEP_MS)
    call.be_quiet(500)  # room for the pre-roll, which is part of the turn
    return call


def handed_over(call: VirtualCall) -> list[GenerateRequest]:
    return [request for request in call.requests if request.output == "listen"]


def steps(call: VirtualCall) -> list[int]:
    """Milliseconds of sound that were handed over, each time."""
    return [length_ms(request) for request in handed_over(call)]


def length_ms(request: GenerateRequest) -> int:
    assert request.audio is not None
    return len(request.audio) // 16


def heard(call: VirtualCall) -> None:
    """The engine has listened to what it was handed."""
    call.engine(ResponseDone(handed_over(call)[-1].response_id, "completed", call.now))


def test_a_long_turn_is_handed_over_step_by_step(call: VirtualCall) -> None:
    call.say(600)
    assert steps(call) == [], "with its pre-roll the turn is 900 ms long"
    call.say(200)
    assert steps(call) == [1_000]
    heard(call)
    call.say(700)
    assert steps(call) == [1_000], "each step once"
    call.say(200)
    assert steps(call) == [1_000, 2_000]


def test_what_is_handed_over_is_how_the_question_will_begin(call: VirtualCall) -> None:
    call.send(type="session.update", session={"type": "realtime", "instructions": "Be a pirate."})
    call.send(type="conversation.item.create", item=text_item("Before."))
    call.say(900)
    call.be_quiet(200)
    call.say(1_200)
    heard(call)
    call.say(100)
    call.be_quiet(200)
    question, listened = call.requests[-1], handed_over(call)
    assert steps(call) == [1_000, 2_000]
    assert question.output == "audio"
    assert question.audio is not None
    for request in listened:
        assert (request.turn_id, request.items) == (question.turn_id, question.items)
        assert request.instructions == question.instructions == "Be a pirate."
        assert request.is_held
        assert request.audio_credit_ms == 0
        assert request.audio is not None
        np.testing.assert_array_equal(request.audio, question.audio[: len(request.audio)])
    assert [len(request.pauses) for request in listened] == [0, 1]
    assert question.pauses[: len(listened[-1].pauses)] == listened[-1].pauses


def test_only_one_is_under_way_and_the_next_brings_all_that_was_said_since(call: VirtualCall) -> None:
    call.say(3_000)
    assert steps(call) == [1_000]
    heard(call)
    call.say(20)
    assert steps(call) == [1_000, 3_000]


def test_nothing_of_it_is_shown_counted_or_played(call: VirtualCall) -> None:
    call.say(1_000)
    call.forget()
    key = handed_over(call)[-1].response_id
    call.engine(ResponseStarted(key, call.now), Transcript(key, "Stop!", call.now), TextDelta(key, "No.", call.now))
    call.engine(AudioDelta(key, tone(200, RATE), 3, call.now), ResponseDone(key, "completed", call.now))
    call.say(100)
    assert call.kinds() == []
    assert call.heard() == 0
    assert call.observed == []
    assert not call.core.is_agent_active


def test_the_turn_is_answered_as_always(call: VirtualCall) -> None:
    call.say(1_000)
    call.be_quiet(200)
    held = call.requests[-1].response_id
    call.be_quiet(400)
    assert call.released == [held]
    assert call.cancelled == [], "what the engine listens to is the beginning of what it answers"
    call.answer()
    call.be_quiet(1_500)
    (done,) = call.sent("response.done")
    assert done["response"]["id"] == held
    assert handed_over(call)[0].response_id not in str(call.events)
    assert {observed.label for observed in call.observed if observed.name == "response"} == {"completed"}


def test_while_a_held_response_hears_everything_nothing_is_handed_over(call: VirtualCall) -> None:
    call.say(2_000)
    call.be_quiet(200)
    heard(call)
    call.be_quiet(100)
    assert [request.output for request in call.requests] == ["listen", "audio"]
    call.say(60)
    assert steps(call) == [1_000, 2_000]


def test_one_of_an_earlier_turn_gives_way(call: VirtualCall) -> None:
    call.say(1_000)
    call.be_quiet(600)
    call.answer()
    call.be_quiet(1_500)
    first = handed_over(call)[0].response_id
    assert call.cancelled == []
    call.say(1_000)
    assert call.cancelled == [first]
    assert steps(call) == [1_000, 1_000]


def test_a_failure_is_nobodys_but_the_engines(call: VirtualCall) -> None:
    call.say(1_000)
    call.forget()
    fault = EngineFault("engine_busy", "No room.")
    call.engine(ResponseDone(handed_over(call)[-1].response_id, "failed", call.now, fault))
    call.say(1_000)
    assert call.kinds() == []
    assert steps(call) == [1_000, 2_000]


def test_what_waits_for_an_answer_is_listened_to_again_with_the_turn() -> None:
    call = VirtualCall(listen_ahead_ms=STEP_MS)
    call.say(800)
    call.be_quiet(560)  # the endpoint; before anything is heard the user goes on
    call.say(600)
    heard(call)
    call.say(600)
    call.be_quiet(200)
    listened, question = handed_over(call)[-1], call.requests[-1]
    assert length_ms(listened) == 2_000
    assert listened.audio is not None
    assert question.audio is not None
    np.testing.assert_array_equal(listened.audio, question.audio[: len(listened.audio)])
    assert listened.items == question.items


def test_what_the_client_adds_meanwhile_is_told_at_once(call: VirtualCall) -> None:
    call.say(1_000)
    first = handed_over(call)[0].response_id
    call.send(type="conversation.item.create", item=text_item("By the way."))
    assert call.cancelled == [first]
    call.say(20)
    assert steps(call) == [1_000, 1_000]
    assert len(handed_over(call)[-1].items) == 1


@pytest.mark.parametrize(
    "event",
    [
        {"type": "input_audio_buffer.clear"},
        {"type": "input_audio_buffer.commit"},
        {"type": "session.update", "session": {"type": "realtime", "audio": {"input": {"turn_detection": None}}}},
        {"type": "response.create", "response": {"instructions": "Say hello."}},
    ],
    ids=lambda event: event["type"],
)
def test_it_ends_with_a_turn_that_ends_in_another_way(call: VirtualCall, event: dict[str, object]) -> None:
    call.say(1_000)
    (listened,) = handed_over(call)
    call.send(**event)
    assert not call.sent("error"), call.sent("error")
    assert call.cancelled == [listened.response_id]


def test_it_ends_with_the_call(call: VirtualCall) -> None:
    call.say(1_000)
    (listened,) = handed_over(call)
    call.core.close()
    call._drain()
    assert call.cancelled == [listened.response_id]


def test_a_voice_during_a_reply_that_interrupts_nothing_is_not_listened_to() -> None:
    call = VirtualCall(listen_ahead_ms=STEP_MS, interrupt_response=False)
    call.say(600)
    call.be_quiet(560)
    call.answer(ms=4_000)
    call.be_quiet(200)
    call.say(1_500)
    assert handed_over(call) == []


def test_turns_that_nobody_will_answer_by_themselves_are_not_listened_to() -> None:
    call = VirtualCall(listen_ahead_ms=STEP_MS, create_response=False)
    call.say(2_500)
    assert call.requests == []
    call = VirtualCall(listen_ahead_ms=STEP_MS, session_type="transcription")
    call.say(2_500)
    assert handed_over(call) == []


def test_engines_that_do_not_want_it_never_get_one() -> None:
    call = VirtualCall()
    call.say(5_000)
    assert call.requests == []


def test_no_client_can_ask_for_it(call: VirtualCall) -> None:
    call.send(type="session.update", session={"type": "realtime", "output_modalities": ["listen"]})
    call.send(type="response.create", response={"output_modalities": ["listen"], "instructions": "Say hello."})
    assert [code for code, _ in errors(call)] == ["invalid_value", "invalid_value"]
    assert call.requests == []
