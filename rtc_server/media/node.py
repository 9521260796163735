"""A place where calls live, seen from signaling: this process, a worker process, later a machine of a cluster.

Everything that crosses is a plain frozen dataclass, so that it can be sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from rtc_server.calls.sessions import DEFAULT_OPTIONS, CallOptions
from rtc_server.calls.status import CallStatus
from rtc_server.calls.turn_records import TurnRecord
from rtc_server.config import Settings
from rtc_server.realtime.session import SessionConfig
from rtc_server.transports.fragments import IceFragment, IceUpdate
from rtc_server.transports.sdp import Offer

CallKind: TypeAlias = Literal["conversation", "echo"]


@dataclass(frozen=True, slots=True)
class OfferRequest:
    """A validated offer for a new call."""

    offer: Offer
    host_addresses: tuple[str, ...]
    """Local addresses that this caller may be able to reach."""
    kind: CallKind = "conversation"
    options: CallOptions = DEFAULT_OPTIONS
    call_id: str | None = None
    """For a call that has an id already: one that rang. None = a new one."""
    is_ringing: bool = False
    """Nobody has accepted the call yet: its caller hears `sip.early_media` and is not heard, until `begin`."""


@dataclass(frozen=True, slots=True)
class OutgoingRequest:
    """A call whose offer is ours: one that we make, or one that came in without an offer."""

    call_id: str
    host_addresses: tuple[str, ...]
    options: CallOptions = DEFAULT_OPTIONS
    kind: CallKind = "conversation"


@dataclass(frozen=True, slots=True)
class ListenRequest:
    """A validated offer of a peer that hears a running call's replies, in place of the call's own peer."""

    call_id: str
    offer: Offer
    host_addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChannelRequest:
    """Messages to and from a call over a WebSocket that signaling holds."""

    call_id: str | None = None
    """Beside a call that runs already (sideband); None = the WebSocket is the call."""
    options: CallOptions = DEFAULT_OPTIONS
    is_binary: bool = False
    """The reply's audio goes out as binary messages of raw samples instead of base64 in events."""


class ChannelPeer(Protocol):
    """The end of a channel that signaling holds. Called on the event loop; must not block."""

    def on_data(self, data: str | bytes) -> None:
        """One message for the client: an event as JSON text, or raw audio. The first may come before `open_channel`
        returns."""

    def on_closed(self, code: int, reason: str) -> None:
        """The channel is over, for any reason but `Channel.close`. `code` is a WebSocket close code, `reason` a word
        such as "hangup"."""


class Channel(Protocol):
    """The other end, as signaling uses it."""

    @property
    def call_id(self) -> str: ...

    async def send(self, data: str | bytes) -> None:
        """One message of the client, short enough to be worked on at once (`app.client_messages` cuts them). Waits
        while the call has too much unread; nothing is dropped. After the channel is over it returns at once."""

    def acknowledge(self, size: int) -> None:
        """A message of that `len` that `on_data` got has reached the client: one that does not read loses its call."""

    def close(self, *, is_lost: bool = False) -> None:
        """The client is gone; `is_lost`: without having said so, and may come back. Ends the call, or only the
        sideband. Idempotent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A call that was set up."""

    call_id: str
    """Of the call; of the listener where that was asked for."""
    sdp: str
    ice_tag: str = ""
    """Names the ICE session; see `MediaNode.update_ice`."""


@dataclass(frozen=True, slots=True)
class NodeLoad:
    """How much a node carries."""

    calls: int
    """Slots held, connecting calls included."""
    is_ready: bool
    """It takes calls: its engine is warm, and it is not closing."""
    underruns: int = 0
    """How often replies ran dry since the node began."""
    played_seconds: float = 0.0
    """How much of replies was played since then."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What an operator sees of a node at one moment."""

    calls: tuple[CallStatus, ...]
    """Those that go on, the oldest first."""
    turns: tuple[TurnRecord, ...]
    """Its latest replies, of running and ended calls, newest last; bounded."""


class MediaNode(Protocol):
    """Errors of the caller and of capacity are `ApiError`s, whatever process they come from."""

    @property
    def load(self) -> NodeLoad:
        """At this moment, as far as it is known here."""

    def carries(self, call_id: str) -> bool:
        """The call goes on here, as far as it is known; one that we have offered and nobody has answered yet too."""

    async def answer(self, request: OfferRequest) -> Answer:
        """Set a call up. Raises ServerFullError, NotReadyError, NetworkError or InvalidSdpError."""

    async def open_channel(self, request: ChannelRequest, peer: ChannelPeer) -> Channel:
        """Start a call over a WebSocket, or join one that runs. Raises ServerFullError or NotReadyError for a new call,
        CallNotFoundError or SidebandLimitError for a sideband. One may also wait for a call that was offered to begin.
        Cancelled or failed, nothing is left behind."""

    async def offer(self, request: OutgoingRequest) -> str:
        """Our SDP offer for a call that we make; `accept_answer` or `hang_up` next. Raises NotReadyError,
        ServerFullError or NetworkError."""

    async def accept_answer(self, call_id: str, answer: Offer) -> str:
        """The validated answer to it: the call begins; its id. Raises CallNotFoundError, ServerFullError or
        InvalidSdpError, and then there is no call any more."""

    async def listen(self, request: ListenRequest) -> Answer:
        """Let a peer hear a call. Its id is used like a call's for what follows. Raises CallNotFoundError,
        ListenerError, NetworkError or InvalidSdpError."""

    async def renegotiate(self, call_id: str, offer: Offer, if_match: str | None = None) -> str:
        """A new answer for a running call: its ICE session is restarted, or it is put on hold, or taken off it.
        `if_match` is the tag of the ICE session that is meant; None or "*" is any. Raises CallNotFoundError,
        PreconditionFailedError or InvalidSdpError."""

    async def reoffer(self, call_id: str) -> str:
        """Our offer for a running call whose peer asks for one; `reanswer` next, or nothing. Raises CallNotFoundError
        or InvalidSdpError."""

    async def reanswer(self, call_id: str, answer: Offer) -> None:
        """The validated answer to it, which may put the call on hold, or take it off. Raises CallNotFoundError or
        InvalidSdpError, and the call goes on as it was."""

    async def begin(self, call_id: str, session: SessionConfig | None) -> None:
        """A ringing call was accepted, with a session; None = the one that it has. Raises CallNotFoundError."""

    async def press(self, call_id: str, digit: str) -> None:
        """The peer of a call pressed a key that its signaling tells. Raises CallNotFoundError."""

    async def tell(self, call_id: str, kind: str, fields: Mapping[str, object]) -> None:
        """Send an event of ours ("rtc_server.sip.state") to everybody who follows a call, or waits for one that was
        offered; an echo test has nobody.
        Raises CallNotFoundError."""

    async def update_ice(self, call_id: str, fragment: IceFragment, if_match: str | None) -> IceUpdate:
        """Candidates for a call, or a restart of its ICE session; `if_match` is the tag that it is meant for, "*" for a
        restart. Raises CallNotFoundError, PreconditionFailedError, PreconditionRequiredError or UnprocessableError."""

    async def add_candidates(self, call_id: str, candidates: tuple[str, ...]) -> None:
        """More remote candidates for a call. Raises CallNotFoundError."""

    async def hang_up(self, call_id: str) -> None:
        """End a call. Raises CallNotFoundError."""

    async def hand_over(self, call_id: str) -> bytes | None:
        """End a call whose session goes on in another: its last `calls.snapshot.CallSnapshot`, None when it has none.
        Its slot is free by then. Raises CallNotFoundError."""

    async def metrics(self) -> bytes:
        """Its metrics in Prometheus text format; empty when they are this process's own."""

    async def status(self) -> NodeStatus:
        """Its calls and their latest turns. Raises NotReadyError when it does not answer."""

    async def use_settings(self, settings: Settings) -> None:
        """Other settings for calls from now on; of all keys only those of `app.live_settings` differ."""

    async def announce_drain(self, seconds: float) -> None:
        """Tell every call that the server ends in so many seconds."""

    async def finish_replies(self, timeout_seconds: float) -> None:
        """End every call, those that nobody waits for a reply on at once, the others with its end; at the timeout some
        may be left."""

    async def close(self, timeout_seconds: float) -> None:
        """End every call, then the node. Idempotent."""
