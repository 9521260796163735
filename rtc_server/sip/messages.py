"""Messages between the server and its SIP adapter, a process of its own, and their framing on a private socket pair.

JSON behind a 4-byte big-endian length: the adapter reads what strangers wrote with a library of others, and must not be
able to hand the server anything but these.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import ClassVar, TypeAlias

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 256 * 1024  # far above a SIP message, which is one datagram


@dataclass(frozen=True, slots=True)
class Ring:
    """Tell the caller that it rings: 180, or 183 with an answer for early media."""

    kind: ClassVar[str] = "ring"
    call_id: str
    sdp: str | None = None


@dataclass(frozen=True, slots=True)
class Accept:
    """Answer an INVITE or a re-INVITE with 200."""

    kind: ClassVar[str] = "accept"
    call_id: str
    sdp: str
    """Our answer; our offer where there was none to answer, and then its answer comes as `Answered`."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Refuse an INVITE or a re-INVITE."""

    kind: ClassVar[str] = "refuse"
    call_id: str
    status_code: int
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class HangUp:
    """BYE, CANCEL or a refusal, whatever ends the call now."""

    kind: ClassVar[str] = "hang_up"
    call_id: str
    reason: str = ""
    """For the `Reason` header (RFC 3326); a word of ours, such as "time_limit"."""


@dataclass(frozen=True, slots=True)
class Invite:
    """Call somebody."""

    kind: ClassVar[str] = "invite"
    call_id: str
    target: str
    """The request URI."""
    caller: str
    """Our address, for the From header."""
    sdp: str
    user: str = ""
    """For digest authentication; "" = none."""
    password: str = ""
    ring_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Refer:
    """Ask the peer to call somebody else."""

    kind: ClassVar[str] = "refer"
    call_id: str
    target: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """What an OPTIONS request of the proxy is answered: 200, or 503."""

    kind: ClassVar[str] = "readiness"
    is_ready: bool


Command: TypeAlias = Ring | Accept | Refuse | HangUp | Invite | Refer | Readiness


@dataclass(frozen=True, slots=True)
class Listening:
    """The adapter's socket is open."""

    kind: ClassVar[str] = "listening"
    port: int


@dataclass(frozen=True, slots=True)
class CannotListen:
    """It is not; the adapter ends."""

    kind: ClassVar[str] = "cannot_listen"
    message: str


@dataclass(frozen=True, slots=True)
class Incoming:
    """An INVITE. `headers`: without credentials and routes."""

    kind: ClassVar[str] = "incoming"
    call_id: str
    headers: tuple[tuple[str, str], ...]
    sdp: str | None
    """None: we are to offer, in the 200 (RFC 3261 section 13.2.1)."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A re-INVITE in an answered call: wants `Accept` or `Refuse`."""

    kind: ClassVar[str] = "changed"
    call_id: str
    sdp: str | None
    """None: we are to offer, in the 200 (RFC 3261 section 14.2)."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A provisional response to our INVITE, with the answer for early media if there is one."""

    kind: ClassVar[str] = "progress"
    call_id: str
    status_code: int
    sdp: str | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """Our offer was. Our INVITE was accepted: `sdp` is None where the answer came before, with a provisional response.
    Or the ACK of a 200 with our offer came: None where it has no answer."""

    kind: ClassVar[str] = "answered"
    call_id: str
    sdp: str | None = None


@dataclass(frozen=True, slots=True)
class Over:
    """The leg is over, and nothing more is to be done about it: BYE or CANCEL of the peer, or our INVITE failed
    (`status_code`)."""

    kind: ClassVar[str] = "over"
    call_id: str
    reason: str
    """"peer_closed", "cancelled", "refused", "session_expired"."""
    status_code: int | None = None


@dataclass(frozen=True, slots=True)
class Pressed:
    """A key, by INFO."""

    kind: ClassVar[str] = "pressed"
    call_id: str
    digit: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """How the peer gets on with a REFER: a SIP status, provisional or final."""

    kind: ClassVar[str] = "transfer"
    call_id: str
    status_code: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """Messages that were not looked at since the last time: malformed, too many, or not from the proxy."""

    kind: ClassVar[str] = "dropped"
    reason: str
    count: int


Notice: TypeAlias = (
    Listening | CannotListen | Incoming | Changed | Progress | Answered | Over | Pressed | Transfer | Dropped
)

COMMANDS: dict[str, type[Command]] = {
    kind.kind: kind for kind in (Ring, Accept, Refuse, HangUp, Invite, Refer, Readiness)
}
NOTICES: dict[str, type[Notice]] = {
    kind.kind: kind
    for kind in (Listening, CannotListen, Incoming, Changed, Progress, Answered, Over, Pressed, Transfer, Dropped)
}


def encode(message: Command | Notice) -> bytes:
    """One frame."""
    body = json.dumps([message.kind, asdict(message)], separators=(",", ":")).encode()
    return HEADER.pack(len(body)) + body


class Frames:
    """Bytes as they come -> whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[str, dict[str, object]]]:
        """Kind and fields of each message that is complete now. Raises ValueError for what is no frame."""
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            (size,) = HEADER.unpack_from(self._buffer)
            if size > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {size} bytes")
            if len(self._buffer) < HEADER.size + size:
                return
            kind, fields = json.loads(self._buffer[HEADER.size : HEADER.size + size])
            del self._buffer[: HEADER.size + size]
            yield kind, fields


def command(kind: str, fields: dict[str, object]) -> Command:
    """What `encode` made of a command."""
    return COMMANDS[kind](**fields)  # type: ignore[arg-type]


def notice(kind: str, fields: dict[str, object]) -> Notice:
    """What `encode` made of a notice. Raises KeyError or TypeError for anything else."""
    if kind == Incoming.kind:
        pairs = fields["headers"]
        assert isinstance(pairs, list)
        fields = {**fields, "headers": tuple((str(name), str(value)) for name, value in pairs)}
    return NOTICES[kind](**fields)  # type: ignore[arg-type]
