"""What a client sends, cut into pieces: nothing lost, nothing reordered, nothing long left to a call."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from rtc_server.app.client_messages import MAX_AUDIO, MAX_MESSAGE, PIECE, SHORT, pieces
from rtc_server.errors import ProtocolError
from rtc_server.realtime.events import MAX_SOCKET_MESSAGE_BYTES

MEGABYTE = 1 << 20
TOO_LONG = 2 * MEGABYTE


def append(data: bytes, **fields: Any) -> str:
    return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode(), **fields})


def refusal(message: str | bytes, **options: bool) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        pieces(message, **options)
    return caught.value


@pytest.mark.parametrize("size", [PIECE, PIECE + 1, 100_001, MEGABYTE, MAX_AUDIO])
def test_the_sound_of_a_long_append_comes_in_pieces(size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    message = append(data, event_id="evt_1")
    assert len(message) <= MAX_MESSAGE
    parts = list(pieces(message))
    assert b"".join(part for part in parts if isinstance(part, bytes)) == data
    assert max(len(part) for part in parts) <= PIECE


def test_binary_messages_are_cut() -> None:
    assert b"".join(part for part in pieces(bytes(MEGABYTE + 1)) if isinstance(part, bytes)) == bytes(MEGABYTE + 1)
    assert list(pieces(b"")) == []


@pytest.mark.parametrize(
    "message",
    [
        append(b"short"),
        "{",
        json.dumps({"type": "session.update", "session": {"instructions": "x" * 20_000}}),
        "x" * MAX_SOCKET_MESSAGE_BYTES,
        append(bytes(PIECE)).replace("AAAA", "A!AA"),  # the call says what is wrong with it
        append(bytes(PIECE), nonsense=1),
        json.dumps(["x" * SHORT]),
    ],
)
def test_what_is_short_enough_for_an_event_is_the_calls(message: str) -> None:
    assert list(pieces(message)) == [message]


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ("x" * TOO_LONG, "invalid_json", None),
        ("[" * TOO_LONG, "invalid_json", None),
        (json.dumps("x" * TOO_LONG), "invalid_event", None),
        (json.dumps({"type": "session.update", "event_id": "evt_1", "x": "x" * TOO_LONG}), "invalid_event", None),
        (append(bytes(TOO_LONG), event_id="evt_1")[:-10] + "!!!!" + '"}', "invalid_json", None),
        (append(bytes(TOO_LONG), event_id="evt_1").replace("AAAA", "A!AA", 1), "invalid_value", "audio"),
        (append(bytes(TOO_LONG), event_id="evt_1").replace("AAAA", "AéAA", 1), "invalid_value", "audio"),
        (append(bytes(TOO_LONG), event_id="evt_1", nonsense=1), "unknown_parameter", None),
        (append(bytes(MAX_AUDIO + 1), event_id="evt_1"), "invalid_value", "audio"),
        (json.dumps({"type": "input_audio_buffer.append", "audio": ["x" * TOO_LONG]}), "invalid_value", "audio"),
    ],
)
def test_long_messages_that_are_no_append_are_refused(message: str, code: str, param: str | None) -> None:
    error = refusal(message)
    assert (error.code, error.param) == (code, param)
    if '"evt_1"' in message and code != "invalid_json":
        assert error.event_id == "evt_1"


def test_a_sideband_carries_events_only() -> None:
    assert list(pieces("x" * 10_000, is_sideband=True)) == ["x" * 10_000]
    assert refusal(b"sound", is_sideband=True).code == "invalid_event"
    assert refusal(append(bytes(TOO_LONG)), is_sideband=True).code == "invalid_event"
