"""`Telephony` over the SIP adapter and the media router: what an INVITE, a BYE or a hold means for a call.

A leg is known here from its INVITE until either side has ended it; its call in the media node has the same id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rtc_server import metrics
from rtc_server.calls.sessions import DEFAULT_OPTIONS, CallOptions
from rtc_server.config import Settings
from rtc_server.errors import (
    ApiError,
    CallNotFoundError,
    CallNotRingingError,
    ForbiddenError,
    InvalidParameterError,
    InvalidSdpError,
    NotEnabledError,
    RetryableError,
    SdpTooLargeError,
    UnprocessableError,
)
from rtc_server.media.node import CallKind, OfferRequest
from rtc_server.media.owners import Caller
from rtc_server.media.router import MediaRouter
from rtc_server.network.addresses import machine_addresses
from rtc_server.realtime.session import SessionConfig
from rtc_server.transports.sdp import Offer, validate_offer

from . import messages
from .addresses import is_allowed, parse_address
from .base import IncomingCall, OnIncoming
from .process import SipAdapter

log = logging.getLogger(__name__)

OWNER = ("telephone",)
"""Whose incoming calls are; see `app.guard`."""
ECHO_USER = "echo"
"""Calls to this name are echo tests, where `server.echo_test` is on."""
NOT_ACCEPTABLE, UNAVAILABLE, NO_ANSWER = 488, 503, 480


class LegState(Enum):
    """Of a leg that is not over."""

    RINGING = "ringing"
    """Came in; waits for `accept` or `reject`."""
    ACCEPTING = "accepting"
    """Its call is being made."""
    ANSWERED = "answered"


@dataclass(slots=True)
class _Leg:
    call_id: str
    offer: Offer
    to_user: str
    state: LegState = LegState.RINGING
    ring_timer: asyncio.TimerHandle | None = None
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Offers within a call are answered one after the other."""

    def stop_ringing(self) -> None:
        if self.ring_timer is not None:
            self.ring_timer.cancel()
            self.ring_timer = None


class SipService:
    """A `Telephony`. Made on the event loop that the router runs on; `start` it, and `close` it at the end."""

    def __init__(
        self,
        settings: Settings,
        router: MediaRouter,
        tasks: asyncio.TaskGroup,
        *,
        is_ready: Callable[[], bool],
        on_incoming: OnIncoming | None = None,
    ) -> None:
        """`is_ready()`: calls can be taken. Raises ConfigError where the extra is not installed."""
        self._settings = settings
        self._router = router
        self._tasks = tasks
        self._is_ready = is_ready
        self._on_incoming = on_incoming
        self._legs: dict[str, _Leg] = {}
        self._adapter = SipAdapter(settings.sip, settings.server.max_calls, self._on_notice, self._on_lost)
        self._is_closed = False

    @property
    def is_running(self) -> bool:
        """The adapter listens."""
        return self._adapter.is_running

    @property
    def port(self) -> int:
        """UDP port of the adapter."""
        return self._adapter.port

    async def start(self) -> None:
        """Raises ConfigError when the adapter cannot listen."""
        await self._adapter.start()

    def observe(self) -> None:
        """Tell the proxy, which asks, whether calls are taken. Call it about once a second."""
        self._adapter.send(messages.Readiness(self._is_ready() and not self._is_closed))

    def use_settings(self, settings: Settings) -> None:
        """For calls from now on."""
        self._settings = settings

    async def close(self) -> None:
        """End every leg and the adapter. Idempotent."""
        self._is_closed = True
        for leg in list(self._legs.values()):
            self._forget(leg)
            self._adapter.send(messages.HangUp(leg.call_id, "shutdown"))
        await self._adapter.close()

    # --- Telephony

    def rings(self, call_id: str) -> bool:
        """See `Telephony`."""
        leg = self._legs.get(call_id)
        return leg is not None and leg.state is LegState.RINGING

    def carries(self, call_id: str) -> bool:
        """See `Telephony`."""
        return call_id in self._legs

    async def accept(self, call_id: str, session: SessionConfig | None) -> None:
        """See `Telephony`."""
        leg = self._ringing(call_id)
        leg.state = LegState.ACCEPTING
        leg.stop_ringing()
        options = DEFAULT_OPTIONS if session is None else CallOptions(session)
        try:
            answer = await self._router.answer(self._request(leg, options), Caller(OWNER))
        except ApiError as error:
            self._refuse(leg, error)
            raise
        except BaseException:  # a bug, or nobody waits any more: the caller must not ring for ever
            self._end(leg, messages.Refuse(call_id, 500))
            raise
        if self._legs.get(call_id) is not leg:  # hung up while its call was made
            with suppress(CallNotFoundError):
                await self._router.hang_up(call_id)
            raise CallNotFoundError(f"There is no call '{call_id[:64]}'.")
        leg.state = LegState.ANSWERED
        self._adapter.send(messages.Accept(call_id, answer.sdp))
        log.info("telephone call answered", extra={"call_id": call_id})

    async def reject(self, call_id: str, status_code: int) -> None:
        """See `Telephony`."""
        leg = self._ringing(call_id)
        self._end(leg, messages.Refuse(call_id, status_code))

    async def refer(self, call_id: str, target_uri: str) -> None:
        """See `Telephony`."""
        leg = self._leg(call_id)
        try:
            target = parse_address(target_uri)
        except ValueError as error:
            raise InvalidParameterError(str(error), param="target_uri") from error
        if not is_allowed(target, self._settings.sip.refer_targets):
            raise ForbiddenError("Calls may not be handed over to this address; see sip.refer_targets.")
        if leg.state is not LegState.ANSWERED:
            raise CallNotRingingError("The call has not been answered yet; only an answered one can be handed over.")
        self._adapter.send(messages.Refer(call_id, str(target)))

    async def hang_up(self, call_id: str) -> None:
        """See `Telephony`."""
        leg = self._leg(call_id)
        was_answered = leg.state is LegState.ANSWERED
        self._end(leg, messages.HangUp(call_id, "hangup"))
        if was_answered:
            with suppress(CallNotFoundError):
                await self._router.hang_up(call_id)

    async def dial(self, target: str, options: CallOptions, caller: Caller) -> str:
        """See `Telephony`."""
        raise NotEnabledError("This server makes no telephone calls yet; it takes them.")

    # --- from the other side

    def on_call_ended(self, call_id: str) -> None:
        """A media node's call is over, whatever ended it."""
        leg = self._legs.get(call_id)
        if leg is not None and leg.state is LegState.ANSWERED:
            self._end(leg, messages.HangUp(call_id, "call_ended"))

    def _on_notice(self, notice: messages.Notice) -> None:
        match notice:
            case messages.Incoming():
                self._start(self._take(notice), notice.call_id)
            case messages.Changed(call_id, sdp):
                leg = self._legs.get(call_id)
                if leg is not None:
                    self._start(self._change(leg, sdp), call_id)
            case messages.Over(call_id, reason, status_code):
                self._over(call_id, reason, status_code)
            case messages.Dropped(reason, count):
                metrics.SIP_MESSAGES_DROPPED.labels(metrics.bounded("drop", reason)).inc(count)
            case messages.Pressed(call_id, digit):
                leg = self._legs.get(call_id)
                if leg is not None and leg.state is LegState.ANSWERED:
                    self._start(self._press(call_id, digit), call_id)
            case messages.Transfer(call_id, status_code):
                self._transferred(call_id, status_code)
            case _:
                log.debug("not used", extra={"notice": notice.kind})

    def _on_lost(self) -> None:
        """The adapter is gone, and every dialog with it: nobody could end these calls any more."""
        for leg in list(self._legs.values()):
            self._over(leg.call_id, "adapter_lost", None)

    async def _take(self, incoming: messages.Incoming) -> None:
        call_id = incoming.call_id
        try:
            offer = validate_offer(incoming.sdp.encode(), allow_loopback=True)
        except ApiError as error:
            metrics.SIP_CALLS.labels("in", "refused").inc()
            self._adapter.send(_refusal(call_id, error))
            return
        headers = tuple((_shown(name), value) for name, value in incoming.headers)
        to_user = _user_of(dict(headers).get("To", ""))
        leg = self._legs[call_id] = _Leg(call_id, offer, to_user)
        if self._on_incoming is None:
            with suppress(ApiError):  # the caller was told
                await self.accept(call_id, None)
            return
        self._adapter.send(messages.Ring(call_id))
        loop = asyncio.get_running_loop()
        leg.ring_timer = loop.call_later(self._settings.sip.ring_timeout_seconds, self._not_answered, leg)
        try:
            await self._on_incoming(IncomingCall(call_id, headers))
        except ApiError as error:
            if self._legs.get(call_id) is leg and leg.state is LegState.RINGING:
                self._refuse(leg, error)

    def _not_answered(self, leg: _Leg) -> None:
        leg.ring_timer = None
        if self._legs.get(leg.call_id) is leg and leg.state is LegState.RINGING:
            metrics.SIP_CALLS.labels("in", "not_answered").inc()
            self._end(leg, messages.Refuse(leg.call_id, NO_ANSWER), result=None)

    async def _change(self, leg: _Leg, sdp: str) -> None:
        """Hold, resume, or the peer's media moved."""
        async with leg.changing:
            if leg.state is not LegState.ANSWERED or self._legs.get(leg.call_id) is not leg:
                return
            try:
                offer = validate_offer(sdp.encode(), allow_loopback=True, purpose="change")
                answer = await self._router.renegotiate(leg.call_id, offer)
            except ApiError as error:
                self._adapter.send(_refusal(leg.call_id, error))
            else:
                self._adapter.send(messages.Accept(leg.call_id, answer))

    def _over(self, call_id: str, reason: str, status_code: int | None) -> None:
        leg = self._legs.get(call_id)
        if leg is None:
            return
        was_answered = leg.state is LegState.ANSWERED
        self._forget(leg)
        if leg.state is LegState.RINGING:
            metrics.SIP_CALLS.labels("in", "cancelled").inc()
        log.info("telephone call over", extra={"call_id": call_id, "reason": reason})
        if was_answered:
            self._start(self._hang_up_media(call_id), call_id)

    async def _press(self, call_id: str, digit: str) -> None:
        with suppress(ApiError):  # over meanwhile
            await self._router.press(call_id, digit)

    async def _hang_up_media(self, call_id: str) -> None:
        with suppress(ApiError):  # it ended by itself, or its worker did
            await self._router.hang_up(call_id)

    def _transferred(self, call_id: str, status_code: int) -> None:
        leg = self._legs.get(call_id)
        if leg is not None and 200 <= status_code < 300:  # RFC 3515: the peer has somebody else now
            self._end(leg, messages.HangUp(call_id, "transferred"))
            self._start(self._hang_up_media(call_id), call_id)

    # --- inside

    def _start(self, work: Coroutine[Any, Any, None], call_id: str) -> None:
        if self._is_closed:
            work.close()
            return
        self._tasks.create_task(self._guarded(work, call_id), name=f"sip-{call_id}")

    async def _guarded(self, work: Coroutine[Any, Any, None], call_id: str) -> None:
        try:
            await work
        except Exception:  # a bug in one telephone call must not take the server down: it ends here, logged once
            log.exception("a telephone call failed", extra={"call_id": call_id})
            leg = self._legs.get(call_id)
            if leg is not None:
                self._end(leg, messages.HangUp(call_id, "internal_error"))

    def _request(self, leg: _Leg, options: CallOptions) -> OfferRequest:
        addresses = self._settings.webrtc.host_addresses or tuple(machine_addresses(include_loopback=False))
        is_echo = leg.to_user == ECHO_USER and self._settings.server.echo_test
        kind: CallKind = "echo" if is_echo else "conversation"
        return OfferRequest(leg.offer, addresses, kind, options, call_id=leg.call_id)

    def _leg(self, call_id: str) -> _Leg:
        try:
            return self._legs[call_id]
        except KeyError:
            raise CallNotFoundError(f"There is no call '{call_id[:64]}'.") from None

    def _ringing(self, call_id: str) -> _Leg:
        leg = self._leg(call_id)
        if leg.state is not LegState.RINGING:
            raise CallNotRingingError("This call does not ring any more; it was answered.")
        return leg

    def _refuse(self, leg: _Leg, error: ApiError) -> None:
        self._end(leg, _refusal(leg.call_id, error))

    def _end(self, leg: _Leg, last: messages.Command, *, result: str | None = "refused") -> None:
        """The leg is forgotten, and the peer told."""
        if self._legs.get(leg.call_id) is leg:
            if result is not None and leg.state is not LegState.ANSWERED:
                metrics.SIP_CALLS.labels("in", result).inc()
            self._forget(leg)
            self._adapter.send(last)

    def _forget(self, leg: _Leg) -> None:
        leg.stop_ringing()
        self._legs.pop(leg.call_id, None)
        if leg.state is LegState.ANSWERED:
            metrics.SIP_CALLS.labels("in", "answered").inc()


def _refusal(call_id: str, error: ApiError) -> messages.Refuse:
    """What a caller hears whose call cannot be taken."""
    if isinstance(error, InvalidSdpError | UnprocessableError):
        return messages.Refuse(call_id, NOT_ACCEPTABLE)
    if isinstance(error, SdpTooLargeError):
        return messages.Refuse(call_id, 513)
    if isinstance(error, RetryableError):
        return messages.Refuse(call_id, UNAVAILABLE, error.retry_after)
    return messages.Refuse(call_id, UNAVAILABLE if error.status >= 500 else 403)


def _user_of(to: str) -> str:
    """The part before the "@" in a To header."""
    return to.partition("sip:")[2].partition("@")[0].lower() if "@" in to else ""


def _shown(name: str) -> str:
    """sippy writes all but the first letter of names that it does not know in lower case."""
    return name if name in ("Call-ID", "CSeq") else "-".join(part.capitalize() for part in name.split("-"))
