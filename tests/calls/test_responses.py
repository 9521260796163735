"""What clients may ask of a response: text, tools, out of band, a voice, a bounded number of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from model.interface import (
    AudioDelta,
    ConversationItem,
    ResponseDone,
    TextDelta,
    ToolCallDelta,
    ToolCallItem,
    ToolResultItem,
)
from rtc_server.calls.contexts import engine_history
from tests.support.client_words import asked, errors, text_item
from tests.support.virtual_call import RATE, VirtualCall, tone

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


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
    assert engine_history(call.core.conversation, {}, None, ()) == (ConversationItem("user", "Hello."),), (
        "half a call is not told"
    )


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
