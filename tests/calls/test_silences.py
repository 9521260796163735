"""How long a silence may be: within a turn (`semantic_vad`) and after a reply (`idle_timeout_ms`)."""

from __future__ import annotations

import pytest

from model.interface import ConversationItem, Transcript
from tests.support.virtual_call import VirtualCall

# --- semantic_vad


def semantic_call(eagerness: str = "medium") -> VirtualCall:
    call = VirtualCall()
    detection = {"type": "semantic_vad", "eagerness": eagerness}
    call.send(type="session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}})
    assert not call.sent("error"), call.sent("error")
    call.say(700)
    call.be_quiet(200)
    assert len(call.judged) == 1, "the turn model is asked at the pause"
    return call


def test_a_turn_that_sounds_and_reads_complete_is_answered_soon() -> None:
    call = semantic_call()
    call.engine(Transcript(call.requests[-1].response_id, "What time is it?", 0.0))
    call.sounds_complete(0.99)
    call.be_quiet(400)
    assert call.sent("input_audio_buffer.speech_stopped")
    assert call.sent("response.created")


@pytest.mark.parametrize(("eagerness", "longest_ms"), [("high", 2_000), ("auto", 4_000), ("low", 8_000)])
def test_a_turn_that_nobody_judges_waits_as_long_as_the_eagerness_allows(eagerness: str, longest_ms: int) -> None:
    call = semantic_call(eagerness)
    call.be_quiet(longest_ms - 400)
    assert not call.sent("input_audio_buffer.speech_stopped")
    call.be_quiet(400)
    assert call.sent("input_audio_buffer.speech_stopped")


def test_a_turn_that_breaks_off_is_waited_for() -> None:
    call = semantic_call()
    call.engine(Transcript(call.requests[-1].response_id, "I would like to know and", 0.0))
    call.sounds_complete(0.1)
    call.be_quiet(2_000)
    assert not call.sent("input_audio_buffer.speech_stopped")
    call.say(500)
    assert call.is_judging_stopped
    call.be_quiet(200)
    assert len(call.judged) == 2, "each pause is judged anew"
    call.engine(Transcript(call.requests[-1].response_id, "I would like to know and see it.", 0.0))
    call.sounds_complete(1.0)
    call.be_quiet(600)
    assert len(call.sent("input_audio_buffer.speech_stopped")) == 1
    assert call.sent("conversation.item.input_audio_transcription.completed")[0]["transcript"].startswith("I would")


def test_an_answer_that_comes_late_ends_the_turn_at_once() -> None:
    call = semantic_call()
    call.be_quiet(1_500)
    call.engine(Transcript(call.requests[-1].response_id, "What time is it?", 0.0))
    call.sounds_complete(1.0)
    assert call.sent("input_audio_buffer.speech_stopped")


def test_an_answer_after_the_turn_is_over_changes_nothing() -> None:
    call = semantic_call("high")
    call.be_quiet(2_200)
    kinds = call.kinds()
    call.sounds_complete(0.0)
    assert call.kinds() == kinds


# --- the silence after a reply


def idle_call() -> VirtualCall:
    call = VirtualCall(idle_timeout_ms=5_000)
    call.say(600)
    call.be_quiet(500)
    call.answer(ms=1_000)
    return call


def test_the_idle_time_counts_from_the_end_of_playback() -> None:
    call = idle_call()
    call.be_quiet(1_000 + 4_800)
    assert not call.sent("input_audio_buffer.timeout_triggered")
    call.be_quiet(400)
    (triggered,) = call.sent("input_audio_buffer.timeout_triggered")
    assert triggered["audio_end_ms"] - triggered["audio_start_ms"] == pytest.approx(5_000, abs=60)
    kinds = call.kinds()
    after = kinds[kinds.index("input_audio_buffer.timeout_triggered") :]
    assert after[:5] == [
        "input_audio_buffer.timeout_triggered",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
    ]
    assert call.sent("input_audio_buffer.committed")[-1]["item_id"] == triggered["item_id"]
    last = call.requests[-1].items[-1]
    assert isinstance(last, ConversationItem)
    assert last.role == "system"


def test_a_user_who_speaks_stops_the_idle_time() -> None:
    call = idle_call()
    call.be_quiet(3_000)
    call.say(600)
    call.be_quiet(500)
    call.be_quiet(6_000)
    assert not call.sent("input_audio_buffer.timeout_triggered")
