"""One telephone call as sippy sees it: a dialog, its session timer, and what of it the server has to know.

Runs in the adapter's process and nowhere else.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any, Protocol

from sippy.CCEvents import (
    CCEventConnect,
    CCEventDisconnect,
    CCEventFail,
    CCEventRedirect,
    CCEventRing,
    CCEventTry,
    CCEventUpdate,
)
from sippy.MsgBody import MsgBody
from sippy.SipAddress import SipAddress
from sippy.SipCallId import SipCallId
from sippy.SipContact import SipContact
from sippy.SipFrom import SipFrom
from sippy.SipGenericHF import SipGenericHF
from sippy.SipHeader import SipHeader
from sippy.SipTo import SipTo
from sippy.SipURL import SipURL
from sippy.Time.Timeout import Timeout
from sippy.UA import UA

from . import messages
from .session_timer import IntervalTooSmallError, SessionTimer, agree_as_answerer, agree_as_caller

MAX_HEADERS, MAX_HEADER_CHARS = 64, 1024  # told to the server of one INVITE
MAX_MISSED = 2  # questions without an answer, then a peer is gone
RETRY_REFRESH_SECONDS = 3.0  # a refresh that met another request of the dialog (491, 500)
PRIVATE = frozenset({"via", "route", "record-route", "authorization", "proxy-authorization", "max-forwards", "cseq"})
COMPACT = {"session-expires": "x", "supported": "k", "event": "o", "refer-to": "r", "subject": "s"}
"""Compact forms (RFC 3261 section 7.3.3 and extensions) of headers that sippy keeps as they came."""

ALLOW = "INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE, INFO, NOTIFY"

_DTMF_RELAY = re.compile(r"\s*Signal\s*=\s*([0-9*#A-Da-d])\s", re.IGNORECASE)
_DTMF_PLAIN = re.compile(r"\s*([0-9*#A-Da-d])\s*\Z")
_SIPFRAG = re.compile(r"SIP/2\.0 (\d{3})\b")

REASONS = {
    180: "Ringing",
    183: "Session Progress",
    480: "Temporarily Unavailable",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    491: "Request Pending",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
}


def generic(name: str, text: str) -> Any:
    """The body of a header that sippy has no class for."""
    return SipGenericHF(text, name)


def header(name: str, text: str) -> Any:
    """Such a header."""
    return SipHeader(name=name, body=generic(name, text))


def values(message: Any, name: str) -> list[str]:
    """Of all headers of that name, compact form included."""
    names = (name, COMPACT.get(name, name))
    return [str(h.body) for h in message.headers if h.name in names]


def value(message: Any, name: str) -> str | None:
    """Of the first one."""
    return next(iter(values(message, name)), None)


def text(raw: object) -> str:
    """What was read byte by byte (Latin-1), as the UTF-8 that it is meant to be."""
    return str(raw).encode("latin-1", "replace").decode("utf-8", "replace")


def is_text(body: Any) -> bool:
    """It is UTF-8."""
    try:
        str(body).encode("latin-1", "replace").decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def reason_phrase(code: int) -> str:
    """For a status line."""
    if code in REASONS:
        return REASONS[code]
    try:
        return HTTPStatus(code).phrase
    except ValueError:
        return "Refused"


class Owner(Protocol):
    """The adapter, as a leg sees it."""

    def tell(self, message: messages.Notice) -> None: ...

    def forget(self, leg: Leg) -> None: ...

    @property
    def session_seconds(self) -> int: ...

    @property
    def min_session_seconds(self) -> int: ...

    @property
    def keepalive_seconds(self) -> float: ...


class Leg:
    """Commands go down as methods, what happens goes up as `messages`."""

    def __init__(self, owner: Owner, call_id: str, config: dict[str, Any]) -> None:
        self.call_id = call_id
        self.is_answered = False
        self._owner = owner
        self._config = config
        self._is_ours = False
        self._is_over = False
        self._timer: SessionTimer | None = None
        self._timeout: Any = None
        self._keepalive: Any = None
        self._num_missed = 0
        self._allows_update = False
        self.is_offering = False
        """The INVITE that waits, or whose 200 waits for its ACK, has no description: our offer is in the 200."""
        self._invite_key: tuple[str, str | None, int] | None = None
        self.ua = self._make_ua()

    # --- commands

    def take_invite(self, request: Any) -> Any:
        """Before sippy sees it: a refusal, or None."""
        refusal = self._agree(request)
        if refusal is not None:
            return refusal
        self._allows_update = self._has_update(request)
        self.is_offering = request.getBody() is None
        self._invite_key = _invite_key(request)
        self._headers = _public_headers(request)
        return None

    def is_same_invite(self, request: Any) -> bool:
        """The same INVITE came over another way."""
        return self._invite_key == _invite_key(request)

    def invite(self, command: messages.Invite, proxy: tuple[str, int]) -> None:
        """Call somebody."""
        self._is_ours = True
        credentials = {"username": command.user, "password": command.password} if command.user else {}
        self.ua = self._make_ua(nh_address=proxy, expire_time=command.ring_seconds, **credentials)
        self.ua.extra_headers = [header("Allow", ALLOW)]
        event = _Setup((SipCallId(), "rtc-server", "", _body(command.sdp), None, None))
        event.target, event.caller = command.target, command.caller
        seconds = self._owner.session_seconds
        event.extra_headers = (header("Session-Expires", str(seconds)), header("Supported", "timer"))
        self.ua.recvEvent(event)

    def ring(self, sdp: str | None) -> None:
        """180, or 183 with an answer."""
        code = 180 if sdp is None else 183
        self.ua.recvEvent(CCEventRing((code, reason_phrase(code), None if sdp is None else _body(sdp))))

    def accept(self, sdp: str) -> None:
        """200 to the INVITE, or to the re-INVITE that waits, with our answer, or our offer where we are to offer."""
        self.ua.recvEvent(CCEventConnect((200, "OK", _body(sdp))))
        if not self.is_answered:
            self.is_answered = True
            self._arm()
            self._ask_later()

    def refuse(self, status_code: int, retry_after: int | None) -> None:
        """The same with a refusal; a call that was answered goes on as it was."""
        event = CCEventFail((status_code, reason_phrase(status_code)))
        if retry_after is not None:
            event.extra_headers = (header("Retry-After", str(retry_after)),)
        self.ua.recvEvent(event)
        self.is_offering = False

    def hang_up(self, reason: str) -> None:
        """Whatever it is in."""
        self._is_over = True
        if not self.is_answered and not self._is_ours:
            self.ua.recvEvent(CCEventFail((480, reason_phrase(480))))
            return
        event = CCEventDisconnect()
        if reason:
            event.extra_headers = (header("Reason", f'SIP;cause=200;text="{reason}"'),)
        self.ua.recvEvent(event)

    def refer(self, target: str) -> None:
        """RFC 3515."""
        address = (self._config["_sip_address"], self._config["_sip_port"])
        own = self.ua.lUri.getUrl().localStr((address, "udp"))
        headers = (header("Refer-To", f"<{target}>"), header("Referred-By", f"<{own}>"))
        request = self.ua.genRequest("REFER", extra_headers=headers)
        self.ua.newTransaction(request, resp_cb=self._on_refer_response)

    def close(self) -> None:
        """No timer of ours is left."""
        self._is_over = True
        for timer in (self._timeout, self._keepalive):
            if timer is not None:
                timer.cancel()
        self._timeout = self._keepalive = None

    # --- what the peer does

    def on_request(self, request: Any) -> Any:
        """A request in the dialog that sippy would not answer, or not as we want it: a response; None = sippy's."""
        method = request.getMethod()
        if method == "INVITE":
            if not self.is_answered:
                return None
            if self.is_offering:
                return request.genResponse(491, reason_phrase(491))  # RFC 3261 section 14.2: our offer is not answered
            if request.getBody() is not None:
                if request.getBody().getType() != "application/sdp":
                    return request.genResponse(415, "Unsupported Media Type")
                if not is_text(request.getBody()):
                    return request.genResponse(488, reason_phrase(488))
            return self._refreshed_by(request)
        if method == "UPDATE":
            refusal = self._refreshed_by(request)
            if refusal is not None:
                return refusal
            if request.getBody() is not None:
                return request.genResponse(488, reason_phrase(488))
            response = request.genResponse(200, "OK")
            response.appendHeaders(self._timer_headers())
            response.appendHeader(SipHeader(name="contact", body=self.ua.lContact))
            return response
        if method == "NOTIFY":
            return self._on_notify(request)
        if method == "INFO":
            return self._on_info(request)
        if method == "REFER":
            return request.genResponse(603, "Decline")  # whoever calls us does not send us elsewhere
        if method == "OPTIONS":
            return request.genResponse(200, "OK")
        if method in ("BYE", "ACK", "CANCEL"):
            return None
        return request.genResponse(501, "Not Implemented")

    def on_request_for_offer(self) -> None:
        """A re-INVITE without a description, which `on_request` has let pass."""
        self.is_offering = True
        self._owner.tell(messages.Changed(self.call_id, None))

    def on_response(self, response: Any) -> None:
        """To our INVITE, before sippy looks at it."""
        code, _ = response.getSCode()
        if self._is_ours and not self.is_answered and 200 <= code < 300:
            self._timer = agree_as_caller(
                value(response, "session-expires"),
                preferred=self._owner.session_seconds,
                minimum=self._owner.min_session_seconds,
            )
            self._allows_update = self._has_update(response)

    def response_headers(self, code: int) -> list[Any]:
        """Of our answers to an INVITE."""
        if not 200 <= code < 300:
            return []
        return [*self._timer_headers(), header("Allow", ALLOW)]

    # --- inside

    def _make_ua(self, **arguments: Any) -> Any:
        ua = _Dialog(self._config, self._on_event, **arguments)
        ua.leg = self
        ua.lContact = SipContact()
        ua.lContact.address.name = None  # sipp 3.6 cannot read a Contact with a display name, and never sends its ACK
        ua.useRefer = False
        return ua

    def _on_event(self, event: Any, _: Any) -> None:
        if self._is_over:
            return
        match event:
            case CCEventTry():
                sdp = None if self.is_offering else text(event.getData()[3])
                self._owner.tell(messages.Incoming(self.call_id, self._headers, sdp))
            case CCEventUpdate():
                self._owner.tell(messages.Changed(self.call_id, text(event.getData())))
            case CCEventRing() if self._is_ours:
                code, _reason, body = event.getData()
                if code > 100:
                    sdp = None if body is None else text(body)
                    self._owner.tell(messages.Progress(self.call_id, code, sdp))
            case CCEventConnect() if self._is_ours and not self.is_answered:
                self.is_answered = True
                body = event.getData()[2]
                self._owner.tell(messages.Answered(self.call_id, None if body is None else text(body)))
                self._arm()
                self._ask_later()
            case CCEventConnect() if self.is_offering:
                self.is_offering = False
                body = event.getData()[2]
                is_answer = body is not None and body.getType() == "application/sdp" and is_text(body)
                self._owner.tell(messages.Answered(self.call_id, text(body) if is_answer else None))
                # sippy answers an offer that it has seen before with what it sent last, and that was an offer.
                self.ua.rSDP = None
            case CCEventFail() | CCEventRedirect():
                self._end("refused", int(event.getData()[0]))
            case CCEventDisconnect():
                if self.is_answered:
                    self._end("peer_closed")
                elif self._is_ours:
                    self._end("refused", 408)  # nobody answered in time
                else:
                    self._end("cancelled")

    def _end(self, reason: str, status_code: int | None = None) -> None:
        self._owner.forget(self)
        self._owner.tell(messages.Over(self.call_id, reason, status_code))

    def _on_notify(self, request: Any) -> Any:
        event, body = value(request, "event") or "", request.getBody()
        if not event.lower().startswith("refer"):
            return request.genResponse(489, "Bad Event")
        status = None if body is None else _SIPFRAG.match(str(body))
        if status is not None:
            self._owner.tell(messages.Transfer(self.call_id, int(status[1])))
        return request.genResponse(200, "OK")

    def _on_refer_response(self, response: Any) -> None:
        code, _ = response.getSCode()
        if code >= 300 and not self._is_over:
            self._owner.tell(messages.Transfer(self.call_id, code))

    def _on_info(self, request: Any) -> Any:
        body = request.getBody()
        if body is None:
            return request.genResponse(200, "OK")
        pattern = {"application/dtmf-relay": _DTMF_RELAY, "application/dtmf": _DTMF_PLAIN}.get(body.getType())
        pressed = None if pattern is None else pattern.match(f"{body}\n")
        if pressed is None:
            return request.genResponse(415, "Unsupported Media Type")
        self._owner.tell(messages.Pressed(self.call_id, pressed[1].upper()))
        return request.genResponse(200, "OK")

    # --- the session timer

    def _agree(self, request: Any) -> Any:
        """On the timer that the peer asks for: a refusal, or None."""
        try:
            self._timer = agree_as_answerer(
                value(request, "session-expires"),
                ", ".join(values(request, "supported")),
                preferred=self._owner.session_seconds,
                minimum=self._owner.min_session_seconds,
            )
        except IntervalTooSmallError:
            refusal = request.genResponse(422, "Session Interval Too Small")
            refusal.appendHeader(header("Min-SE", str(self._owner.min_session_seconds)))
            return refusal
        return None

    def _refreshed_by(self, request: Any) -> Any:
        refusal = self._agree(request)
        if refusal is None:
            self._arm()
        return refusal

    def _timer_headers(self) -> list[Any]:
        timer = self._timer
        if timer is None or not timer.is_known:
            return [header("Supported", "timer")]
        headers = [header("Supported", "timer"), header("Session-Expires", timer.header(is_answerer=True))]
        return headers if timer.is_ours else [*headers, header("Require", "timer")]

    def _arm(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        timer = self._timer
        if timer is None or self._is_over or not self.is_answered:
            return
        if timer.is_ours:
            self._timeout = Timeout(self._refresh, timer.refresh_after)
        else:
            self._timeout = Timeout(self._expire, timer.ends_after)

    def _refresh(self) -> None:
        """UPDATE carries no media description, so nothing of it can go wrong on the way. A peer without it is asked by
        OPTIONS: whoever does not know the dialog any more answers 481."""
        self._timeout = None
        timer = self._timer
        if self._is_over or timer is None:
            return
        headers = (header("Session-Expires", timer.header(is_answerer=False)), header("Supported", "timer"))
        method = "UPDATE" if self._allows_update else "OPTIONS"
        request = self.ua.genRequest(method, extra_headers=headers if self._allows_update else None)
        self.ua.newTransaction(request, resp_cb=self._on_refreshed)

    def _on_refreshed(self, response: Any) -> None:
        code, _ = response.getSCode()
        if code < 200 or self._is_over:
            return
        if code in (408, 481):
            self._expire()
        elif code in (491, 500):
            self._timeout = Timeout(self._refresh, RETRY_REFRESH_SECONDS)
        else:
            if code in (405, 501):
                self._allows_update = False
            self._arm()

    def _ask_later(self) -> None:
        """The relay in between answers for the media of a peer that has vanished, so nothing else would tell."""
        if not self._is_over:
            self._keepalive = Timeout(self._ask, self._owner.keepalive_seconds)

    def _ask(self) -> None:
        self._keepalive = None
        if not self._is_over:
            self.ua.newTransaction(self.ua.genRequest("OPTIONS"), resp_cb=self._on_asked)

    def _on_asked(self, response: Any) -> None:
        code, _ = response.getSCode()
        if code < 200 or self._is_over:
            return
        # 408 and 481: nobody there, or nobody who knows this call. Whatever else it says, it is there.
        self._num_missed = self._num_missed + 1 if code in (408, 481) else 0
        if code == 481 or self._num_missed >= MAX_MISSED:
            self._expire()
        else:
            self._ask_later()

    def _expire(self) -> None:
        self.hang_up("session_expired")
        self._end("session_expired")

    @staticmethod
    def _has_update(message: Any) -> bool:
        return any("UPDATE" in line.upper() for line in values(message, "allow"))


class _Setup(CCEventTry):  # type: ignore[misc]  # sippy has no types
    """Our INVITE, with addresses of our own instead of the proxy's."""

    target = ""
    caller = ""

    def onUacSetupComplete(self, uac: Any) -> None:
        """Called by sippy before the INVITE is made."""
        tag = uac.lUri.getTag()
        uac.rTarget = SipURL(self.target)
        uac.rUri = SipTo(address=SipAddress(url=SipURL(self.target), hadbrace=True))
        uac.lUri = SipFrom(address=SipAddress(url=SipURL(self.caller), hadbrace=True))
        uac.lUri.setTag(tag)


class _Dialog(UA):  # type: ignore[misc]
    """sippy's user agent, asking the leg first."""

    leg: Leg
    rCSeq: int | None

    def recvRequest(self, req: Any, sip_t: Any) -> Any:
        """See `UA`."""
        number = req.getHFBody("cseq").getCSeqNum()
        is_new = self.rCSeq is None or number > self.rCSeq
        if self.state is not None and is_new:
            response = self.leg.on_request(req)
            if response is not None:
                self.rCSeq = number
                return (response, None, None)
            is_invite = req.getMethod() == "INVITE"
            if is_invite and req.getBody() is None and isinstance(self.state, self.UaStateConnected):
                self.rCSeq = number
                return self._be_asked_to_offer(req)
        return super().recvRequest(req, sip_t)

    def _be_asked_to_offer(self, req: Any) -> Any:
        """A re-INVITE without a description: sippy would take it for hold."""
        self.uasResp = req.genResponse(100, "Trying", server=self.local_ua)
        self.global_config["_sip_tm"].sendResponse(self.uasResp)
        self.changeState((self.UasStateUpdating,))
        self.leg.on_request_for_offer()
        return (None, self.state.cancel, self.disconnect)

    def recvResponse(self, resp: Any, tr: Any) -> None:
        """See `UA`."""
        self.leg.on_response(resp)
        super().recvResponse(resp, tr)

    def sendUasResponse(
        self,
        scode: int,
        reason: str,
        body: Any = None,
        contacts: Any = None,
        extra_headers: Any = None,
        ack_wait: bool = False,
    ) -> None:
        """See `UA`."""
        headers = (*(extra_headers or ()), *self.leg.response_headers(scode))
        ack_wait = ack_wait or (self.leg.is_offering and 200 <= scode < 300)
        super().sendUasResponse(scode, reason, body, contacts, headers or None, ack_wait)


def _body(sdp: str) -> Any:
    body = MsgBody(sdp)
    body.needs_update = False
    return body


def _invite_key(request: Any) -> tuple[str, str | None, int]:
    call_id, tag = str(request.getHFBody("call-id")), request.getHFBody("from").getTag()
    return call_id, tag, request.getHFBody("cseq").getCSeqNum()


def _public_headers(request: Any) -> tuple[tuple[str, str], ...]:
    shown = [h for h in request.headers if h.name not in PRIVATE][:MAX_HEADERS]
    return tuple((str(h.body.getCanName(h.name)), text(h.body)[:MAX_HEADER_CHARS]) for h in shown)
