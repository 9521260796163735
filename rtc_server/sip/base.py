"""The seam between telephone calls and whoever controls them: HTTP handlers on this side, SIP on the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from rtc_server.calls.sessions import CallOptions
from rtc_server.media.owners import Caller
from rtc_server.realtime.session import SessionConfig


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """A telephone call that rings."""

    call_id: str
    headers: tuple[tuple[str, str], ...]
    """Of its INVITE, in order: those that an application may see (From, To, Call-ID, Diversion, ...), without
    credentials and without the way that the message took."""


OnIncoming: TypeAlias = Callable[[IncomingCall], Awaitable[None]]
"""Told of a call that rings; it is accepted or rejected through `Telephony`, now or later. Raises `ApiError` when
nobody could be told: the caller hears 503."""


class Telephony(Protocol):
    """All telephone calls of this server. Errors of whoever asks are `ApiError`s."""

    def rings(self, call_id: str) -> bool:
        """It came in and was not answered yet."""

    def carries(self, call_id: str) -> bool:
        """It is a telephone call that goes on, ringing or not, in or out."""

    async def accept(self, call_id: str, session: SessionConfig | None) -> None:
        """Answer a ringing call; None = with the server's session. Raises CallNotFoundError, CallNotRingingError, and
        what a call needs that is not there (ServerFullError, NotReadyError)."""

    async def reject(self, call_id: str, status_code: int) -> None:
        """Refuse a ringing call, with a SIP status from 400 to 699. Raises CallNotFoundError or CallNotRingingError."""

    async def refer(self, call_id: str, target_uri: str) -> None:
        """Ask the peer of an answered call to call somebody else (RFC 3515); what comes of it is told by events. Raises
        CallNotFoundError, ForbiddenError where `sip.refer_targets` does not name the target."""

    async def hang_up(self, call_id: str) -> None:
        """End a call, whatever it is in. Raises CallNotFoundError."""

    async def dial(self, target: str, options: CallOptions, caller: Caller) -> str:
        """Call somebody; the id of the call, once it is under way. What comes of it is told by events. Raises
        ForbiddenError where `sip.dial_targets` does not name the target, and what a call needs that is not there."""
