"""What clients may ask for beyond spoken turns: text, tools, out of band, items with sound, transcripts, idle time."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from model.interface import (
    AudioDelta,
    ConversationItem,
    ResponseDone,
    ResponseStarted,
    TextDelta,
    ToolCallDelta,
    ToolCallItem,
    ToolResultItem,
    Transcript,
    TranscriptDelta,
)
from tests.support.virtual_call import RATE, VirtualCall, tone

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def text_item(text: str = "Hello.", role: str = "user", **fields: Any) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}], **fields}


def asked(call: VirtualCall, text: str = "Hello.", **response: Any) -> str:
    """The client writes and asks for a response. Returns its id."""
    call.send(type="conversation.item.create", item=text_item(text))
    call.send(type="response.create", response=response)
    assert not call.sent("error"), call.sent("error")
    return call.requests[-1].response_id


def errors(call: VirtualCall) -> list[tuple[str, str | None]]:
    return [(event["error"]["code"], event["error"]["param"]) for event in call.sent("error")]


# --- text


def test_a_text_response_has_text_parts_and_no_sound() -> None:
    call = VirtualCall()
    response_id = asked(call, output_modalities=["text"])
    assert call.requests[-1].output == "text"
    call.forget()
    call.engine(TextDelta(response_id, "Hi ", 0.0), TextDelta(response_id, "there.", 0.0))
    call.engine(ResponseDone(response_id, "completed", 0.0))
    assert call.kinds() == [
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    assert call.sent("response.content_part.added")[0]["part"] == {"type": "text", "text": ""}
    done = call.sent("response.done")[0]["response"]
    assert done["output"][0]["content"] == [{"type": "output_text", "text": "Hi there."}]
    assert done["output_modalities"] == ["text"]
    assert "audio" not in done
    assert not call.core.is_agent_active


def test_the_session_may_be_text_only() -> None:
    call = VirtualCall()
    call.send(type="session.update", session={"type": "realtime", "output_modalities": ["text"]})
    call.say(600)
    call.be_quiet(500)
    assert call.requests[-1].output == "text"


# --- tools


def with_tool(**fields: Any) -> VirtualCall:
    call = VirtualCall()
    call.send(type="session.update", session={"type": "realtime", "tools": [WEATHER], **fields})
    assert not call.sent("error"), call.sent("error")
    return call


def test_a_function_is_called_and_its_result_answered() -> None:
    call = with_tool()
    response_id = asked(call, "Weather in Paris?")
    assert [tool.name for tool in call.requests[-1].tools] == ["get_weather"]
    assert call.requests[-1].tool_choice == "auto"
    call.forget()
    call.engine(ToolCallDelta(response_id, 0, "get_weather", '{"city":', False, 0.0))
    call.engine(ToolCallDelta(response_id, 0, "get_weather", ' "Paris"}', True, 0.0))
    call.engine(ResponseDone(response_id, "completed", 0.0))
    assert call.kinds() == [
        "response.output_item.added",
        "conversation.item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    opened = call.sent("response.output_item.added")[0]["item"]
    assert opened["status"] == "in_progress"
    assert opened["arguments"] == ""
    finished = call.sent("response.function_call_arguments.done")[0]
    assert json.loads(finished["arguments"]) == {"city": "Paris"}
    assert finished["name"] == "get_weather"
    assert call.sent("response.done")[0]["response"]["output"][0]["call_id"] == finished["call_id"]
    assert not call.core.is_agent_active
    output = {"type": "function_call_output", "call_id": finished["call_id"], "output": '{"temp": 18}'}
    call.send(type="conversation.item.create", item=output)
    call.send(type="response.create")
    user, asked_for, result = call.requests[-1].items
    assert user == ConversationItem("user", "Weather in Paris?")
    assert asked_for == ToolCallItem(finished["call_id"], "get_weather", '{"city": "Paris"}')
    assert result == ToolResultItem(finished["call_id"], '{"temp": 18}')


def test_a_named_function_is_the_only_one_and_required() -> None:
    other = {"type": "function", "name": "other"}
    call = with_tool(tools=[WEATHER, other], tool_choice={"type": "function", "name": "get_weather"})
    asked(call)
    assert [tool.name for tool in call.requests[-1].tools] == ["get_weather"]
    assert call.requests[-1].tool_choice == "required"


def test_one_response_may_have_tools_of_its_own_or_none() -> None:
    call = with_tool()
    asked(call, tool_choice="none")
    assert call.requests[-1].tools == ()
    call.answer()
    call.be_quiet(1200)
    asked(call, tools=[])
    assert call.requests[-1].tools == ()


def test_a_result_for_a_call_that_nobody_made_is_refused() -> None:
    call = with_tool()
    output = {"type": "function_call_output", "call_id": "call_x", "output": "1"}
    call.send(type="conversation.item.create", item=output)
    assert errors(call) == [("invalid_value", "item.call_id")]


def test_a_voice_ends_a_call_whose_arguments_are_being_written() -> None:
    call = with_tool()
    response_id = asked(call)
    call.engine(ToolCallDelta(response_id, 0, "get_weather", '{"ci', False, 0.0))
    call.say(700)
    done = call.sent("response.done")[0]["response"]
    assert done["status"] == "cancelled"
    assert done["output"][0]["status"] == "incomplete"
    assert not call.sent("response.function_call_arguments.done")
    assert call.core.conversation.history() == (ConversationItem("user", "Hello."),), "half a call is not told"


# --- out of band


def test_an_out_of_band_response_runs_beside_the_conversation() -> None:
    call = VirtualCall()
    main = asked(call)
    call.engine(TextDelta(main, "One.", 0.0), AudioDelta(main, tone(800, RATE, 440.0), 4, 0.0))
    call.forget()
    beside = {"conversation": "none", "output_modalities": ["text"], "metadata": {"topic": "summary"}}
    call.send(type="response.create", response={**beside, "input": [text_item("Classify: blue")]})
    assert not call.sent("error")
    request = call.requests[-1]
    assert request.items == (ConversationItem("user", "Classify: blue"),)
    call.engine(TextDelta(request.response_id, "colour", 0.0), ResponseDone(request.response_id, "completed", 0.0))
    created, done = call.sent("response.created")[0]["response"], call.sent("response.done")[0]["response"]
    assert created["conversation_id"] is None
    assert done["metadata"] == {"topic": "summary"}
    assert done["output"][0]["content"][0]["text"] == "colour"
    assert not call.sent("conversation.item.added"), "nothing of it enters the conversation"
    assert [item.role for item in call.core.conversation] == ["user", "assistant"]
    assert call.core.replies.get(main) is not None, "the reply goes on"


def test_an_out_of_band_response_leaves_what_was_said_to_the_conversation() -> None:
    call = VirtualCall(create_response=False)
    call.say(600)
    call.be_quiet(500)
    call.send(type="response.create", response={"conversation": "none", "output_modalities": ["text"]})
    assert call.requests[-1].audio is not None, "the context is the conversation's, the turn included"
    call.send(type="response.create")
    assert call.requests[-1].audio is not None
    assert not call.sent("error")


def test_a_voice_does_not_end_a_silent_response_beside_the_conversation() -> None:
    call = VirtualCall()
    call.send(
        type="response.create",
        response={"conversation": "none", "output_modalities": ["text"], "instructions": "Write a poem."},
    )
    response_id = call.requests[-1].response_id
    call.say(700)
    assert call.core.replies.get(response_id) is not None
    assert not call.cancelled


def test_references_bring_items_of_the_conversation() -> None:
    call = VirtualCall()
    call.send(type="conversation.item.create", item=text_item("First.", id="one"))
    call.send(type="conversation.item.create", item=text_item("Second.", id="two"))
    call.send(type="response.create", response={"input": [{"type": "item_reference", "id": "one"}]})
    assert call.requests[-1].items == (ConversationItem("user", "First."),)
    call.send(
        type="response.create", response={"conversation": "none", "input": [{"type": "item_reference", "id": "nine"}]}
    )
    assert errors(call) == [("item_not_found", "response.input.0.id")]


def test_an_empty_input_needs_instructions() -> None:
    call = VirtualCall()
    call.send(type="conversation.item.create", item=text_item())
    call.send(type="response.create", response={"input": []})
    assert errors(call) == [("invalid_value", "response")]
    call.send(type="response.create", response={"input": [], "instructions": "Say hi."})
    assert call.requests[-1].items == ()
    assert call.requests[-1].instructions == "Say hi."


@pytest.mark.parametrize(
    ("metadata", "is_fine"), [({"k" * 64: "v" * 512}, True), ({"k" * 65: "v"}, False), ({"k": "v" * 513}, False)]
)
def test_metadata_is_bounded(metadata: dict[str, str], is_fine: bool) -> None:
    call = VirtualCall()
    call.send(type="response.create", response={"instructions": "Hi.", "metadata": metadata})
    assert bool(call.sent("response.created")) == is_fine


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
    assert call.core.conversation.history()[0] == ConversationItem("user", "Hello.")


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


# --- sessions


def test_the_first_events_are_the_session_and_its_conversation() -> None:
    call = VirtualCall()
    created, conversation = call.client.opening()
    assert created["type"] == "session.created"
    assert created["session"]["model"] == "scripted"
    assert conversation["conversation"]["id"] == call.core.conversation_id


def test_the_session_reaches_every_request() -> None:
    call = VirtualCall()
    session = {"max_output_tokens": 30, "audio": {"output": {"voice": "other", "speed": 1.2}}}
    call.send(type="session.update", session={"type": "realtime", **session})
    asked(call)
    request = call.requests[-1]
    assert (request.voice, request.speed, request.max_output_tokens) == ("other", 1.2, 30)


def test_a_response_may_override_the_voice_until_it_was_heard() -> None:
    call = VirtualCall()
    asked(call, audio={"output": {"voice": "other"}})
    assert call.requests[-1].voice == "other"
    assert call.sent("response.created")[0]["response"]["audio"]["output"]["voice"] == "other"
    call.answer(transcript=None)
    call.be_quiet(1_500)
    call.send(type="response.create", response={"audio": {"output": {"voice": "other"}}})
    assert errors(call) == [("cannot_update_voice", "response.audio.output.voice")]


def test_usage_adds_up() -> None:
    call = VirtualCall()
    asked(call)
    call.answer(transcript=None)
    usage = call.sent("response.done")[0]["response"]["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["input_token_details"]["cached_tokens_details"] == {"text_tokens": 0, "audio_tokens": 0}


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


# --- limits


def test_a_flood_of_responses_is_refused_and_spoken_turns_are_not() -> None:
    call = VirtualCall(responses_per_minute=3)
    for _ in range(3):
        call.send(type="response.create", response={"conversation": "none", "instructions": "Hi."})
    assert [event["rate_limits"][0]["remaining"] for event in call.sent("rate_limits.updated")] == [2, 1, 0]
    call.send(type="response.create", response={"conversation": "none", "instructions": "Hi."})
    (refused,) = call.sent("error")
    assert refused["error"]["type"] == "rate_limit_error"
    assert refused["error"]["code"] == "rate_limit_exceeded"
    call.say(600)
    call.be_quiet(500)
    assert len(call.sent("response.created")) == 4
    call.be_quiet(41_000)
    call.send(type="response.create", response={"conversation": "none", "instructions": "Hi."})
    assert len(call.sent("error")) == 1


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
