"""Signaling of the Realtime API: calls are made, changed and ended. Offers themselves are read in `offers`."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from rtc_server.errors import CallNotFoundError, CallNotRingingError, InvalidParameterError, UnsupportedMediaTypeError
from rtc_server.media.node import CallKind
from rtc_server.transports.fragments import read_fragment

from .context import CONTEXT
from .forms import read_form
from .offers import (
    OfferTaker,
    call_options,
    read_json,
    read_json_object,
    require_echo_test,
    resumable,
    session_of,
)

routes = web.RouteTableDef()

FORM_PARTS = ("sdp", "session")


@routes.post("/v1/realtime/calls")
@routes.post("/v1/realtime")
async def create_call(request: web.Request) -> web.Response:
    """An SDP offer, raw or as a form with the session beside it -> 201, the answer, and the call's address in
    `Location`. `/v1/realtime` is what older clients ask."""
    return await _create(request, "conversation")


@routes.post("/v1/echo")
async def create_echo(request: web.Request) -> web.Response:
    """The same for a call that plays the caller's own audio back."""
    require_echo_test(request)
    return await _create(request, "echo")


@routes.patch("/v1/realtime/calls/{call_id}")
async def update_call(request: web.Request) -> web.Response:
    """More candidates (`application/trickle-ice-sdpfrag`, RFC 8840) -> 204; an offer with new ICE credentials
    (`application/sdp`) -> 200 and the new answer: the call goes on over another network path. One that takes no audio
    any more puts the call on hold."""
    context, call_id = request.app[CONTEXT], request.match_info["call_id"]
    taker = OfferTaker(request)
    if request.content_type == "application/sdp":
        offer = taker.validate(await request.read(), "change")
        return web.Response(text=await context.router.renegotiate(call_id, offer), content_type="application/sdp")
    if request.content_type == "application/trickle-ice-sdpfrag":
        fragment = read_fragment(await request.read(), allow_loopback=taker.allows_loopback)
        await context.router.add_candidates(call_id, fragment.candidates)
        return web.Response(status=204)
    raise UnsupportedMediaTypeError(
        "Send candidates as 'Content-Type: application/trickle-ice-sdpfrag' or an offer as 'application/sdp'."
    )


@routes.post("/v1/realtime/calls/{call_id}/hangup")
async def hang_up(request: web.Request) -> web.Response:
    """End a call: 200, or 404 when there is none."""
    await request.app[CONTEXT].router.hang_up(request.match_info["call_id"])
    return web.Response()


@routes.delete("/v1/realtime/calls/{call_id}")
async def delete_call(request: web.Request) -> web.Response:
    """The same as hangup."""
    await request.app[CONTEXT].router.hang_up(request.match_info["call_id"])
    return web.Response()


# --- telephone calls: there are none yet, so no call can ring


@routes.post("/v1/realtime/calls/{call_id}/accept")
async def accept_call(request: web.Request) -> web.Response:
    """Answer a ringing call with a session."""
    _require_call(request)
    session_of(request, read_json_object(await request.read()))
    raise _not_ringing()


@routes.post("/v1/realtime/calls/{call_id}/reject")
async def reject_call(request: web.Request) -> web.Response:
    """Refuse a ringing call with a SIP status, 603 without a body."""
    _require_call(request)
    body = await request.read()
    status = read_json_object(body).get("status_code", 603) if body.strip() else 603
    if not isinstance(status, int) or isinstance(status, bool) or not 400 <= status <= 699:
        raise InvalidParameterError("status_code must be a SIP status from 400 to 699.", param="status_code")
    raise _not_ringing()


@routes.post("/v1/realtime/calls/{call_id}/refer")
async def refer_call(request: web.Request) -> web.Response:
    """Hand a call over to somebody else."""
    _require_call(request)
    target = read_json_object(await request.read()).get("target_uri")
    if not isinstance(target, str) or not target.startswith(("tel:", "sip:", "sips:")) or len(target) > 512:
        raise InvalidParameterError("target_uri must be a 'tel:' or 'sip:' address.", param="target_uri")
    raise _not_ringing()


def _require_call(request: web.Request) -> None:
    call_id = request.match_info["call_id"]
    if not request.app[CONTEXT].router.carries(call_id):
        raise CallNotFoundError(f"There is no call '{call_id[:64]}'.")


def _not_ringing() -> CallNotRingingError:
    return CallNotRingingError("This is no telephone call that rings; it runs already, over WebRTC.")


# --- making calls


async def _create(request: web.Request, kind: CallKind) -> web.Response:
    body, patch = await _read_offer(request)
    taker, options = OfferTaker(request), call_options(request, patch)
    offer = taker.validate(body)
    if kind == "echo":
        answer, headers = await taker.answer_offer(offer, kind, options), {}
    else:
        async with resumable(request, options) as starting:
            answer = await taker.answer_offer(offer, kind, starting.options)
            starting.started(answer.call_id)
        headers = starting.headers
    headers["Location"] = f"/v1/realtime/calls/{answer.call_id}"
    return web.Response(status=201, text=answer.sdp, content_type="application/sdp", headers=headers)


async def _read_offer(request: web.Request) -> tuple[bytes, dict[str, Any] | None]:
    """The offer, and the session that comes with it."""
    if request.content_type == "application/sdp":
        return await request.read(), None
    if request.content_type == "multipart/form-data":
        parts = read_form(request.headers["Content-Type"], await request.read(), FORM_PARTS)
        if "sdp" not in parts:
            raise InvalidParameterError("The form has no part 'sdp'.", param="sdp", code="missing_required_parameter")
        if "session" not in parts:
            return parts["sdp"], None
        session = read_json(parts["session"])
        if not isinstance(session, dict):
            raise InvalidParameterError("The part 'session' must be a JSON object.", param="session")
        return parts["sdp"], session
    raise UnsupportedMediaTypeError("Send the offer as 'Content-Type: application/sdp' or 'multipart/form-data'.")
