"""Items of a conversation and their sound: what clients bring, retrieve and cut, and how it is transcribed."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from model.interface import (
    AudioDelta,
    ConversationItem,
    ResponseDone,
    ResponseStarted,
    TextDelta,
    Transcript,
    TranscriptDelta,
)
from rtc_server.calls.contexts import engine_history
from tests.support.client_words import asked, errors, text_item
from tests.support.virtual_call import RATE, VirtualCall, tone

# --- items


def clip(ms: int = 500) -> str:
    return base64.b64encode(tone(ms, RATE).tobytes()).decode()


def test_a_message_with_sound_is_heard_by_the_next_response() -> None:
    call = VirtualCall()
    call.send(
        type="conversation.item.create",
        item={"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": clip(500)}]},
    )
    call.send(type="response.create")
    audio = call.requests[-1].audio
    assert audio is not None
    assert len(audio) == pytest.approx(8_000, abs=200)
    call.answer(transcript="Hi.")
    assert call.sent("conversation.item.input_audio_transcription.completed")[0]["transcript"] == "Hi."


def test_a_message_with_a_transcript_needs_no_recognition() -> None:
    call = VirtualCall()
    content = [{"type": "input_audio", "audio": clip(), "transcript": "Good morning."}]
    call.send(type="conversation.item.create", item={"type": "message", "role": "user", "content": content})
    call.send(type="response.create")
    assert call.requests[-1].audio is None
    assert call.requests[-1].items == (ConversationItem("user", "Good morning."),)


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ([{"type": "input_audio", "audio": "not base64!"}], "item.content.audio"),
        ([{"type": "input_audio", "audio": "AAAA"}], "item.content.audio"),
        ([{"type": "input_image", "image_url": "data:"}], "item.content.0.type"),
        ([], "item.content"),
    ],
    ids=["base64", "half-a-sample", "image", "empty"],
)
def test_content_that_cannot_be_used_is_named(content: list[dict[str, Any]], param: str) -> None:
    call = VirtualCall()
    call.send(type="conversation.item.create", item={"type": "message", "role": "user", "content": content})
    assert errors(call) == [("invalid_value", param)]
    assert not len(call.core.conversation)


def test_retrieved_items_bring_their_sound() -> None:
    call = VirtualCall()
    call.say(600)
    call.be_quiet(500)
    call.answer(ms=300)
    call.be_quiet(400)
    user, assistant = (item.item_id for item in call.core.conversation)
    call.send(type="conversation.item.retrieve", item_id=user)
    call.send(type="conversation.item.retrieve", item_id=assistant)
    heard, said = (
        np.frombuffer(base64.b64decode(event["item"]["content"][0]["audio"]), "<i2")
        for event in call.sent("conversation.item.retrieved")
    )
    assert len(heard) / RATE == pytest.approx(0.9, abs=0.25)
    np.testing.assert_array_equal(said, tone(300, RATE, 440.0))


def test_a_cut_item_keeps_only_the_sound_that_was_heard() -> None:
    call = VirtualCall()
    call.send(type="conversation.item.create", item=text_item())
    call.send(type="response.create")
    call.answer(transcript=None, ms=1000)
    call.be_quiet(400)
    call.send(type="output_audio_buffer.clear")
    (cut,) = call.sent("conversation.item.truncated")
    call.send(type="conversation.item.retrieve", item_id=cut["item_id"])
    item = call.sent("conversation.item.retrieved")[0]["item"]
    pcm = np.frombuffer(base64.b64decode(item["content"][0]["audio"]), "<i2")
    assert len(pcm) * 1000 // RATE == cut["audio_end_ms"]


# --- sound in events


def spoken(call: VirtualCall, ms: int) -> None:
    """The user over a socket: everything at once."""
    pcm = np.concatenate([tone(ms, RATE), np.zeros(RATE, np.int16)])
    call.send(type="input_audio_buffer.append", audio=base64.b64encode(pcm.tobytes()).decode())


def test_over_a_socket_sound_comes_and_goes_in_events() -> None:
    call = VirtualCall(over_socket=True)
    spoken(call, 700)
    response_id = call.answer(ms=600)
    kinds = call.kinds()
    assert kinds.index("response.content_part.added") < kinds.index("response.output_audio.delta")
    assert kinds.index("response.output_audio.delta") < kinds.index("response.output_audio.done")
    (item_id,) = call.sent_audio
    assert call.sent("response.done")[0]["response"]["id"] == response_id
    np.testing.assert_array_equal(np.concatenate(call.sent_audio[item_id]), tone(600, RATE, 440.0))
    call.be_quiet(1_000)
    assert not [kind for kind in call.kinds() if kind.startswith("output_audio_buffer")]
    assert not call.core.is_agent_active, "the playout models when the client has heard it"


def test_over_a_socket_the_client_says_what_it_heard() -> None:
    call = VirtualCall(over_socket=True)
    spoken(call, 700)
    response_id = call.requests[-1].response_id
    call.engine(Transcript(response_id, "Hi.", 0.0), TextDelta(response_id, "One two three four.", 0.0))
    for end in (4, 8, 14, 19):
        call.engine(AudioDelta(response_id, tone(250, RATE, 440.0), end, 0.0))
    call.be_quiet(300)
    call.say(700)
    (done,) = call.sent("response.done")
    assert done["response"]["status"] == "cancelled"
    assert done["response"]["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert not call.sent("conversation.item.truncated"), "the client plays, so the client truncates"
    item_id = done["response"]["output"][0]["id"]
    call.send(type="conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=600)
    assert call.sent("conversation.item.truncated")[0]["audio_end_ms"] == 600
    assert call.core.conversation.get(item_id).to_event()["content"][0]["transcript"] == "One two"


@pytest.mark.parametrize(
    ("audio_end_ms", "is_fine"), [(0, True), (500, True), (1_000, True), (1_020, True), (1_200, False)]
)
def test_truncation_at_every_place(audio_end_ms: int, is_fine: bool) -> None:
    call = VirtualCall(over_socket=True)
    asked(call)
    call.answer("One two three four.", transcript=None, ms=1_000)
    item_id = call.sent("response.done")[0]["response"]["output"][0]["id"]
    call.send(type="conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=audio_end_ms)
    assert bool(call.sent("conversation.item.truncated")) == is_fine
    text = call.core.conversation.get(item_id).to_event()["content"]
    if audio_end_ms >= 1_000:
        assert text[0]["transcript"] == "One two three four."
    elif audio_end_ms:
        assert text[0]["transcript"] == "One two"
    else:
        assert text == []


def test_over_media_sound_is_not_taken_from_events() -> None:
    call = VirtualCall()
    call.client._append_audio = None
    call.send(type="input_audio_buffer.append", audio="AAAA")
    assert errors(call) == [("invalid_event", "type")]


# --- transcripts


def test_transcripts_grow_as_they_are_recognised() -> None:
    call = VirtualCall()
    call.say(600)
    call.be_quiet(500)
    response_id = call.requests[-1].response_id
    for piece in ("What is", " the time?"):
        call.engine(TranscriptDelta(response_id, piece, 0.0))
    call.engine(Transcript(response_id, "What is the time?", 0.0))
    kind = "conversation.item.input_audio_transcription"
    assert [event["delta"] for event in call.sent(f"{kind}.delta")] == ["What is", " the time?"]
    assert call.sent(f"{kind}.completed")[0]["transcript"] == "What is the time?"


def test_a_turn_that_nobody_answers_is_transcribed_by_itself() -> None:
    call = VirtualCall(create_response=False)
    call.say(600)
    call.be_quiet(500)
    call.be_quiet(400)
    (request,) = call.requests
    assert request.output == "transcript"
    call.engine(ResponseStarted(request.response_id, 0.0), Transcript(request.response_id, "Hi.", 0.0))
    call.engine(ResponseDone(request.response_id, "completed", 0.0))
    assert call.sent("conversation.item.input_audio_transcription.completed")[0]["transcript"] == "Hi."
    assert not call.sent("response.created")
    call.send(type="response.create")
    response_id = call.requests[-1].response_id
    call.engine(Transcript(response_id, "High.", 0.0))
    assert len(call.sent("conversation.item.input_audio_transcription.completed")) == 1, "the first one counts"


def test_a_response_that_is_asked_for_at_once_does_the_work() -> None:
    call = VirtualCall(create_response=False)
    call.say(600)
    call.be_quiet(420)
    call.send(type="response.create")
    call.be_quiet(600)
    assert [request.output for request in call.requests] == ["audio"]


def test_without_transcription_no_transcript_is_sent_but_the_words_are_known() -> None:
    call = VirtualCall()
    call.send(type="session.update", session={"type": "realtime", "audio": {"input": {"transcription": None}}})
    call.say(600)
    call.be_quiet(500)
    call.answer(transcript="Hello.")
    assert not [kind for kind in call.kinds() if "transcription" in kind]
    assert engine_history(call.core.conversation, {}, None, ())[0] == ConversationItem("user", "Hello.")


def test_a_backend_without_recognition_says_so() -> None:
    call = VirtualCall(gives_transcripts=False)
    transcription = {"model": "whisper-1"}
    call.send(type="session.update", session={"type": "realtime", "audio": {"input": {"transcription": transcription}}})
    call.say(600)
    call.be_quiet(500)
    (failed,) = call.sent("conversation.item.input_audio_transcription.failed")
    assert failed["error"]["code"] == "transcription_not_supported"
    assert None not in failed["error"].values()


def test_a_transcription_that_fails_is_told() -> None:
    call = VirtualCall(create_response=False)
    call.say(600)
    call.be_quiet(900)
    call.fail("engine_lost")
    (failed,) = call.sent("conversation.item.input_audio_transcription.failed")
    assert failed["error"]["code"] == "engine_lost"
