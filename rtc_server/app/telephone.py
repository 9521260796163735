"""Telephone calls over HTTP, as OpenAI's API has them: accept, reject and refer; and ours, which calls somebody.

What happens to a call afterwards (hangup, sidebands) is as with any other.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from rtc_server.errors import CallNotFoundError, CallNotRingingError, InvalidParameterError, NotEnabledError
from rtc_server.sip.addresses import parse_address
from rtc_server.sip.service import SipService

from .context import CONTEXT
from .offers import call_options, read_json_object, session_of
from .principal import PRINCIPAL, require_dialling

routes = web.RouteTableDef()

DECLINE = 603
"""RFC 3261 section 21.6.2: what a call is rejected with that nobody said more about."""


@routes.post("/v1/realtime/calls/{call_id}/accept")
async def accept_call(request: web.Request) -> web.Response:
    """Answer a ringing call, with a session: 200. From then on it belongs to who accepted it."""
    call_id = request.match_info["call_id"]
    _require_call(request, call_id)
    session = session_of(request, read_json_object(await request.read()))
    await _telephony(request, call_id).accept(call_id, session)
    request.app[CONTEXT].router.owners.give(call_id, request[PRINCIPAL].owner)
    return web.Response()


@routes.post("/v1/realtime/calls/{call_id}/reject")
async def reject_call(request: web.Request) -> web.Response:
    """Refuse a ringing call with a SIP status, 603 where the body has none: 200."""
    call_id = request.match_info["call_id"]
    _require_call(request, call_id)
    body = await request.read()
    status = read_json_object(body).get("status_code", DECLINE) if body.strip() else DECLINE
    if not isinstance(status, int) or isinstance(status, bool) or not 400 <= status <= 699:
        raise InvalidParameterError("status_code must be a SIP status from 400 to 699.", param="status_code")
    await _telephony(request, call_id).reject(call_id, status)
    return web.Response()


@routes.post("/v1/realtime/calls/{call_id}/refer")
async def refer_call(request: web.Request) -> web.Response:
    """Hand an answered call over to somebody else: 200 once its peer was asked to."""
    call_id = request.match_info["call_id"]
    _require_call(request, call_id)
    target = _target(read_json_object(await request.read()))
    await _telephony(request, call_id).refer(call_id, target)
    return web.Response()


async def dial(request: web.Request) -> web.Response:
    """`POST /v1/realtime/calls` with JSON (ours): call `target_uri`, with `session` -> 201 and the call's address in
    `Location` while it rings there."""
    require_dialling(request)
    payload = read_json_object(await request.read())
    for name in payload:
        if name not in ("target_uri", "session"):
            message = f"The body has a field '{name[:64]}'; its fields are 'target_uri' and 'session'."
            raise InvalidParameterError(message, param=name[:64], code="unknown_parameter")
    target, session = _target(payload), payload.get("session")
    if session is not None and not isinstance(session, dict):
        raise InvalidParameterError("'session' must be a JSON object.", param="session")
    telephony = request.app[CONTEXT].telephony
    if telephony is None:
        raise NotEnabledError("There are no telephone calls here; the operator can turn them on with sip.enabled.")
    call_id = await telephony.dial(target, call_options(request, session), request[PRINCIPAL].caller)
    headers = {"Location": f"/v1/realtime/calls/{call_id}"}
    return web.json_response({"call_id": call_id}, status=201, headers=headers)


@routes.get("/v1/realtime/calls/{call_id}")
async def outcome(request: web.Request) -> web.Response:
    """What came of a telephone call that was made from here (ours): it rings, was answered, or failed, and why."""
    call_id = request.match_info["call_id"]
    telephony = request.app[CONTEXT].telephony
    if telephony is None:
        raise CallNotFoundError(f"There is no call '{call_id[:64]}' that was made from here.")
    found = telephony.outcome(call_id)
    status = {} if found.status_code is None else {"status_code": found.status_code}
    return web.json_response({"call_id": call_id, "state": found.state, **status})


async def hang_up_call(request: web.Request, call_id: str) -> None:
    """End a call of any kind. Raises CallNotFoundError."""
    context = request.app[CONTEXT]
    if context.telephony is not None and context.telephony.carries(call_id):
        await context.telephony.hang_up(call_id)
    else:
        await context.router.hang_up(call_id)


def _require_call(request: web.Request, call_id: str) -> None:
    """Raises CallNotFoundError."""
    context = request.app[CONTEXT]
    if context.telephony is not None and context.telephony.carries(call_id):
        return
    if not context.router.carries(call_id):
        raise CallNotFoundError(f"There is no call '{call_id[:64]}'.")


def _telephony(request: web.Request, call_id: str) -> SipService:
    """Who carries the call. Raises CallNotRingingError for one that is no telephone call."""
    telephony = request.app[CONTEXT].telephony
    if telephony is None or not telephony.carries(call_id):
        _require_call(request, call_id)  # it may have ended while the body was read
        raise CallNotRingingError("This is no telephone call that rings; it runs already, over WebRTC.")
    return telephony


def _target(payload: dict[str, Any]) -> str:
    target = payload.get("target_uri")
    if not isinstance(target, str):
        raise InvalidParameterError("target_uri must be a 'tel:' or 'sip:' address.", param="target_uri")
    try:
        parse_address(target)
    except ValueError as error:
        raise InvalidParameterError(str(error), param="target_uri") from error
    return target
