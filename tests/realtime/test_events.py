"""Client events: typed when valid, a ProtocolError that names the field when not, never anything else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtc_server.errors import ProtocolError
from rtc_server.realtime.events import (
    MAX_MESSAGE_BYTES,
    EventWriter,
    ItemCreate,
    ResponseCreate,
    SessionUpdate,
    parse_client_event,
)


def test_events_are_parsed_into_their_types() -> None:
    assert isinstance(parse_client_event('{"type":"session.update","session":{}}'), SessionUpdate)
    assert isinstance(parse_client_event('{"type":"response.create"}'), ResponseCreate)
    created = parse_client_event(
        json.dumps(
            {
                "type": "conversation.item.create",
                "item": {
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": "Hi"}],
                },
            }
        )
    )
    assert isinstance(created, ItemCreate)
    assert created.item.text == "Hi"


@pytest.mark.parametrize(
    ("data", "code", "param"),
    [
        pytest.param("{", "invalid_json", None, id="malformed"),
        pytest.param("", "invalid_json", None, id="empty"),
        pytest.param("[" * 5000, "invalid_json", None, id="deeply-nested"),
        pytest.param("[]", "invalid_event", None, id="array"),
        pytest.param("null", "invalid_event", None, id="null"),
        pytest.param(b"\x00\x01", "invalid_event", None, id="binary"),
        pytest.param("x" * (MAX_MESSAGE_BYTES + 1), "invalid_event", None, id="oversized"),
        pytest.param("{}", "invalid_event", "type", id="no-type"),
        pytest.param('{"type":"make.coffee"}', "invalid_event", "type", id="unknown-type"),
        pytest.param('{"type":7}', "invalid_event", "type", id="type-is-a-number"),
        pytest.param('{"type":"session.update"}', "missing_required_parameter", "session", id="missing-field"),
        pytest.param('{"type":"session.update","session":7}', "invalid_value", "session", id="wrong-field-type"),
        pytest.param('{"type":"response.cancel","x":1}', "unknown_parameter", "x", id="unknown-field"),
        pytest.param(
            '{"type":"conversation.item.truncate","item_id":"a","audio_end_ms":-1}',
            "invalid_value",
            "audio_end_ms",
            id="negative-time",
        ),
    ],
)
def test_bad_events_name_what_is_wrong(data: str | bytes, code: str, param: str | None) -> None:
    with pytest.raises(ProtocolError) as refused:
        parse_client_event(data)
    assert (refused.value.code, refused.value.param) == (code, param)


def test_the_client_gets_its_event_id_back() -> None:
    with pytest.raises(ProtocolError) as refused:
        parse_client_event('{"type":"nope","event_id":"evt_7"}')
    sent = EventWriter(lambda prefix: f"{prefix}_1").error(refused.value)
    assert sent["type"] == "error"
    assert sent["event_id"] == "event_1"
    assert sent["error"]["event_id"] == "evt_7"


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.binary(max_size=50)))
def test_any_message_is_parsed_or_refused(data: str | bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_client_event(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["session.update", "conversation.item.create", "response.create", "response.cancel"]), JSON)
def test_any_payload_of_a_known_event_is_parsed_or_refused(kind: str, payload: object) -> None:
    for field in ("session", "item", "response", "response_id"):
        try:
            parse_client_event(json.dumps({"type": kind, field: payload}))
        except ProtocolError as refused:
            assert refused.message  # noqa: PT017 - both outcomes are right
