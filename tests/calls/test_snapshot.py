"""A call that is lost goes on in another: the same items, the same next request, and nothing that nobody heard."""

from __future__ import annotations

import json

import numpy as np
import pytest

from model.interface import AudioDelta, ConversationItem, ResponseStarted, TextDelta, ToolCallDelta, Transcript
from rtc_server.calls import snapshot as snapshots
from rtc_server.calls.snapshot import CallSnapshot
from tests.support.client_words import text_item
from tests.support.virtual_call import RATE, VirtualCall, tone


def turn(call: VirtualCall, transcript: str | None = "Where is it?", text: str = "In Paris, by the river.") -> None:
    """A whole turn, heard to its end."""
    call.say(600)
    call.be_quiet(700)
    call.answer(text, transcript=transcript)
    call.be_quiet(1_500)


def words(snapshot: CallSnapshot) -> list[str]:
    return [item.text for item in snapshot.items]


def test_the_next_request_is_the_one_that_the_lost_call_would_have_made() -> None:
    lost, stayed = VirtualCall(), VirtualCall()
    for call in (lost, stayed):
        turn(call)
        call.send(type="conversation.item.create", item=text_item("By the way, it rains."))
        turn(call, "And who built it?", "Mr Eiffel.")
    before = [item.item_id for item in lost.core.conversation]
    lost.resume()
    assert [item.item_id for item in lost.core.conversation] == before
    for call in (lost, stayed):
        call.requests.clear()
        call.say(600)
        call.be_quiet(700)
    assert lost.requests[-1].items == stayed.requests[-1].items
    assert len(lost.requests[-1].items) == 5
    assert lost.requests[-1].instructions == stayed.requests[-1].instructions


def test_the_session_is_the_same_and_its_voice_stays_fixed() -> None:
    call = VirtualCall()
    call.send(type="session.update", session={"type": "realtime", "instructions": "Be brief."})
    turn(call)
    before = call.core.session
    call.resume()
    assert call.core.session == before
    opened = call.sent("session.created")[-1]["session"]
    assert (opened["id"], opened["instructions"]) == ("sess_1", "Be brief.")
    assert call.sent("conversation.created")[-1]["conversation"]["id"] == "conv_0"
    call.send(type="session.update", session={"type": "realtime", "audio": {"output": {"voice": "other"}}})
    assert call.sent("error")[-1]["error"]["code"] == "cannot_update_voice"
    turn(call)
    assert call.sent("response.done")[-1]["response"]["conversation_id"] == "conv_0"


def test_new_items_come_after_the_old_ones_and_old_ones_can_be_named() -> None:
    call = VirtualCall()
    turn(call)
    last = call.core.conversation.last_item_id
    call.resume()
    call.forget()
    turn(call)
    assert call.sent("conversation.item.added")[0]["previous_item_id"] == last
    call.send(type="conversation.item.delete", item_id=last)
    assert call.sent("conversation.item.deleted")[-1]["item_id"] == last


def test_a_reply_is_cut_to_what_was_heard_of_it() -> None:
    call = VirtualCall()
    call.say(600)
    call.be_quiet(500)
    call.answer("One two three four five six.", ms=2_000)  # made in full, and still playing
    call.be_quiet(1_000)
    call.resume()
    told = call.sent("conversation.item.added")[-1]["item"]
    assert told["status"] == "incomplete"
    assert told["content"][0]["transcript"] == "One two three"
    call.say(600)
    call.be_quiet(700)
    assert call.requests[-1].items[-1] == ConversationItem("assistant", "One two three")


def test_a_reply_that_nobody_heard_is_gone_and_the_question_waits() -> None:
    call = VirtualCall()
    call.say(600)
    call.be_quiet(500)
    response_id = call.requests[-1].response_id
    call.engine(ResponseStarted(response_id, call.now), Transcript(response_id, "Where is it?", call.now))
    call.engine(TextDelta(response_id, "In Paris", call.now))
    call.resume()
    assert [event["item"]["role"] for event in call.sent("conversation.item.added")[-1:]] == ["user"]
    call.send(type="response.create")
    assert call.requests[-1].items == (ConversationItem("user", "Where is it?"),)


def test_a_text_in_progress_keeps_what_was_read() -> None:
    call = VirtualCall()
    call.send(type="conversation.item.create", item=text_item("Go on."))
    call.send(type="response.create", response={"output_modalities": ["text"]})
    response_id = call.requests[-1].response_id
    call.engine(ResponseStarted(response_id, call.now), TextDelta(response_id, "Once upon", call.now))
    assert words(call.snapshot()) == ["Go on.", "Once upon"]
    assert call.snapshot().items[-1].status == "incomplete"


def test_a_client_that_plays_by_itself_may_still_cut_the_last_reply() -> None:
    call = VirtualCall(over_socket=True)
    turn(call)
    turn(call, text="One two three four five six.")
    call.resume()
    last = call.core.conversation.last_item_id
    call.send(type="conversation.item.truncate", item_id=last, content_index=0, audio_end_ms=500)
    assert call.core.conversation.get(last or "").text == "One two three"
    first = next(item for item in call.snapshot().items if item.role == "assistant")
    assert (first.whole_text, first.marks) == ("", ()), "the earlier ones are as they are"


def test_an_unfinished_function_call_is_left_out_and_a_finished_one_can_be_answered() -> None:
    call = VirtualCall()
    call.send(type="conversation.item.create", item=text_item("Weather?"))
    call.send(type="response.create")
    response_id = call.requests[-1].response_id
    call.engine(ResponseStarted(response_id, call.now), ToolCallDelta(response_id, 0, "weather", "{", False, call.now))
    assert len(call.snapshot().items) == 1
    call.engine(ToolCallDelta(response_id, 0, "weather", "}", True, call.now))
    call.resume()
    name = call.sent("conversation.item.added")[-1]["item"]["call_id"]
    result = {"type": "function_call_output", "call_id": name, "output": "Rain."}
    call.send(type="conversation.item.create", item=result)
    assert call.sent("error") == []


def test_an_engine_that_listens_hears_the_latest_turns_again() -> None:
    lost, stayed = (VirtualCall(gives_transcripts=False, listens_to_history=True) for _ in range(2))
    for call in (lost, stayed):
        turn(call, None)
    lost.resume()
    for call in (lost, stayed):
        call.say(600)
        call.be_quiet(700)
    ours, theirs = lost.requests[-1].items, stayed.requests[-1].items
    assert [item.text for item in ours] == [item.text for item in theirs] == ["", "In Paris, by the river."]
    assert ours[0].audio is not None
    np.testing.assert_array_equal(ours[0].audio, theirs[0].audio)


def test_sound_and_words_are_bounded_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    call = VirtualCall(gives_transcripts=False, listens_to_history=True)
    for _ in range(3):
        turn(call, None)
    monkeypatch.setattr(snapshots, "MAX_SOUND_BYTES", 80_000)  # two and a half seconds
    users = [item.item_id for item in call.core.conversation if item.role == "user"]
    assert [item_id for item_id, _ in call.snapshot().sounds] == users[-2:]
    typed = VirtualCall()
    for number in range(20):
        typed.send(type="conversation.item.create", item=text_item(f"{number:02} " + "x" * 1_000))
    monkeypatch.setattr(snapshots, "MAX_TEXT_BYTES", 10_000)
    kept = typed.snapshot()
    assert [text[:2] for text in words(kept)] == [str(number) for number in range(13, 20)]
    monkeypatch.setattr(snapshots, "MAX_TOLD_BYTES", 8_000)
    typed.resume(kept)
    assert typed.sent("rtc_server.session.resumable")[-1]["num_items"] == 3
    told = [event["item"]["content"][0]["text"][:2] for event in typed.sent("conversation.item.done")[-3:]]
    assert told == ["17", "18", "19"]
    assert len(typed.core.conversation) == 7, "the model knows more than is told again"


def test_a_result_does_not_outlive_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    call = VirtualCall()
    arguments = json.dumps({"place": "x" * 2_000})
    item = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": arguments}
    call.send(type="conversation.item.create", item=item)
    output = {"type": "function_call_output", "call_id": "call_1", "output": "Rain."}
    call.send(type="conversation.item.create", item=output)
    call.send(type="conversation.item.create", item=text_item("And now?"))
    assert len(call.snapshot().items) == 3
    monkeypatch.setattr(snapshots, "MAX_TEXT_BYTES", 1_500)
    assert words(call.snapshot()) == ["And now?"]


def test_taking_a_snapshot_changes_nothing() -> None:
    call = VirtualCall()
    call.say(600)
    call.be_quiet(500)
    call.answer("One two three four five six.", ms=2_000)
    call.be_quiet(500)
    call.forget()
    call.snapshot()
    call.be_quiet(2_000)
    assert call.core.conversation.get(call.core.conversation.last_item_id or "").text == "One two three four five six."
    assert call.sent("conversation.item.truncated") == []


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00\x00\x00\x05", b"\x00\x00\x00\x02{}", b'\x00\x00\x00\x0d{"version":2}', b"\xff" * 40],
    ids=["nothing", "cut", "empty", "another-version", "noise"],
)
def test_what_is_no_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no snapshot"):
        CallSnapshot.from_bytes(data)


def test_half_a_snapshot_is_refused() -> None:
    call = VirtualCall(gives_transcripts=False, listens_to_history=True)
    turn(call, None)
    data = call.snapshot().to_bytes()
    with pytest.raises(ValueError, match="no snapshot"):
        CallSnapshot.from_bytes(data[:-100])


def test_a_paused_reply_counts_as_far_as_it_was_heard() -> None:
    call = VirtualCall()
    call.say(600)
    call.be_quiet(500)
    response_id = call.requests[-1].response_id
    call.engine(ResponseStarted(response_id, call.now), Transcript(response_id, "Count.", call.now))
    text = "One two three four five six."
    call.engine(TextDelta(response_id, text, call.now))
    call.engine(AudioDelta(response_id, tone(2_000, RATE, 440.0), len(text), call.now))
    call.be_quiet(1_000)
    assert words(call.snapshot()) == ["Count.", "One two three"]
