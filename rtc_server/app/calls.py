"""Signaling: offers in, answers out, and the end of a call. WebRTC calls of the Realtime API and `/api/offer`."""

from __future__ import annotations

import ipaddress

from aiohttp import web

from rtc_server import metrics
from rtc_server.errors import ApiError, InvalidJsonError, InvalidSdpError, UnsupportedMediaTypeError
from rtc_server.transports.aiortc_seams import machine_addresses
from rtc_server.transports.sdp import Offer, validate_offer
from rtc_server.transports.webrtc import WebRtcOptions, WebRtcTransport

from .context import CONTEXT, AppContext

routes = web.RouteTableDef()

FORWARDING_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Real-IP")


@routes.post("/v1/realtime/calls")
async def create_call(request: web.Request) -> web.Response:
    """Raw SDP offer -> 201, the answer, and the call's address in `Location`."""
    if request.content_type != "application/sdp":
        raise UnsupportedMediaTypeError("Send the offer as 'Content-Type: application/sdp'.")
    call_id, answer = await _answer(request, await request.read())
    headers = {"Location": f"/v1/realtime/calls/{call_id}", "Access-Control-Expose-Headers": "Location"}
    return web.Response(status=201, text=answer, content_type="application/sdp", headers=headers)


@routes.post("/api/offer")
async def create_call_json(request: web.Request) -> web.Response:
    """`{"sdp", "type": "offer"}` -> `{"sdp", "type": "answer", "pc_id"}`, for simple clients and load generators."""
    if request.content_type != "application/json":
        raise UnsupportedMediaTypeError("Send the offer as 'Content-Type: application/json'.")
    try:
        payload = await request.json()
    except (ValueError, RecursionError) as error:
        raise InvalidJsonError("The request body is not valid JSON.") from error
    if not isinstance(payload, dict) or payload.get("type") != "offer" or not isinstance(payload.get("sdp"), str):
        raise InvalidSdpError('The body must be {"type": "offer", "sdp": "..."}.', param="sdp")
    try:
        body = payload["sdp"].encode()
    except UnicodeEncodeError as error:
        raise InvalidSdpError("The SDP offer is not valid text.") from error
    call_id, answer = await _answer(request, body)
    return web.json_response({"sdp": answer, "type": "answer", "pc_id": call_id})


@routes.post("/v1/realtime/calls/{call_id}/hangup")
async def hang_up(request: web.Request) -> web.Response:
    """End a call: 200, or 404 when there is none."""
    await request.app[CONTEXT].registry.get(request.match_info["call_id"]).hang_up()
    return web.Response()


@routes.delete("/v1/realtime/calls/{call_id}")
async def delete_call(request: web.Request) -> web.Response:
    """The same as hangup."""
    await request.app[CONTEXT].registry.get(request.match_info["call_id"]).hang_up()
    return web.Response()


async def _answer(request: web.Request, body: bytes) -> tuple[str, str]:
    """Validate, take a slot, answer. The slot is given back if anything goes wrong on the way."""
    context = request.app[CONTEXT]
    is_same_host = _is_same_host(request)
    addresses = list(context.settings.webrtc.host_addresses)
    if not addresses:
        addresses = machine_addresses(include_loopback=is_same_host)
    allow_loopback = is_same_host or any(ipaddress.ip_address(a).is_loopback for a in addresses)
    try:
        offer = validate_offer(body, allow_loopback=allow_loopback)
    except ApiError as error:
        metrics.CALLS_REFUSED.labels(error.code).inc()
        raise
    slot = context.registry.reserve()
    try:
        transport, answer = await _answer_offer(context, offer, addresses)
        return slot.start(transport).call_id, answer
    finally:
        slot.release()


async def _answer_offer(context: AppContext, offer: Offer, addresses: list[str]) -> tuple[WebRtcTransport, str]:
    transport = WebRtcTransport(
        WebRtcOptions(
            host_addresses=addresses,
            ice_servers=context.settings.webrtc.ice_servers,
            setup_timeout_seconds=context.settings.server.setup_timeout_seconds,
        )
    )
    try:
        return transport, await transport.answer(offer)
    except BaseException:  # cancelled or failed: nobody else knows this transport yet
        await transport.close()
        raise


def _is_same_host(request: web.Request) -> bool:
    """The caller runs on this machine, and no proxy says that it speaks for somebody else."""
    if request.remote is None or any(name in request.headers for name in FORWARDING_HEADERS):
        return False
    try:
        return ipaddress.ip_address(request.remote).is_loopback
    except ValueError:
        return False
