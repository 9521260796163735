"""`/api/offer`: calls for Pipecat's SmallWebRTC clients and for simple ones, such as load generators.

Pipecat's clients send more than an offer (`pc_id`, `restart_pc`, request data) and talk RTVI over a data channel that
they name themselves; whoever sends just an offer gets a plain call with the Realtime events on `oai-events`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from rtc_server.errors import (
    CallEndedError,
    CallNotFoundError,
    InvalidParameterError,
    InvalidSdpError,
    UnsupportedMediaTypeError,
)
from rtc_server.media.node import CallKind
from rtc_server.transports.sdp import MAX_CANDIDATES, Offer, is_usable_candidate

from .context import CONTEXT
from .ice_servers import ice_server_list
from .offers import OfferTaker, call_options, read_json, read_json_object, require_echo_test, session_of
from .principal import require_control

routes = web.RouteTableDef()

MAX_STARTED = 1_024  # sessions asked for with /start whose call may not have come yet; the oldest make room
STARTED_SECONDS = 600.0  # that a client has for its offer
MARKS = ("pc_id", "restart_pc", "request_data", "requestData")  # of Pipecat's clients, in every offer of theirs
MAX_CANDIDATE_CHARS = 512


@dataclass(frozen=True, slots=True)
class Started:
    session: Mapping[str, Any] | None
    expires_at: float


class StartedSessions:
    """What `/start` promised. Bounded in number and in time."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, Started] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: Mapping[str, Any] | None, now: float) -> str:
        """Returns the new session's id."""
        while self._sessions and next(iter(self._sessions.values())).expires_at <= now:
            self._sessions.popitem(last=False)
        while len(self._sessions) >= MAX_STARTED:
            self._sessions.popitem(last=False)
        session_id = secrets.token_urlsafe(15)
        self._sessions[session_id] = Started(session, now + STARTED_SECONDS)
        return session_id

    def get(self, session_id: str, now: float) -> Started:
        """Raises CallNotFoundError."""
        started = self._sessions.get(session_id)
        if started is None or started.expires_at <= now:
            raise CallNotFoundError(f"There is no session '{session_id[:64]}', or its offer came too late.")
        return started


STARTED: web.AppKey[StartedSessions] = web.AppKey("started_sessions", StartedSessions)


@routes.post("/start")
async def start(request: web.Request) -> web.Response:
    """Before an offer: an id to send it under, and the ICE servers. `{"body": {"session": {...}}}` is the session."""
    data = await request.read()
    payload = read_json_object(data) if data.strip() else {}
    session = _session_in(payload.get("body"))
    session_of(request, session or {})  # refused now rather than when somebody waits for an answer
    session_id = request.app[STARTED].add(session, asyncio.get_running_loop().time())
    return web.json_response({"sessionId": session_id, "iceConfig": ice_config(request)})


@routes.post("/api/offer")
@routes.post("/sessions/{session_id}/api/offer")
async def create_call(request: web.Request) -> web.Response:
    """`{"sdp", "type": "offer"}` -> `{"sdp", "type": "answer", "pc_id"}`: a new call, or with the `pc_id` of a running
    one a new description of it."""
    return await _create(request, "conversation")


@routes.post("/api/echo")
async def create_echo(request: web.Request) -> web.Response:
    """The same for a call that plays the caller's own audio back."""
    require_echo_test(request)
    return await _create(request, "echo")


@routes.patch("/api/offer")
@routes.patch("/sessions/{session_id}/api/offer")
async def add_candidates(request: web.Request) -> web.Response:
    """`{"pc_id", "candidates": [{"candidate", "sdp_mid", "sdp_mline_index"}]}` -> `{"status": "success"}`."""
    _require_json(request)
    payload = read_json_object(await request.read())
    call_id, entries = payload.get("pc_id"), payload.get("candidates")
    if not isinstance(call_id, str):
        raise InvalidParameterError("pc_id must be the id that the answer named.", param="pc_id")
    if not isinstance(entries, list) or len(entries) > 4 * MAX_CANDIDATES:
        raise InvalidParameterError(f"candidates must be a list, of at most {4 * MAX_CANDIDATES}.", param="candidates")
    require_control(request, call_id)
    # Those of other m-lines are for transports that the bundle has made superfluous.
    candidates = [_candidate(entry) for entry in entries if _is_bundled(entry)]
    allow_loopback = OfferTaker(request).allows_loopback
    usable = tuple(
        dict.fromkeys(c for c in candidates if not c or is_usable_candidate(c, allow_loopback=allow_loopback))
    )
    await request.app[CONTEXT].router.add_candidates(call_id, usable)
    return web.json_response({"status": "success"})


def ice_config(request: web.Request) -> dict[str, Any]:
    """The ICE servers as browsers want them."""
    return {"iceServers": ice_server_list(request)}


async def _create(request: web.Request, kind: CallKind) -> web.Response:
    _require_json(request)
    payload = read_json(await request.read())
    if not isinstance(payload, dict) or payload.get("type") != "offer" or not isinstance(payload.get("sdp"), str):
        raise InvalidSdpError('The body must be {"type": "offer", "sdp": "..."}.', param="sdp")
    try:
        body = payload["sdp"].encode()
    except UnicodeEncodeError as error:
        raise InvalidSdpError("The SDP offer is not valid text.") from error
    taker = OfferTaker(request)
    offer = taker.validate(body)
    previous = payload.get("pc_id")
    if isinstance(previous, str):
        answer = await _renegotiate(request, previous, offer, restart=payload.get("restart_pc") is True)
        if answer is not None:
            return _answer(previous, answer)
    session = _session_in(payload.get("request_data", payload.get("requestData")))
    is_pipecat = any(mark in payload for mark in MARKS)
    if "session_id" in request.match_info:
        started = request.app[STARTED].get(request.match_info["session_id"], asyncio.get_running_loop().time())
        session, is_pipecat = session or started.session, True
    options = call_options(request, session, "rtvi" if is_pipecat else None)
    made = await taker.answer_offer(offer, kind, options)
    return _answer(made.call_id, made.sdp)


async def _renegotiate(request: web.Request, call_id: str, offer: Offer, *, restart: bool) -> str | None:
    """The answer for a call that runs; None when there is none, or when the client has made its peer connection anew:
    then the old call is over."""
    router = request.app[CONTEXT].router
    try:
        require_control(request, call_id)
        if restart:
            await router.hang_up(call_id)
            return None
        return await router.renegotiate(call_id, offer)
    except (CallNotFoundError, CallEndedError):
        return None


def _answer(call_id: str, sdp: str) -> web.Response:
    return web.json_response({"sdp": sdp, "type": "answer", "pc_id": call_id})


def _require_json(request: web.Request) -> None:
    if request.content_type != "application/json":
        raise UnsupportedMediaTypeError("Send the body as 'Content-Type: application/json'.")


def _is_bundled(entry: object) -> bool:
    return not isinstance(entry, dict) or entry.get("sdp_mline_index") in (None, 0)


def _candidate(entry: object) -> str:
    """Without its prefix; "" ends the candidates. Raises InvalidParameterError."""
    text = entry.get("candidate") if isinstance(entry, dict) else None
    if not isinstance(text, str) or len(text) > MAX_CANDIDATE_CHARS or not text.isprintable():
        message = 'A candidate must be {"candidate": "candidate:...", "sdp_mid", "sdp_mline_index"}.'
        raise InvalidParameterError(message, param="candidates")
    return text.removeprefix("candidate:").strip()


def _session_in(data: object) -> Mapping[str, Any] | None:
    """What an application passes on to its bot may hold a session of the API; the rest means nothing here."""
    session = data.get("session") if isinstance(data, dict) else None
    if session is not None and not isinstance(session, dict):
        raise InvalidParameterError("'session' must be a session object.", param="session")
    return session
