"""Which media node a request is for, and what goes along; without Ray."""

from __future__ import annotations

import json

import pytest

from rtc_server.inference.ray import routing
from rtc_server.inference.ray.messages import NodeState
from rtc_server.inference.ray.routing import Places, choose, forwarded, names_in, names_made


def node(name: str, calls: int, *, max_calls: int = 10, is_ready: bool = True) -> NodeState:
    return NodeState(name, f"http://{name}", calls, max_calls, is_ready)


@pytest.mark.parametrize(
    ("path", "queried", "headers", "body", "names"),
    [
        ("/v1/realtime/calls/rtc_1/hangup", [], {}, b"", ("rtc_1",)),
        ("/whep/whep_2", [], {}, b"", ("whep_2",)),
        ("/v1/realtime", ["rtc_3"], {}, b"", ("rtc_3",)),
        ("/sessions/Abc/api/offer", [], {}, b"", ("Abc",)),
        ("/api/offer", [], {}, json.dumps({"pc_id": "rtc_4"}).encode(), ("rtc_4",)),
        ("/v1/realtime/calls", [], {"authorization": "Bearer ek_5"}, b"", ("ek_5",)),
        ("/v1/realtime", [], {"sec-websocket-protocol": "realtime, openai-insecure-api-key.ek_6"}, b"", ("ek_6",)),
        ("/v1/realtime/calls", [], {"authorization": "Bearer sk_secret"}, b"v=0", ()),
        ("/api/offer", [], {}, b"{" * 100_000, ()),
        ("/v1/realtime", ["x" * 1_000, ""], {}, b"", ()),
    ],
)
def test_what_a_request_names(
    path: str, queried: list[str], headers: dict[str, str], body: bytes, names: tuple[str, ...]
) -> None:
    assert names_in(path, queried, headers, body) == names


def test_one_request_cannot_ask_for_much() -> None:
    assert len(names_in("/", [f"rtc_{number}" for number in range(1_000)], {})) == routing.MAX_NAMES


@pytest.mark.parametrize(
    ("headers", "body", "names"),
    [
        ({"location": "/v1/realtime/calls/rtc_1"}, b"v=0", ("rtc_1",)),
        ({"content-type": "application/json"}, b'{"pc_id": "rtc_2", "sdp": "v=0"}', ("rtc_2",)),
        ({"content-type": "application/json"}, b'{"sessionId": "abc"}', ("abc",)),
        ({"content-type": "application/json; charset=utf-8"}, b'{"value": "ek_1"}', ("ek_1",)),
        ({"content-type": "application/json"}, b'{"client_secret": {"value": "ek_2"}}', ("ek_2",)),
        ({"content-type": "application/json"}, b'{"value": 3}', ()),
        ({"content-type": "application/json"}, b"[not json", ()),
    ],
)
def test_what_an_answer_says_that_was_made(headers: dict[str, str], body: bytes, names: tuple[str, ...]) -> None:
    assert names_made(headers, body) == names


def test_new_calls_go_where_there_are_fewest() -> None:
    assert choose([node("a", 3), node("b", 2)], {}) == node("b", 2)
    assert choose([node("a", 3), node("b", 2)], {"b": 2}) == node("a", 3), "two were sent there a moment ago"
    assert choose([node("a", 3), node("b", 2, is_ready=False)], {}) == node("a", 3)
    assert choose([node("a", 9), node("b", 8, max_calls=8)], {}) == node("a", 9), "the other is full"
    assert choose([node("a", 0, is_ready=False)], {}) is None


def test_places_are_learned_and_the_oldest_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "MAX_KNOWN", 2)
    places = Places()
    for name in ("rtc_1", "rtc_2", "rtc_3"):
        places.learn(name, f"node of {name}")
    assert places.find(["rtc_1"]) is None
    assert places.find(["rtc_unknown", "rtc_3"]) == "node of rtc_3"
    places.forget(["rtc_3"])
    assert places.find(["rtc_3"]) is None


def test_headers_go_along_but_those_of_the_connection() -> None:
    sent = [
        *(("Authorization", "Bearer k"), ("If-Match", '"*"'), ("Host", "example.org"), ("Connection", "keep-alive")),
        *(("Content-Length", "3"), ("X-Forwarded-For", "198.51.100.1"), ("X-Forwarded-Proto", "https")),
    ]
    assert forwarded(sent, "192.0.2.7", "http") == [
        ("Authorization", "Bearer k"),
        ("If-Match", '"*"'),
        ("Host", "example.org"),
        ("X-Forwarded-For", "198.51.100.1, 192.0.2.7"),  # only the right end was written by us
        ("X-Forwarded-Proto", "http"),
    ]


def test_a_websocket_is_opened_anew() -> None:
    sent = [("Sec-WebSocket-Key", "x"), ("Sec-WebSocket-Protocol", "realtime"), ("Upgrade", "websocket"), ("A", "b")]
    assert forwarded(sent, "::1", "ws", is_websocket=True)[0] == ("A", "b")
