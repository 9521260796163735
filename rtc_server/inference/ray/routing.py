"""Which media node a request is for, and which headers go along. [pure]

New calls go to the node with the fewest; whatever names something that lives on one node (a call, a session that was
started, a client secret) goes there. What is known here is a cache: the nodes themselves know what they have.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from .messages import NodeState

MAX_KNOWN = 50_000
MAX_ID_CHARS = 128
QUERY_KEYS = ("call_id", "call")
CALL_PREFIXES = ("rtc_", "whep_")
SECRET_PREFIX = "ek_"
MAX_NAMES = 8
"""That one request may name; more are not looked at."""

HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
        *("transfer-encoding", "upgrade", "content-length", "proxy-connection"),
    }
)
"""RFC 9110, 7.6.1: about one connection, not about the message. The length is set anew."""
OF_WEBSOCKETS = ("sec-websocket-",)


class Places:
    """Where things are, as far as they went through here. Bounded; the oldest are forgotten."""

    def __init__(self) -> None:
        self._places: OrderedDict[str, str] = OrderedDict()

    def learn(self, name: str, node: str) -> None:
        """`name` is on `node`."""
        self._places[name] = node
        self._places.move_to_end(name)
        while len(self._places) > MAX_KNOWN:
            self._places.popitem(last=False)

    def find(self, names: Iterable[str]) -> str | None:
        """The node of the first that is known."""
        return next((self._places[name] for name in names if name in self._places), None)

    def forget(self, names: Iterable[str]) -> None:
        """They are not there any more."""
        for name in names:
            self._places.pop(name, None)


def names_in(path: str, queried: Sequence[str], headers: Mapping[str, str], body: bytes = b"") -> tuple[str, ...]:
    """What a request names that may live on one node: in its path, its query (`queried`, the values of `QUERY_KEYS`),
    its credential (`ek_...`) or, as Pipecat's clients do, as `pc_id` in its body. Names of `headers` are lower case."""
    found: list[str] = []
    segments = path.strip("/").split("/")
    found += [segment for segment in segments if segment.startswith(CALL_PREFIXES)]
    if segments[0] == "sessions" and len(segments) > 1:
        found.append(segments[1])
    found += queried
    if segments[-2:] == ["api", "offer"] and body[:1] == b"{":
        found += _pc_id(body)
    credentials = [headers.get("authorization", "").removeprefix("Bearer ").strip()]
    protocols = [part.strip() for part in headers.get("sec-websocket-protocol", "").split(",")]
    credentials += [part.rsplit(".", 1)[-1] for part in protocols]
    found += [credential for credential in credentials if credential.startswith(SECRET_PREFIX)]
    return tuple(dict.fromkeys(name for name in found if 0 < len(name) <= MAX_ID_CHARS))[:MAX_NAMES]


def _pc_id(body: bytes) -> list[str]:
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return []
    call_id = payload.get("pc_id") if isinstance(payload, dict) else None
    return [call_id] if isinstance(call_id, str) else []


def names_made(headers: Mapping[str, str], body: bytes) -> tuple[str, ...]:
    """What an answer says that has just been made: the call in `Location`, or an id in a small JSON body."""
    found = [segment for segment in headers.get("location", "").split("/") if segment.startswith(CALL_PREFIXES)]
    if headers.get("content-type", "").startswith("application/json") and len(body) < 65_536:
        try:
            payload = json.loads(body)
        except (ValueError, RecursionError):
            payload = None
        if isinstance(payload, dict):
            secret = payload.get("client_secret")
            values = [payload.get("pc_id"), payload.get("sessionId"), payload.get("value")]
            values.append(secret.get("value") if isinstance(secret, dict) else None)
            found += [value for value in values if isinstance(value, str)]
    return tuple(name for name in found if 0 < len(name) <= MAX_ID_CHARS)


def choose(states: Sequence[NodeState], placed: Mapping[str, int]) -> NodeState | None:
    """The node for a new call: ready, with room if one has it, and with the fewest calls; `placed` were sent to a node
    since it told its state. None when no node is ready."""
    ready = [state for state in states if state.is_ready]

    def rank(state: NodeState) -> tuple[bool, int]:
        calls = state.calls + placed.get(state.name, 0)
        return calls >= state.max_calls, calls

    return min(ready, key=rank, default=None)


def forwarded(
    headers: Iterable[tuple[str, str]], client: str, scheme: str, *, is_websocket: bool = False
) -> list[tuple[str, str]]:
    """The headers of a request for the node: those about the connection are gone, and the client's address is at the
    right end of `X-Forwarded-For`."""
    kept = []
    chain = []
    for name, value in headers:
        lower = name.lower()
        if lower in HOP_BY_HOP or (is_websocket and lower.startswith(OF_WEBSOCKETS)):
            continue
        if lower == "x-forwarded-for":
            chain.append(value)
        elif lower != "x-forwarded-proto":
            kept.append((name, value))
    return [*kept, ("X-Forwarded-For", ", ".join([*chain, client])), ("X-Forwarded-Proto", scheme)]
