"""One record per answered turn, from which everything that tells its latency is made."""

from __future__ import annotations

import pytest

from model.interface import AudioDelta, ResponseDone, ResponseStarted, TextDelta, Transcript
from rtc_server.calls.turn_records import STAGES
from tests.support.virtual_call import RATE, WALL_OFFSET, VirtualCall, tone


def answer_in_steps(call: VirtualCall) -> str:
    """The engine takes 20 ms for each of its stages while the user is quiet."""
    response_id = call.requests[-1].response_id
    for event in (
        ResponseStarted(response_id, call.now + 0.02),
        Transcript(response_id, "Hello there.", call.now + 0.04),
        TextDelta(response_id, "Paris.", call.now + 0.06),
        AudioDelta(response_id, tone(200, RATE, 440.0), 6, call.now + 0.08),
        ResponseDone(response_id, "completed", call.now + 0.08),
    ):
        call.be_quiet(20)
        call.engine(event)
    return response_id


def test_the_record_and_what_the_client_is_told_are_the_same_figures() -> None:
    call = VirtualCall(silence_ms=400)
    call.say(800)
    call.be_quiet(120)  # the pause in which a reply is prepared
    submitted = call.now
    response_id = answer_in_steps(call)
    call.be_quiet(400)

    (record,) = call.turns
    (event,) = call.sent("rtc_server.turn.metrics")
    assert {name: event[name] for name in record.to_event()} == record.to_event()
    assert (record.call_id, record.response_id) == ("rtc_test", response_id)
    assert record.turn_id == call.requests[-1].turn_id
    assert record.speculated
    assert tuple(record.stages) == STAGES
    assert record.stages["jitter_buffer"] == 80.0
    for name in ("queue", "recognition", "first_text", "first_audio"):
        assert record.stages[name] == pytest.approx(20.0, abs=0.1)
    assert record.inference_ms == pytest.approx(60.0, abs=0.3)
    assert record.wall_time(record.spans["queue"][0]) == pytest.approx(submitted + WALL_OFFSET, abs=1e-3)


def test_the_latency_is_the_time_from_the_start_of_the_first_stage_to_the_end_of_the_last() -> None:
    call = VirtualCall(silence_ms=400)
    call.say(800)
    call.be_quiet(500)
    call.answer()
    call.be_quiet(100)

    (record,) = call.turns
    assert record.latency_ms is not None
    assert record.latency_ms == pytest.approx(record.spans["playout"][1] - record.spans["jitter_buffer"][0], abs=0.2)
    assert record.wall_time(record.heard_ms) == record.ended_at
    assert WALL_OFFSET < record.ended_at <= WALL_OFFSET + call.now


def test_a_reply_that_no_speech_waited_for_has_stages_but_no_latency() -> None:
    call = VirtualCall()
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]}
    call.send(type="conversation.item.create", item=item)
    call.send(type="response.create")
    call.be_quiet(40)
    call.answer(transcript=None)
    call.be_quiet(40)

    (record,) = call.turns
    assert record.latency_ms is None
    assert "endpoint" not in record.stages
    assert record.stages["playout"] == pytest.approx(20.0, abs=0.1)


def test_a_reply_that_nobody_heard_leaves_no_record() -> None:
    call = VirtualCall(silence_ms=400)
    call.say(800)
    call.be_quiet(200)  # held
    call.say(400)  # the user goes on: the guess was wrong
    assert call.turns == []
