"""The rules of a call, on virtual time."""

from __future__ import annotations

import numpy as np
import pytest

from model.interface import AudioDelta, ResponseDone, ResponseStarted, TextDelta, Transcript
from tests.support.virtual_call import RATE, VirtualCall, tone


def asked(call: VirtualCall, ms: int = 800) -> None:
    """A user turn up to its endpoint."""
    call.say(ms)
    call.be_quiet(560)


def talking(call: VirtualCall, text: str = "One two three four five six seven eight nine ten.", ms: int = 4000) -> str:
    """A turn was asked, and its reply plays; the engine has sent all of it but not said that it is done."""
    asked(call)
    response_id = call.requests[-1].response_id
    call.engine(ResponseStarted(response_id, call.now), Transcript(response_id, "Count to ten.", call.now))
    call.engine(TextDelta(response_id, text, call.now))
    call.engine(AudioDelta(response_id, tone(ms, RATE, 440.0), len(text), call.now))
    call.be_quiet(200)
    return response_id


# --- an ordinary turn


def test_a_turn_is_answered_in_the_order_of_the_api() -> None:
    call = VirtualCall()
    asked(call)
    call.answer()
    call.be_quiet(1400)
    kinds = [kind for kind in call.kinds() if kind not in ("rtc_server.turn.metrics", "rate_limits.updated")]
    assert kinds == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "conversation.item.input_audio_transcription.delta",
        "conversation.item.input_audio_transcription.completed",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio_transcript.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
        "output_audio_buffer.started",
        "output_audio_buffer.stopped",
    ]
    assert 980 <= call.heard() <= 1040


def test_the_engine_gets_the_turn_with_its_onset() -> None:
    call = VirtualCall()
    call.be_quiet(1000)
    call.say(800)
    call.be_quiet(600)
    audio = call.requests[-1].audio
    assert audio is not None
    voiced = np.flatnonzero(np.abs(audio) > 1000)
    assert voiced[-1] - voiced[0] >= 16 * 795  # all of it
    assert voiced[0] >= 16 * 250  # with the pre-roll before it


def test_the_conversation_reaches_the_next_request() -> None:
    call = VirtualCall()
    asked(call)
    call.answer("Paris is nice.", transcript="Hello there.")
    call.be_quiet(1500)
    asked(call)
    assert [(item.role, item.text) for item in call.requests[-1].items] == [
        ("user", "Hello there."),
        ("assistant", "Paris is nice."),
    ]


def test_instructions_reach_the_engine() -> None:
    call = VirtualCall()
    call.send(type="session.update", session={"type": "realtime", "instructions": "Be a pirate."})
    assert call.sent("session.updated")[0]["session"]["instructions"] == "Be a pirate."
    asked(call)
    assert call.requests[-1].instructions == "Be a pirate."


def test_turn_metrics_tell_every_stage() -> None:
    call = VirtualCall()
    asked(call)
    call.answer()
    call.be_quiet(100)
    (metrics,) = call.sent("rtc_server.turn.metrics")
    assert metrics["speculated"] is True
    stages = metrics["stages"]
    assert set(stages) == {
        "jitter_buffer", "endpoint", "queue", "recognition", "first_text", "first_audio", "playout",
    }  # fmt: skip
    assert stages["jitter_buffer"] == {"start_ms": -80.0, "end_ms": 0.0}
    assert 380 <= stages["endpoint"]["end_ms"] <= 460
    assert metrics["response_latency_ms"] == pytest.approx(stages["playout"]["end_ms"] + 80, abs=0.2)


def test_credit_follows_what_was_played() -> None:
    call = VirtualCall()
    talking(call, ms=1000)
    assert call.granted
    call.be_quiet(1000)
    assert sum(ms for _, ms in call.granted) == pytest.approx(1000, abs=220)


# --- speculation


def test_the_reply_is_started_at_a_pause_and_hidden_until_the_endpoint() -> None:
    call = VirtualCall()
    call.say(800)
    call.be_quiet(200)
    assert len(call.requests) == 1
    call.answer()
    assert "response.created" not in call.kinds()
    call.be_quiet(100)
    assert call.heard() == 0
    call.be_quiet(300)
    assert "response.created" in call.kinds()
    assert call.heard() > 0
    assert len(call.requests) == 1


def test_the_engine_is_told_which_responses_are_guesses_and_when_one_was_right() -> None:
    call = VirtualCall()
    call.say(800)
    call.be_quiet(200)
    call.say(300)
    assert [request.is_held for request in call.requests] == [True]
    assert call.released == [], "the first guess was dropped"
    call.be_quiet(200)
    assert call.requests[-1].is_held
    call.be_quiet(400)
    assert call.released == [call.requests[-1].response_id]


def test_a_response_that_somebody_waits_for_from_the_start_is_not_held() -> None:
    call = VirtualCall()
    call.say(800)
    call.be_quiet(200)
    call.fail()
    call.be_quiet(400)
    assert [request.is_held for request in call.requests] == [True, False]
    assert call.released == []


def test_a_user_who_goes_on_never_sees_the_speculation() -> None:
    call = VirtualCall()
    call.say(800)
    call.be_quiet(200)
    first = call.answer("Wrong.")
    call.say(600)
    assert first not in str(call.events)
    call.be_quiet(600)
    assert len(call.requests) == 2
    second = call.requests[1]
    assert call.requests[0].turn_id == second.turn_id
    assert second.audio is not None
    assert len(second.audio) > 16 * 1500
    assert len(second.pauses) >= 1
    call.answer("Right.")
    call.be_quiet(100)
    assert [e["delta"] for e in call.sent("response.output_audio_transcript.delta")] == ["Right."]


def test_a_speculation_that_failed_is_asked_again_at_the_endpoint() -> None:
    call = VirtualCall()
    call.say(800)
    call.be_quiet(200)
    call.fail()
    call.be_quiet(400)
    assert len(call.requests) == 2
    assert call.answer() in str(call.sent("response.done"))


def test_noise_without_words_is_not_answered() -> None:
    call = VirtualCall()
    call.say(300)
    call.be_quiet(200)
    call.answer("", transcript="")
    call.be_quiet(400)
    assert "input_audio_buffer.committed" in call.kinds()
    assert "response.created" not in call.kinds()
    assert call.sent("conversation.item.input_audio_transcription.completed")[0]["transcript"] == ""


# --- barge-in


def test_a_second_voice_pauses_the_reply_at_once_and_then_ends_it() -> None:
    call = VirtualCall()
    response_id = talking(call)
    call.forget()
    call.say(120)
    assert call.heard() <= 80  # paused long before it is judged
    assert call.kinds() == []
    call.say(500)
    kinds = call.kinds()
    assert kinds[:2] == ["input_audio_buffer.speech_started", "output_audio_buffer.cleared"]
    assert kinds[-2:] == ["response.done", "conversation.item.truncated"]
    done = call.sent("response.done")[0]["response"]
    assert done["status"] == "cancelled"
    assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert call.cancelled == [response_id]
    call.forget()
    call.engine(AudioDelta(response_id, tone(500, RATE), 10, call.now))
    call.be_quiet(200)
    assert call.heard() == 0


def test_the_conversation_keeps_only_what_was_heard() -> None:
    call = VirtualCall()
    talking(call, "One two three four five six seven eight nine ten.", ms=4000)
    call.be_quiet(800)
    call.say(600)
    truncated = call.sent("conversation.item.truncated")[0]["audio_end_ms"]
    assert 900 <= truncated <= 1200
    call.be_quiet(500)
    assistant = [item.text for item in call.requests[-1].items if item.role == "assistant"]
    assert len(assistant) == 1
    assert assistant[0].startswith("One two")
    assert "ten" not in assistant[0]


def test_a_short_noise_resumes_the_reply_where_it_was() -> None:
    call = VirtualCall()
    response_id = talking(call, ms=2000)
    call.engine(ResponseDone(response_id, "completed", call.now))
    call.forget()
    call.say(40)
    call.be_quiet(2400)
    assert call.sent("output_audio_buffer.stopped")
    assert not call.sent("conversation.item.truncated")
    assert call.heard() >= 1700


def test_a_backchannel_does_not_end_the_reply() -> None:
    call = VirtualCall()
    talking(call, ms=3000)
    call.forget()
    call.say(240)
    call.be_quiet(200)
    held = call.requests[-1].response_id
    call.engine(ResponseStarted(held, call.now), Transcript(held, "Uh-huh.", call.now))
    call.be_quiet(300)
    assert call.kinds() == []
    assert held in call.cancelled
    assert call.heard() > 200


def test_a_short_word_that_is_no_backchannel_ends_the_reply() -> None:
    call = VirtualCall()
    talking(call)
    call.forget()
    call.say(240)
    call.be_quiet(200)
    call.answer("I stopped.", transcript="Stop!")
    call.be_quiet(400)
    assert call.sent("conversation.item.truncated")
    assert call.sent("conversation.item.input_audio_transcription.completed")[0]["transcript"] == "Stop!"
    assert call.sent("response.done")[-1]["response"]["status"] == "completed"


def test_interrupting_a_finished_reply_truncates_without_a_second_done() -> None:
    call = VirtualCall()
    asked(call)
    call.answer("A long and finished reply.", ms=3000)
    call.be_quiet(300)
    assert len(call.sent("response.done")) == 1
    call.say(600)
    assert len(call.sent("response.done")) == 1
    assert call.sent("output_audio_buffer.cleared")
    assert call.sent("conversation.item.truncated")


def test_a_voice_that_nobody_judges_lets_the_reply_go_on() -> None:
    call = VirtualCall()
    talking(call, ms=4000)
    call.say(200)
    call.forget()
    call.now += 5.0  # DTX: no more packets from the client, only our own frames
    call.core.handle_deadline(call.now)
    for _ in range(20):
        call.frames.append(call.core.pull_frame(call.now).pcm.copy())
    assert call.heard() > 300


def test_interruption_can_be_switched_off() -> None:
    call = VirtualCall(interrupt_response=False)
    talking(call, ms=3000)
    call.forget()
    call.say(800)
    call.be_quiet(500)
    assert "input_audio_buffer.speech_started" in call.kinds()
    assert "output_audio_buffer.cleared" not in call.kinds()
    assert call.heard() >= 1200


def test_what_was_said_meanwhile_is_not_lost_when_nobody_may_answer_yet() -> None:
    call = VirtualCall(interrupt_response=False)
    response_id = talking(call, ms=3000)
    call.say(600)
    call.be_quiet(600)
    call.engine(ResponseDone(response_id, "completed", call.now))
    call.be_quiet(3000)
    call.say(600)
    call.be_quiet(600)
    audio = call.requests[-1].audio
    assert audio is not None
    assert np.count_nonzero(np.abs(audio) > 1000) > 16 * 1000  # both stretches


def test_a_user_who_goes_on_after_the_endpoint_is_understood_as_a_whole() -> None:
    call = VirtualCall()
    asked(call)  # the engine has not even recognised the words yet
    call.say(900)
    call.be_quiet(600)
    assert call.sent("response.done")[0]["response"]["status"] == "cancelled"
    audio = call.requests[-1].audio
    assert audio is not None
    assert np.count_nonzero(np.abs(audio) > 1000) > 16 * 1500  # both parts
    call.answer("Yes.", transcript="The whole sentence.")
    call.be_quiet(1500)
    asked(call)
    audio = call.requests[-1].audio
    assert audio is not None
    assert np.count_nonzero(np.abs(audio) > 1000) < 16 * 900  # only the new turn


# --- the client's own control


def test_text_in_the_middle_of_a_call_is_answered() -> None:
    call = VirtualCall()
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What time is it?"}]}
    call.send(type="conversation.item.create", item=item)
    call.send(type="response.create")
    request = call.requests[-1]
    assert request.audio is None
    assert request.items[-1].text == "What time is it?"
    call.answer("Late.", transcript=None)
    call.be_quiet(200)
    assert call.heard() > 100


def test_cancel_stops_generation_and_clear_stops_the_sound() -> None:
    call = VirtualCall()
    response_id = talking(call)
    call.forget()
    call.send(type="response.cancel")
    assert call.cancelled == [response_id]
    assert call.sent("response.done")[0]["response"]["status_details"]["reason"] == "client_cancelled"
    call.be_quiet(200)
    assert call.heard() >= 180
    call.send(type="output_audio_buffer.clear")
    call.be_quiet(60)
    call.frames.clear()
    call.be_quiet(200)
    assert call.heard() == 0
    assert call.sent("output_audio_buffer.cleared")
    assert call.sent("conversation.item.truncated")


def test_cleared_is_told_when_not_one_sample_follows() -> None:
    call = VirtualCall()
    talking(call)
    call.send(type="response.cancel")
    call.forget()
    call.send(type="output_audio_buffer.clear")
    assert not call.sent("output_audio_buffer.cleared"), "the fade of 5 ms has yet to leave"
    call.be_quiet(20)
    assert call.sent("output_audio_buffer.cleared")
    call.frames.clear()
    call.be_quiet(200)
    assert call.heard() == 0


def test_only_one_response_at_a_time() -> None:
    call = VirtualCall()
    talking(call)
    call.send(type="response.create", event_id="evt_1")
    (error,) = call.sent("error")
    assert error["error"]["code"] == "conversation_already_has_active_response"
    assert error["error"]["event_id"] == "evt_1"


def test_a_response_asked_for_while_another_plays_waits_its_turn() -> None:
    call = VirtualCall()
    asked(call)
    first = call.answer("First.", ms=600)
    call.be_quiet(100)
    call.send(type="response.create")
    second = call.answer("Second.", transcript=None, ms=600)
    call.be_quiet(1500)
    started = [event["response_id"] for event in call.sent("output_audio_buffer.started")]
    stopped = [event["response_id"] for event in call.sent("output_audio_buffer.stopped")]
    assert started == stopped == [first, second]


def test_a_response_asked_for_before_the_other_is_heard_waits_too() -> None:
    call = VirtualCall()
    asked(call)
    first = call.answer("First.", ms=600)  # queued, and not one frame of it has left
    call.send(type="response.create")
    second = call.answer("Second.", transcript=None, ms=600)
    call.be_quiet(1500)
    assert [event["response_id"] for event in call.sent("output_audio_buffer.stopped")] == [first, second]
    assert 1150 <= call.heard() <= 1260


def test_without_auto_response_the_client_asks_and_loses_nothing() -> None:
    call = VirtualCall(create_response=False)
    asked(call)
    assert call.requests == []
    assert "input_audio_buffer.committed" in call.kinds()
    call.send(type="response.create")
    assert call.requests[-1].audio is not None


def test_push_to_talk() -> None:
    call = VirtualCall()
    call.send(type="session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
    call.send(type="input_audio_buffer.clear")
    call.say(500)
    call.be_quiet(1000)
    assert call.requests == []
    call.send(type="input_audio_buffer.commit")
    call.send(type="response.create")
    audio = call.requests[-1].audio
    assert audio is not None
    assert len(audio) == 16 * 1500
    call.send(type="input_audio_buffer.commit")
    assert call.sent("error")[-1]["error"]["code"] == "input_audio_buffer_commit_empty"


def test_the_client_may_truncate_delete_and_retrieve() -> None:
    call = VirtualCall()
    asked(call)
    call.answer("One two three four.", ms=1000)
    call.be_quiet(1300)
    item_id = call.sent("response.output_item.added")[0]["item"]["id"]
    call.send(type="conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=500)
    call.send(type="conversation.item.retrieve", item_id=item_id)
    assert call.sent("conversation.item.retrieved")[0]["item"]["content"][0]["transcript"] == "One two"
    call.send(type="conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=5000)
    assert call.sent("error")[-1]["error"]["code"] == "invalid_truncation"
    call.send(type="conversation.item.delete", item_id=item_id)
    assert call.sent("conversation.item.deleted")
    call.send(type="conversation.item.retrieve", item_id=item_id)
    assert call.sent("error")[-1]["error"]["code"] == "item_not_found"


# --- failures


def test_a_lost_engine_fails_the_response_and_the_next_turn_is_answered() -> None:
    call = VirtualCall()
    talking(call, ms=600)
    call.fail("engine_lost")
    done = call.sent("response.done")[0]["response"]
    assert done["status"] == "failed"
    assert done["status_details"]["error"]["code"] == "engine_lost"
    call.be_quiet(1000)
    assert call.sent("output_audio_buffer.stopped")  # what was there is played to its end
    call.forget()
    asked(call)
    call.answer("Back again.")
    call.be_quiet(300)
    assert call.heard() > 100


def test_an_engine_that_says_nothing_is_given_up() -> None:
    call = VirtualCall()
    asked(call)
    call.be_quiet(21_000)
    done = call.sent("response.done")[0]["response"]
    assert done["status_details"]["error"]["code"] == "response_timeout"
    assert call.requests[-1].response_id in call.cancelled


def test_closing_cancels_what_is_alive() -> None:
    call = VirtualCall()
    response_id = talking(call)
    call.core.close()
    call._drain()
    assert response_id in call.cancelled
