"""`Telephony` over the SIP adapter and the media router: what an INVITE, a BYE or a hold means for a call.

A leg is known here from its INVITE until either side has ended it; its call in the media node has the same id.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
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
    NotReadyError,
    RetryableError,
    SdpTooLargeError,
    ServerFullError,
    UnprocessableError,
)
from rtc_server.media.node import CallKind, OfferRequest, OutgoingRequest
from rtc_server.media.owners import Caller
from rtc_server.media.router import MediaRouter
from rtc_server.network.addresses import machine_addresses
from rtc_server.realtime.session import SessionConfig
from rtc_server.transports.sdp import Offer, validate_offer

from . import messages
from .addresses import host_of, is_allowed, parse_address, request_uri
from .base import IncomingCall, OnIncoming
from .process import SipAdapter
from .states import LegRecord, LegState, Outcome

log = logging.getLogger(__name__)

OWNER = ("telephone",)
"""Whose incoming calls are; see `app.guard`."""
ECHO_USER = "echo"
"""Calls to this name are echo tests, where `server.echo_test` is on."""
DIAL_SECONDS = 60.0  # a telephone that rings so long is not answered any more
MAX_CALLING = 16
"""Telephones that we let ring at once: they hold no places, and legs of the adapter that callers need too."""
KEPT_OUTCOMES = 1_000  # of calls that were made; the oldest are forgotten
STATE_EVENT = "rtc_server.sip.state"
NOT_ACCEPTABLE, UNAVAILABLE, NO_ANSWER = 488, 503, 480


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
        self._legs: dict[str, LegRecord] = {}
        self._outcomes: OrderedDict[str, Outcome] = OrderedDict()
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

    @property
    def restarts(self) -> int:
        """How often the adapter was lost and started again."""
        return self._adapter.restarts

    @property
    def num_answered_out(self) -> int:
        """Answered calls that we made."""
        return sum(leg.is_outgoing and leg.state is LegState.ANSWERED for leg in self._legs.values())

    def num_legs(self) -> dict[LegState, int]:
        """How many legs are in each state."""
        counts = dict.fromkeys(LegState, 0)
        for leg in self._legs.values():
            counts[leg.state] += 1
        return counts

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
            sdp = leg.early_answer
            if sdp is not None:
                await self._router.begin(call_id, session)
            elif leg.offer is not None:
                sdp = (await self._router.answer(self._request(leg, leg.offer, options), Caller(OWNER))).sdp
            else:
                sdp = await self._router.offer(self._outgoing(leg, options), Caller(OWNER))
                leg.is_offered = True  # its call begins with the ACK
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
        self._adapter.send(messages.Accept(call_id, sdp))
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
        self._end(leg, messages.HangUp(call_id, "hangup"))
        if leg.state is LegState.CALLING:
            self._conclude(call_id, Outcome("failed", 487))
            await self._tell_state(call_id, "failed", 487)
        if leg.has_media:
            with suppress(CallNotFoundError):
                await self._router.hang_up(call_id)

    async def dial(self, target: str, options: CallOptions, caller: Caller) -> str:
        """See `Telephony`."""
        sip = self._settings.sip
        try:
            address = parse_address(target)
        except ValueError as error:
            raise InvalidParameterError(str(error), param="target_uri") from error
        if not is_allowed(address, sip.dial_targets):
            raise ForbiddenError("This address may not be called; see sip.dial_targets.")
        try:
            uri = request_uri(address, sip.trunk)
        except ValueError as error:
            raise NotEnabledError(str(error)) from error
        if self._is_closed or not self._adapter.is_running:
            raise NotReadyError("The SIP adapter is being restarted; try again in a moment.", retry_after=2)
        if sum(leg.state is LegState.CALLING for leg in self._legs.values()) >= MAX_CALLING:
            raise ServerFullError(f"{MAX_CALLING} telephones ring already; try again in a moment.", retry_after=5)
        call_id = f"rtc_{secrets.token_urlsafe(15)}"
        password = self._password() if sip.trunk_user else ""
        leg = self._legs[call_id] = LegRecord(call_id, None, "", LegState.CALLING, is_outgoing=True)
        try:
            sdp = await self._router.offer(self._outgoing(leg, options), caller)
        except BaseException:  # refused, or nobody waits any more: nothing was sent yet
            self._legs.pop(call_id, None)
            raise
        name = sip.caller_id or "rtc-server"
        domain = host_of(sip.trunk or sip.proxy)
        self._outcomes[call_id] = Outcome("ringing")
        while len(self._outcomes) > KEPT_OUTCOMES:
            self._outcomes.popitem(last=False)
        self._adapter.send(
            messages.Invite(call_id, uri, f"sip:{name}@{domain}", sdp, sip.trunk_user, password, DIAL_SECONDS)
        )
        self._start(self._tell_state(call_id, "ringing", 100), call_id)  # not awaited: it rings
        log.info("telephone call made", extra={"call_id": call_id})
        return call_id

    def outcome(self, call_id: str) -> Outcome:
        """What came of a call that was made. Raises CallNotFoundError for one that was not, or long ago."""
        try:
            return self._outcomes[call_id]
        except KeyError:
            raise CallNotFoundError(f"There is no call '{call_id[:64]}' that was made from here.") from None

    # --- from the other side

    def on_call_ended(self, call_id: str) -> None:
        """A media node's call is over, whatever ended it."""
        leg = self._legs.get(call_id)
        if leg is None:
            return
        if leg.state is LegState.ANSWERED:
            self._end(leg, messages.HangUp(call_id, "call_ended"))
        elif leg.state is LegState.CALLING:  # lost with its worker: nobody is let ring for it
            self._conclude(call_id, Outcome("failed"))
            self._end(leg, messages.HangUp(call_id, "call_ended"), result="failed")
        elif leg.early_answer is not None and leg.state is LegState.RINGING:
            self._end(leg, messages.Refuse(call_id, NO_ANSWER))

    def _on_notice(self, notice: messages.Notice) -> None:
        match notice:
            case messages.Incoming():
                self._start(self._take(notice), notice.call_id)
            case messages.Progress(call_id, status_code, sdp):
                leg = self._legs.get(call_id)
                if leg is not None:
                    self._ring_there(leg, status_code, sdp)
            case messages.Answered(call_id, sdp):
                leg = self._legs.get(call_id)
                if leg is not None:
                    self._start(self._offer_answered(leg, sdp or leg.early_answer), call_id)
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
                leg = self._legs.get(call_id)
                if leg is not None and leg.state is LegState.ANSWERED:
                    self._start(self._follow_transfer(leg, status_code), call_id)
            case _:
                log.debug("not used", extra={"notice": notice.kind})

    def _on_lost(self) -> None:
        """The adapter is gone, and every dialog with it: nobody could end these calls any more."""
        for leg in list(self._legs.values()):
            self._over(leg.call_id, "adapter_lost", None)

    async def _take(self, incoming: messages.Incoming) -> None:
        call_id = incoming.call_id
        try:
            offer = (
                None
                if incoming.sdp is None
                else validate_offer(incoming.sdp.encode(), allow_loopback=True, is_telephone=True)
            )
        except ApiError as error:
            metrics.SIP_CALLS.labels("in", "refused").inc()
            self._adapter.send(_refusal(call_id, error))
            return
        headers = tuple((_shown(name), value) for name, value in incoming.headers)
        to_user = _user_of(dict(headers).get("To", ""))
        leg = self._legs[call_id] = LegRecord(call_id, offer, to_user)
        if self._on_incoming is None:
            with suppress(ApiError):  # the caller was told
                await self.accept(call_id, None)
            return
        if not await self._ring(leg):
            return
        loop = asyncio.get_running_loop()
        leg.ring_timer = loop.call_later(self._settings.sip.ring_timeout_seconds, self._not_answered, leg)
        try:
            await self._on_incoming(IncomingCall(call_id, headers))
        except ApiError as error:
            if self._legs.get(call_id) is leg and leg.state is LegState.RINGING:
                self._refuse(leg, error)

    async def _ring(self, leg: LegRecord) -> bool:
        """180; where there is something to be heard before the call is accepted, 183 and its media. False when the call
        was refused."""
        if leg.offer is None or not self._settings.sip.early_media or self._is_echo(leg):
            self._adapter.send(messages.Ring(leg.call_id))
            return True
        request = replace(self._request(leg, leg.offer, DEFAULT_OPTIONS), is_ringing=True)
        try:
            answer = await self._router.answer(request, Caller(OWNER))
        except ApiError as error:
            self._refuse(leg, error)
            return False
        if self._legs.get(leg.call_id) is not leg:  # hung up meanwhile
            await self._hang_up_media(leg.call_id)
            return False
        leg.early_answer = answer.sdp
        self._adapter.send(messages.Ring(leg.call_id, answer.sdp))
        return True

    def _is_echo(self, leg: LegRecord) -> bool:
        return leg.to_user == ECHO_USER and self._settings.server.echo_test

    def _ring_there(self, leg: LegRecord, status_code: int, sdp: str | None) -> None:
        if sdp is not None:
            leg.early_answer = sdp  # some send it once, before anybody has answered
        if leg.state is LegState.CALLING and status_code not in leg.progress:
            leg.progress.add(status_code)
            self._start(self._tell_state(leg.call_id, "ringing", status_code), leg.call_id)

    async def _offer_answered(self, leg: LegRecord, sdp: str | None) -> None:
        if leg.is_reoffered:
            await self._reoffer_answered(leg, sdp)
        elif leg.is_offered or leg.state is LegState.CALLING:
            await self._answered(leg, sdp)

    async def _answered(self, leg: LegRecord, sdp: str | None) -> None:
        """Our call was answered, or a call that came in without an offer has answered ours."""
        call_id = leg.call_id
        try:
            if sdp is None:
                raise InvalidSdpError("The answer has no description.")
            answer = validate_offer(sdp.encode(), allow_loopback=True, is_telephone=True, purpose="answer")
            await self._router.accept_answer(call_id, answer)
        except ApiError as error:
            leg.is_offered = False
            log.warning("a telephone call cannot be carried", extra={"call_id": call_id, "code": error.code})
            self._conclude(call_id, Outcome("failed"))
            self._end(leg, messages.HangUp(call_id, error.code))
            await self._hang_up_media(call_id)
            return
        if self._legs.get(call_id) is not leg:  # hung up meanwhile
            await self._hang_up_media(call_id)
            return
        leg.is_offered = False
        if not leg.is_outgoing:
            return
        leg.state = LegState.ANSWERED
        self._conclude(call_id, Outcome("answered"))
        await self._tell_state(call_id, "answered", 200)
        log.info("telephone call answered", extra={"call_id": call_id})

    def _conclude(self, call_id: str, outcome: Outcome) -> None:
        if call_id in self._outcomes:
            self._outcomes[call_id] = outcome

    def _not_answered(self, leg: LegRecord) -> None:
        leg.ring_timer = None
        if self._legs.get(leg.call_id) is leg and leg.state is LegState.RINGING:
            metrics.SIP_CALLS.labels("in", "not_answered").inc()
            self._end(leg, messages.Refuse(leg.call_id, NO_ANSWER), result=None)

    async def _change(self, leg: LegRecord, sdp: str | None) -> None:
        """Hold, resume, or the peer's media moved; or the peer wants an offer, to do the same with its answer."""
        async with leg.changing:
            if leg.state is not LegState.ANSWERED or self._legs.get(leg.call_id) is not leg:
                return
            try:
                if sdp is None:
                    ours = await self._router.reoffer(leg.call_id)
                    leg.is_reoffered = True
                else:
                    offer = validate_offer(sdp.encode(), allow_loopback=True, is_telephone=True, purpose="change")
                    ours = await self._router.renegotiate(leg.call_id, offer)
            except ApiError as error:
                self._adapter.send(_refusal(leg.call_id, error))
            else:
                self._adapter.send(messages.Accept(leg.call_id, ours))

    async def _reoffer_answered(self, leg: LegRecord, sdp: str | None) -> None:
        """The ACK of an offer of ours within the call. Without an answer that can be used it goes on as it was."""
        async with leg.changing:
            leg.is_reoffered = False
            if sdp is None:
                return
            try:
                answer = validate_offer(sdp.encode(), allow_loopback=True, is_telephone=True, purpose="answer")
                await self._router.reanswer(leg.call_id, answer)
            except ApiError as error:
                extra = {"call_id": leg.call_id, "code": error.code}
                log.warning("the answer to an offer within a telephone call cannot be used", extra=extra)

    def _over(self, call_id: str, reason: str, status_code: int | None) -> None:
        leg = self._legs.get(call_id)
        if leg is None:
            return
        self._forget(leg)
        if leg.state is LegState.RINGING:
            metrics.SIP_CALLS.labels("in", "cancelled").inc()
        log.info("telephone call over", extra={"call_id": call_id, "reason": reason})
        if leg.state is LegState.CALLING:
            metrics.SIP_CALLS.labels("out", "not_answered" if status_code == 408 else "refused").inc()
            self._conclude(call_id, Outcome("failed", status_code))
            self._start(self._fail(call_id, status_code), call_id)
        elif leg.has_media:
            self._start(self._hang_up_media(call_id), call_id)

    async def _press(self, call_id: str, digit: str) -> None:
        with suppress(ApiError):  # over meanwhile
            await self._router.press(call_id, digit)

    async def _fail(self, call_id: str, status_code: int | None) -> None:
        """A call that we made was not answered."""
        await self._tell_state(call_id, "failed", status_code)
        await self._hang_up_media(call_id)

    async def _tell_state(self, call_id: str, state: str, status_code: int | None) -> None:
        """`rtc_server.sip.state`, to everybody who follows the call."""
        fields: dict[str, object] = {"state": state}
        if status_code is not None:
            fields["status_code"] = status_code
        with suppress(ApiError):  # over meanwhile
            await self._router.tell(call_id, STATE_EVENT, fields)

    async def _hang_up_media(self, call_id: str) -> None:
        with suppress(ApiError):  # it ended by itself, or its worker did
            await self._router.hang_up(call_id)

    async def _follow_transfer(self, leg: LegRecord, status_code: int) -> None:
        """What the peer says of the call that it was asked to make (RFC 3515), as an event."""
        call_id = leg.call_id
        state = "transferring" if status_code < 200 else "transferred" if status_code < 300 else "transfer_failed"
        await self._tell_state(call_id, state, status_code)
        if state == "transferred" and self._legs.get(call_id) is leg:  # the peer has somebody else now
            self._end(leg, messages.HangUp(call_id, "transferred"))
            await self._hang_up_media(call_id)

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

    @property
    def _addresses(self) -> tuple[str, ...]:
        return self._settings.webrtc.host_addresses or tuple(machine_addresses(include_loopback=False))

    def _password(self) -> str:
        path = Path(self._settings.sip.trunk_password_file).expanduser()
        try:
            return path.read_text(encoding="utf-8").strip()
        except OSError as error:
            log.error("the trunk's password cannot be read", extra={"path": str(path)})
            raise NotEnabledError(
                "The operator's settings for the trunk cannot be used; see the server's log."
            ) from error

    def _request(self, leg: LegRecord, offer: Offer, options: CallOptions) -> OfferRequest:
        options = replace(options, is_telephone=True)
        return OfferRequest(offer, self._addresses, self._kind(leg), options, call_id=leg.call_id)

    def _outgoing(self, leg: LegRecord, options: CallOptions) -> OutgoingRequest:
        return OutgoingRequest(leg.call_id, self._addresses, replace(options, is_telephone=True), self._kind(leg))

    def _kind(self, leg: LegRecord) -> CallKind:
        return "echo" if self._is_echo(leg) else "conversation"

    def _leg(self, call_id: str) -> LegRecord:
        try:
            return self._legs[call_id]
        except KeyError:
            raise CallNotFoundError(f"There is no call '{call_id[:64]}'.") from None

    def _ringing(self, call_id: str) -> LegRecord:
        leg = self._leg(call_id)
        if leg.state is not LegState.RINGING:
            raise CallNotRingingError("This call does not ring any more; it was answered.")
        return leg

    def _refuse(self, leg: LegRecord, error: ApiError) -> None:
        self._end(leg, _refusal(leg.call_id, error))

    def _end(self, leg: LegRecord, last: messages.Command, *, result: str | None = "refused") -> None:
        """The leg is forgotten, and the peer told."""
        if self._legs.get(leg.call_id) is leg:
            if result is not None and leg.state is not LegState.ANSWERED:
                direction = "out" if leg.state is LegState.CALLING else "in"
                metrics.SIP_CALLS.labels(direction, result).inc()
            self._forget(leg)
            self._adapter.send(last)
            if leg.early_answer is not None and leg.state in (LegState.RINGING, LegState.ACCEPTING):
                self._start(self._hang_up_media(leg.call_id), leg.call_id)

    def _forget(self, leg: LegRecord) -> None:
        leg.stop_ringing()
        self._legs.pop(leg.call_id, None)
        if leg.state is LegState.ANSWERED:
            metrics.SIP_CALLS.labels("out" if leg.is_outgoing else "in", "answered").inc()


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
    if name in ("Call-ID", "CSeq"):
        return name
    return "-".join("RTC" if part == "rtc" else part.capitalize() for part in name.lower().split("-"))
