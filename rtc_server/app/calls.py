"""Signaling of the Realtime API: calls are made, changed and ended. Offers themselves are read in `offers`."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from rtc_server.errors import InvalidParameterError, UnsupportedMediaTypeError
from rtc_server.media.node import CallKind
from rtc_server.transports.fragments import read_fragment
from rtc_server.transports.sdp import ice_tag_of

from .context import CONTEXT
from .forms import read_form
from .ice_servers import ice_links
from .ice_sessions import FRAGMENT, SDP, etag, if_match
from .offers import OfferTaker, call_options, read_json, require_echo_test, resumable
from .telephone import dial, hang_up_call

routes = web.RouteTableDef()

FORM_PARTS = ("sdp", "session")


@routes.post("/v1/realtime/calls")
@routes.post("/v1/realtime")
async def create_call(request: web.Request) -> web.Response:
    """An SDP offer, raw or as a form with the session beside it -> 201, the answer, and the call's address in
    `Location`. `/v1/realtime` is what older clients ask. With JSON, a call to somebody's telephone: see `telephone`."""
    if request.content_type == "application/json":
        return await dial(request)
    return await _create(request, "conversation")


@routes.post("/v1/echo")
async def create_echo(request: web.Request) -> web.Response:
    """The same for a call that plays the caller's own audio back."""
    require_echo_test(request)
    return await _create(request, "echo")


@routes.patch("/v1/realtime/calls/{call_id}")
async def update_call(request: web.Request) -> web.Response:
    """More candidates (`application/trickle-ice-sdpfrag`, RFC 8840) -> 204; an offer with new ICE credentials
    (`application/sdp`) -> 200, the new answer and a new `ETag`: the call goes on over another network path. One that
    takes no audio any more puts the call on hold. `If-Match` names the ICE session that is meant, and a fragment with
    "*" restarts it, as in WHIP (RFC 9725 section 4.3); without it, the present one is."""
    router, call_id = request.app[CONTEXT].router, request.match_info["call_id"]
    taker, meant = OfferTaker(request), if_match(request)
    if request.content_type == SDP:
        offer = taker.validate(await request.read(), "change")
        answer = await router.renegotiate(call_id, offer, meant)
        return web.Response(text=answer, content_type=SDP, headers=etag(ice_tag_of(answer)))
    if request.content_type == FRAGMENT:
        fragment = read_fragment(await request.read(), allow_loopback=taker.allows_loopback)
        done = await router.update_ice(call_id, fragment, meant)
        if done.fragment is None:
            return web.Response(status=204)
        return web.Response(text=done.fragment, content_type=FRAGMENT, headers=etag(done.tag))
    raise UnsupportedMediaTypeError(
        "Send candidates as 'Content-Type: application/trickle-ice-sdpfrag' or an offer as 'application/sdp'."
    )


@routes.post("/v1/realtime/calls/{call_id}/hangup")
async def hang_up(request: web.Request) -> web.Response:
    """End a call: 200, or 404 when there is none."""
    await hang_up_call(request, request.match_info["call_id"])
    return web.Response()


@routes.delete("/v1/realtime/calls/{call_id}")
async def delete_call(request: web.Request) -> web.Response:
    """The same as hangup."""
    await hang_up_call(request, request.match_info["call_id"])
    return web.Response()


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
    links = ice_links(request)
    headers |= {"Location": f"/v1/realtime/calls/{answer.call_id}", "Accept-Patch": f"{SDP}, {FRAGMENT}"}
    links.extend({**headers, **etag(answer.ice_tag)})
    return web.Response(status=201, text=answer.sdp, content_type=SDP, headers=links)


async def _read_offer(request: web.Request) -> tuple[bytes, dict[str, Any] | None]:
    """The offer, and the session that comes with it."""
    if request.content_type == SDP:
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
