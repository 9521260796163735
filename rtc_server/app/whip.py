"""WHIP (RFC 9725) and WHEP (draft-ietf-wish-whep): calls for whoever knows how to push or play a stream.

A WHIP call is a call like any other. One that was offered `sendonly` cannot hear its replies; its reply names the
address where a WHEP player can.
"""

from __future__ import annotations

from aiohttp import web
from multidict import CIMultiDict

from rtc_server.errors import (
    CallNotFoundError,
    InvalidParameterError,
    UnsupportedMediaTypeError,
)
from rtc_server.media.node import Answer
from rtc_server.transports.fragments import read_fragment

from .context import CONTEXT
from .ice_servers import ice_links
from .ice_sessions import FRAGMENT, SDP, etag, if_match
from .offers import OfferTaker, call_options, resumable
from .principal import require_control

routes = web.RouteTableDef()

WHEP_RELATION = "urn:ietf:params:whip:ext:rtc-server:whep"
PREFIXES = {"whip": "rtc_", "whep": "whep_"}  # of ids: an address of one protocol does not reach into the other
ENDPOINT_METHODS = "GET, HEAD, OPTIONS, POST"
SESSION_METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH"


# --- endpoints


@routes.post("/whip")
async def publish(request: web.Request) -> web.Response:
    """An offer -> 201, the answer, and the session's address."""
    _require_type(request, SDP)
    taker = OfferTaker(request)
    offer = taker.validate(await request.read())
    async with resumable(request, call_options(request, None)) as starting:
        answer = await taker.answer_offer(offer, "conversation", starting.options)
        starting.started(answer.call_id)
    headers = _created(request, f"/whip/{answer.call_id}", answer)
    headers.update(starting.headers)
    if not offer.takes_audio:
        headers.add("Link", f'</whep?call={answer.call_id}>; rel="{WHEP_RELATION}"')
    return web.Response(status=201, text=answer.sdp, content_type=SDP, headers=headers)


@routes.post("/whep")
async def play(request: web.Request) -> web.Response:
    """An offer to hear the replies of the WHIP call that `?call=` names -> 201, the answer, the session's address."""
    _require_type(request, SDP)
    call_id = request.query.get("call")
    if call_id is None:
        raise InvalidParameterError(
            "Name the WHIP call to hear: /whep?call=rtc_...", param="call", code="missing_required_parameter"
        )
    require_control(request, call_id)
    answer = await OfferTaker(request).listen(call_id, await request.read())
    headers = _created(request, f"/whep/{answer.call_id}", answer)
    return web.Response(status=201, text=answer.sdp, content_type=SDP, headers=headers)


@routes.options("/{protocol:whip|whep}")
async def endpoint_options(request: web.Request) -> web.Response:
    """What the endpoint takes. Eyevinn's client reads the ICE servers here, and trickles only if PATCH is named."""
    headers = ice_links(request)
    headers["Allow"] = ENDPOINT_METHODS
    headers["Accept-Post"] = SDP
    headers["Access-Control-Allow-Methods"] = "POST, PATCH, DELETE, GET, OPTIONS"
    return web.Response(status=204, headers=headers)


@routes.get("/{protocol:whip|whep}")
async def endpoint_get(request: web.Request) -> web.Response:
    """Reserved by the RFC; says nothing."""
    return web.Response(status=204)


# --- sessions


@routes.patch("/{protocol:whip|whep}/{session_id}")
async def update(request: web.Request) -> web.Response:
    """Candidates -> 204; an ICE restart (`If-Match: "*"`) -> 200, a new `ETag`, and the server's side of it."""
    session_id = _session_id(request)
    _require_type(request, FRAGMENT)
    fragment = read_fragment(await request.read(), allow_loopback=OfferTaker(request).allows_loopback)
    done = await request.app[CONTEXT].router.update_ice(session_id, fragment, if_match(request))
    if done.fragment is None:
        return web.Response(status=204)
    return web.Response(text=done.fragment, content_type=FRAGMENT, headers=etag(done.tag))


@routes.delete("/{protocol:whip|whep}/{session_id}")
async def end(request: web.Request) -> web.Response:
    """End the session; what `If-Match` says does not matter."""
    await request.app[CONTEXT].router.hang_up(_session_id(request))
    return web.Response()


@routes.get("/{protocol:whip|whep}/{session_id}")
async def session_get(request: web.Request) -> web.Response:
    """Reserved by the RFC; says only that the session is there."""
    _session_id(request)
    return web.Response(status=204)


@routes.options("/{protocol:whip|whep}/{session_id}")
async def session_options(request: web.Request) -> web.Response:
    """What a session takes; told without a look at whether it is there, as nobody says who asks."""
    headers = {"Allow": SESSION_METHODS, "Accept-Patch": FRAGMENT}
    headers["Access-Control-Allow-Methods"] = "PATCH, DELETE, GET, OPTIONS"
    return web.Response(status=204, headers=headers)


# --- inside


def _require_type(request: web.Request, wanted: str) -> None:
    if request.content_type != wanted:
        raise UnsupportedMediaTypeError(f"Send the body as 'Content-Type: {wanted}'.")


def _session_id(request: web.Request) -> str:
    """The id in the path. Raises CallNotFoundError for one that is not there."""
    session_id = request.match_info["session_id"]
    prefix = PREFIXES[request.match_info["protocol"]]
    if not session_id.startswith(prefix) or not request.app[CONTEXT].router.carries(session_id):
        raise CallNotFoundError(f"There is no session '{session_id[:64]}'.")
    return session_id


def _created(request: web.Request, location: str, answer: Answer) -> CIMultiDict[str]:
    headers = ice_links(request)
    headers["Location"] = location
    headers.update(etag(answer.ice_tag))
    headers["Accept-Patch"] = FRAGMENT
    return headers
