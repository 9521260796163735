"""RTVI: what a Pipecat client is told of a turn, and what its messages become."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtc_server.realtime.dialects import BetaDialect, PlainDialect
from rtc_server.realtime.events import parse_client_event
from rtc_server.realtime.rtvi import MAX_OPEN_CALLS, RtviDialect

NOW = "2026-01-01T00:00:00.000+00:00"


class Client:
    """Vocabulary: `told(event)` is what the client gets for it, `says(...)` what its message becomes."""

    def __init__(self) -> None:
        self.dialect = RtviDialect(lambda: NOW)
        self.replies: list[dict[str, Any]] = []
        self.ends_call = False

    def told(self, kind: str, **fields: Any) -> list[tuple[str, Any]]:
        messages = self.dialect.to_client({"type": kind, "event_id": "event_1", **fields})
        assert all(message["label"] == "rtvi-ai" for message in messages)
        return [(message["type"], message.get("data")) for message in messages]

    def says(self, kind: str, data: Any = None, identifier: str = "m1") -> list[dict[str, Any]]:
        return self.sends(json.dumps({"label": "rtvi-ai", "type": kind, "id": identifier, "data": data}))

    def sends(self, text: str | bytes) -> list[dict[str, Any]]:
        inbound = self.dialect.from_client(text)
        self.replies = list(inbound.replies)
        self.ends_call = inbound.ends_call
        for event in inbound.events:
            parse_client_event(event)
        return [json.loads(event) for event in inbound.events]

    def begin_reply(self, response_id: str = "resp_1") -> None:
        self.told("response.created", response={"id": response_id})


def test_client_ready_is_answered_with_bot_ready() -> None:
    client = Client()
    assert client.says("client-ready", {"version": "2.1.0"}) == []
    (ready,) = client.replies
    assert (ready["type"], ready["id"], ready["data"]["version"]) == ("bot-ready", "m1", "2.0.0")


def test_pings_and_signalling_need_no_answer() -> None:
    client = Client()
    for text in ("ping: 1700000000", "ping", '{"type": "signalling", "message": {"type": "trackStatus"}}'):
        assert client.sends(text) == []
        assert client.replies == []


def test_a_turn_is_told_in_order() -> None:
    client = Client()
    item = {"item_id": "item_1", "content_index": 0}
    transcription = "conversation.item.input_audio_transcription"
    assert client.told("input_audio_buffer.speech_started") == [("user-started-speaking", None)]
    assert client.told("input_audio_buffer.speech_stopped") == [("user-stopped-speaking", None)]

    def heard(text: str, *, final: bool) -> tuple[str, Any]:
        return ("user-transcription", {"text": text, "user_id": "user", "timestamp": NOW, "final": final})

    assert client.told(f"{transcription}.delta", **item, delta="Hel") == [heard("Hel", final=False)]
    assert client.told(f"{transcription}.delta", **item, delta="lo.") == [heard("Hello.", final=False)]
    assert client.told(f"{transcription}.completed", **item, transcript="Hello.") == [
        heard("Hello.", final=True),
        ("user-llm-text", {"text": "Hello."}),
    ]
    assert client.told("response.created", response={"id": "resp_1"}) == [("bot-llm-started", None)]
    part = {"response_id": "resp_1", "item_id": "item_2"}
    assert client.told("response.content_part.added", **part, part={"type": "audio"}) == [("bot-tts-started", None)]
    told = client.told("response.output_audio_transcript.delta", **part, delta="Hi there. How are")
    assert [kind for kind, _ in told] == ["bot-llm-text", "bot-tts-text", "bot-output"]
    assert told[2][1]["text"] == "Hi there."
    assert told[2][1]["spoken_status"] == "new"
    assert client.told("output_audio_buffer.started", response_id="resp_1") == [("bot-started-speaking", None)]
    told = client.told("response.output_audio_transcript.delta", **part, delta=" you?")
    assert (told[2][1]["text"], told[2][1]["segment_id"]) == ("How are you?", 2)
    assert client.told("response.output_audio.done", **part) == [("bot-tts-stopped", None)]
    done = client.told("response.output_audio_transcript.done", **part, transcript="Hi there. How are you?")
    assert done == [("bot-transcription", {"text": "Hi there. How are you?"})]
    assert client.told("response.done", response={"id": "resp_1", "status": "completed"}) == [("bot-llm-stopped", None)]
    told = client.told("output_audio_buffer.stopped", response_id="resp_1")
    assert [kind for kind, _ in told] == ["bot-output", "bot-output", "bot-stopped-speaking"]
    assert all(data["spoken"] and data["spoken_status"] == "completed" for _, data in told[:2])


def test_a_reply_that_was_cut_off_is_not_called_spoken() -> None:
    client = Client()
    client.begin_reply()
    client.told("response.output_audio_transcript.delta", response_id="resp_1", delta="A long story.")
    client.told("output_audio_buffer.started", response_id="resp_1")
    assert client.told("output_audio_buffer.cleared", response_id="resp_1") == [("bot-stopped-speaking", None)]
    assert client.told("output_audio_buffer.cleared", response_id="resp_1") == []


def test_a_text_reply_is_output_that_is_not_spoken() -> None:
    client = Client()
    client.begin_reply()
    told = client.told("response.output_text.delta", response_id="resp_1", delta="Yes")
    assert told == [("bot-llm-text", {"text": "Yes"})]
    told = client.told("response.output_text.done", response_id="resp_1", text="Yes")
    assert [kind for kind, _ in told] == ["bot-output", "bot-transcription"]
    assert told[0][1]["will_be_spoken"] is False


def test_metrics_are_the_time_to_the_first_sound() -> None:
    told = Client().told("rtc_server.turn.metrics", response_latency_ms=640.0)
    assert told == [("metrics", {"ttfb": [{"processor": "rtc-server", "value": 0.64}]})]
    assert Client().told("rtc_server.turn.metrics", response_latency_ms=None) == []


def test_errors_go_to_the_message_that_caused_them() -> None:
    client = Client()
    error = {"type": "invalid_request_error", "message": "No.", "event_id": "m7"}
    (message,) = client.dialect.to_client({"type": "error", "error": error})
    assert (message["type"], message["id"], message["data"]) == ("error-response", "m7", {"error": "No."})
    told = client.told("error", error={"message": "Broken.", "event_id": None})
    assert told == [("error", {"error": "Broken.", "message": "Broken.", "fatal": False})]
    failed = {"id": "r", "status": "failed", "status_details": {"error": {"message": "It broke."}}}
    assert client.told("response.done", response=failed)[1][1]["error"] == "It broke."


def test_text_is_said_into_the_conversation_and_answered() -> None:
    client = Client()
    create, respond = client.says("send-text", {"content": "Hello?"})
    assert create["item"]["content"] == [{"type": "input_text", "text": "Hello?"}]
    assert (create["event_id"], respond) == ("m1", {"type": "response.create", "event_id": "m1"})
    client.begin_reply()
    client.told("output_audio_buffer.started", response_id="resp_1")
    kinds = [event["type"] for event in client.says("send-text", {"content": "Stop."})]
    assert kinds[:2] == ["response.cancel", "output_audio_buffer.clear"]
    (only,) = client.says("send-text", {"content": "x", "options": {"run_immediately": False}})
    assert only["type"] == "conversation.item.create"
    silent = client.says("send-text", {"content": "x", "options": {"audio_response": False}})
    assert silent[-1]["response"] == {"output_modalities": ["text"]}


def test_context_is_appended_with_its_role() -> None:
    client = Client()
    for role, kind in (("user", "input_text"), ("assistant", "output_text"), ("system", "input_text")):
        (create,) = client.says("append-to-context", {"role": role, "content": "x"})
        assert (create["item"]["role"], create["item"]["content"][0]["type"]) == (role, kind)
    assert len(client.says("append-to-context", {"role": "user", "content": "x", "run_immediately": True})) == 2


def call(number: int) -> dict[str, Any]:
    arguments = json.dumps({"city": "Paris"})
    return {"type": "function_call", "call_id": f"call_{number}", "name": "weather", "arguments": arguments}


def test_a_function_call_goes_out_and_its_result_comes_back() -> None:
    client = Client()
    told = client.told("response.output_item.done", item=call(1))
    assert told[0] == ("llm-function-call-started", {"function_name": "weather"})
    assert told[1][1] == {"function_name": "weather", "tool_call_id": "call_1", "arguments": {"city": "Paris"}}
    client.told("response.output_item.done", item=call(2))
    (first,) = client.says("llm-function-call-result", {"tool_call_id": "call_1", "result": {"sky": "blue"}})
    assert first["item"] == {"type": "function_call_output", "call_id": "call_1", "output": '{"sky": "blue"}'}
    assert client.replies[0]["data"]["cancelled"] is False
    events = client.says("llm-function-call-result", {"tool_call_id": "call_2", "result": "blue"})
    assert [event["type"] for event in events] == ["conversation.item.create", "response.create"], "all are answered"
    client.says("llm-function-call-result", {"tool_call_id": "call_2", "result": "blue"})
    assert client.replies[0]["type"] == "error-response"
    for number in range(2 * MAX_OPEN_CALLS):
        client.told("response.output_item.done", item=call(number))
    assert len(client.dialect._calls) == MAX_OPEN_CALLS


@pytest.mark.parametrize(
    "text",
    [
        b"\x00\x01",
        "{",
        "[" * 5_000,
        '{"type": "send-text"}',
        '{"label": "rtvi-ai", "type": "unheard-of", "id": "m1"}',
        '{"label": "rtvi-ai", "type": ["x"], "id": "m1"}',
        '{"label": "rtvi-ai", "type": "send-text", "id": 7, "data": {"content": 7}}',
        '{"label": "rtvi-ai", "type": "append-to-context", "id": "m1", "data": {"role": "robot", "content": "x"}}',
        '{"label": "rtvi-ai", "type": "append-to-context", "id": "m1", "data": {"role": ["user"], "content": "x"}}',
        '{"label": "rtvi-ai", "type": "llm-function-call-result", "data": {"tool_call_id": {}}}',
        "x" * 100_000,
    ],
)
def test_what_makes_no_sense_is_answered_with_an_error(text: str | bytes) -> None:
    client = Client()
    assert client.sends(text) == []
    assert client.replies[0]["type"] in ("error", "error-response")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
TYPES = st.sampled_from(
    ["client-ready", "send-text", "append-to-context", "llm-function-call-result", "disconnect-bot", "dtmf"]
)


@settings(max_examples=200, deadline=None)
@given(st.fixed_dictionaries({"label": st.just("rtvi-ai"), "type": TYPES | JSON, "id": JSON, "data": JSON}) | JSON)
def test_any_message_is_understood_or_refused(message: object) -> None:
    inbound = RtviDialect(lambda: NOW).from_client(json.dumps(message))
    json.dumps(list(inbound.replies))


@given(st.lists(st.text(alphabet="ab .!?\n", max_size=12), max_size=12))
def test_sentences_joined_are_what_was_said(deltas: list[str]) -> None:
    client = Client()
    outputs: list[str] = []
    for delta in deltas:
        told = client.told("response.output_audio_transcript.delta", delta=delta)
        outputs += [data["text"] for kind, data in told if kind == "bot-output"]
    told = client.told("response.output_audio_transcript.done", transcript="")
    outputs += [data["text"] for kind, data in told if kind == "bot-output"]
    assert "".join("".join(outputs).split()) == "".join("".join(deltas).split())


def test_the_end_is_told_by_signalling() -> None:
    assert RtviDialect(lambda: NOW).farewell() == [{"type": "signalling", "message": {"type": "peerLeft"}}]
    client = Client()
    client.says("disconnect-bot", {})
    assert client.ends_call


def test_the_other_dialects_pass_messages_through() -> None:
    event = {"type": "conversation.item.added", "event_id": "e", "item": {"type": "message", "content": []}}
    assert PlainDialect().to_client(event) == [event]
    assert PlainDialect().from_client(b"x").events == (b"x",)
    assert PlainDialect().farewell() == []
    assert BetaDialect().to_client(event)[0]["type"] == "conversation.item.created"
    assert BetaDialect().to_client({**event, "type": "conversation.item.done"}) == []
