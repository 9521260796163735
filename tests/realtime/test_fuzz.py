"""Whatever a client sends, in whatever order: it is acted on or answered with an `error`, and the call goes on."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from model.interface import AudioDelta, ResponseDone, TextDelta, ToolCallDelta, Transcript
from rtc_server.realtime.compatibility import SERVER_EVENTS
from rtc_server.realtime.events import CLIENT_EVENTS
from tests.support.virtual_call import RATE, VirtualCall, tone

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
ITEM_IDS = st.sampled_from(["a", "b", "item_12", "root", "nobody", ""])
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "output_text", "input_audio", "text", "x"])},
    optional={
        "text": st.text(max_size=10),
        "audio": st.sampled_from(["AAAA", "AAAAAAAA", "!", ""]),
        "transcript": JSON,
    },
)
ITEMS = st.fixed_dictionaries(
    {"type": st.sampled_from(["message", "function_call", "function_call_output", "item_reference", "x"])},
    optional={
        "id": ITEM_IDS,
        "role": st.sampled_from(["user", "assistant", "system", "x"]),
        "content": st.lists(PARTS, max_size=2) | JSON,
        "call_id": st.text(max_size=5),
        "name": st.text(max_size=5),
        "arguments": st.text(max_size=5),
        "output": st.text(max_size=5),
    },
)
SESSIONS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["realtime", "transcription", "x"]),
        "instructions": st.text(max_size=5) | JSON,
        "output_modalities": st.sampled_from([["audio"], ["text"], [], ["x"]]),
        "tool_choice": st.sampled_from(["auto", "none", {"type": "function", "name": "f"}]) | JSON,
        "tools": st.lists(st.fixed_dictionaries({"type": st.just("function"), "name": st.just("f")}), max_size=2)
        | JSON,
        "audio": st.fixed_dictionaries(
            {}, optional={"input": st.dictionaries(st.sampled_from(["turn_detection", "format"]), JSON), "output": JSON}
        ),
        "voice": JSON,
        "turn_detection": JSON,
        "modalities": JSON,
    },
)
RESPONSES = st.fixed_dictionaries(
    {},
    optional={
        "conversation": st.sampled_from(["auto", "none", "x"]),
        "input": st.lists(ITEMS, max_size=2),
        "instructions": st.text(max_size=5),
        "output_modalities": st.sampled_from([["audio"], ["text"]]),
        "metadata": JSON,
        "audio": JSON,
    },
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "session": SESSIONS | JSON,
    "item": ITEMS | JSON,
    "item_id": ITEM_IDS | JSON,
    "previous_item_id": ITEM_IDS,
    "content_index": st.integers(-1, 1),
    "audio_end_ms": st.integers(-1, 5000) | JSON,
    "response": RESPONSES | JSON,
    "response_id": st.sampled_from(["resp_6", "nobody"]),
    "audio": st.sampled_from(["AAAA", "AAAAAAAA", "!"]) | JSON,
    "digits": st.sampled_from(["1", "159#", "x", ""]) | JSON,
    "duration_ms": st.integers(0, 2_000) | JSON,
    "gap_ms": st.integers(0, 2_000) | JSON,
    "event_id": st.text(max_size=5) | JSON,
}


@st.composite
def client_events(draw: st.DrawFn) -> dict[str, Any]:
    """One that is mostly right."""
    kind = draw(st.sampled_from(sorted(CLIENT_EVENTS)))
    names = [name for name in CLIENT_EVENTS[kind].model_fields if name != "type"]
    wanted = draw(st.sets(st.sampled_from(names))) | {
        n for n in names if CLIENT_EVENTS[kind].model_fields[n].is_required()
    }
    event: dict[str, Any] = {"type": kind, **{name: draw(FIELDS[name]) for name in sorted(wanted)}}
    if draw(st.integers(0, 9)) == 0:
        event[draw(st.text(max_size=5))] = draw(JSON)
    return event


def check(call: VirtualCall) -> None:
    """What holds whatever happened: names, ids, and each response created once and done once."""
    ids = [event["event_id"] for event in call.events]
    assert len(set(ids)) == len(ids)
    assert all(event["type"] in SERVER_EVENTS for event in call.events)
    created = [event["response"]["id"] for event in call.sent("response.created")]
    done = [event["response"]["id"] for event in call.sent("response.done")]
    assert len(set(created)) == len(created)
    assert len(set(done)) == len(done)
    assert set(done) <= set(created)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=60) | st.binary(max_size=40) | JSON.map(json.dumps), max_size=20))
def test_any_bytes_are_answered_with_an_error(messages: list[str | bytes]) -> None:
    call = VirtualCall()
    for message in messages:
        before = len(call.sent("error"))
        call.send_raw(message)
        assert len(call.sent("error")) == before + 1
    call.say(600)
    call.be_quiet(500)
    assert call.requests, "the call goes on"


@settings(max_examples=150, deadline=None)
@given(st.booleans(), st.lists(client_events() | st.sampled_from(["say", "quiet", "engine", "tool"]), max_size=25))
def test_any_order_of_events_leaves_a_call_that_works(over_socket: bool, steps: list[Any]) -> None:
    call = VirtualCall(over_socket=over_socket)
    answered: set[str] = set()
    for step in steps:
        if step == "say":
            call.say(500)
        elif step == "quiet":
            call.be_quiet(600)
        elif step in ("engine", "tool") and call.requests and call.requests[-1].response_id not in answered:
            request = call.requests[-1]
            key = request.response_id
            answered.add(key)
            if request.audio is not None:
                call.engine(Transcript(key, "Hi.", 0.0))
            if step == "tool" and request.tools:
                call.engine(ToolCallDelta(key, 0, "f", "{}", True, 0.0))
            elif request.output != "transcript":
                call.engine(TextDelta(key, "Hello you.", 0.0))
                if request.output == "audio":
                    call.engine(AudioDelta(key, tone(300, RATE, 440.0), 10, 0.0))
            call.engine(ResponseDone(key, "completed", 0.0))
        elif isinstance(step, dict):
            call.send_raw(json.dumps(step))
    call.be_quiet(1_000)
    check(call)
    call.core.close()


@settings(max_examples=60, deadline=None)
@given(client_events(), st.integers(0, 200))
def test_half_a_message_is_refused(event: dict[str, Any], cut: int) -> None:
    text = json.dumps(event)
    call = VirtualCall()
    call.send_raw(text[: min(cut, len(text) - 1)])
    assert call.kinds() == ["error"]
