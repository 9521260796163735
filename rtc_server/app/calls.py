"""Signaling: offers in, answers out, and the end of a call. WebRTC calls of the Realtime API and `/api/offer`."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from aiohttp import web

from rtc_server import metrics
from rtc_server.calls.sessions import CallOptions
from rtc_server.errors import (
    ApiError,
    InvalidJsonError,
    InvalidSdpError,
    NotEnabledError,
    UnsupportedMediaTypeError,
)
from rtc_server.media.node import Answer, CallKind, OfferRequest
from rtc_server.network.addresses import machine_addresses
from rtc_server.transports.sdp import Offer, validate_fragment, validate_offer

from .context import CONTEXT
from .principal import PRINCIPAL
from .remote import is_same_host

routes = web.RouteTableDef()


@routes.post("/v1/realtime/calls")
async def create_call(request: web.Request) -> web.Response:
    """Raw SDP offer -> 201, the answer, and the call's address in `Location`."""
    return await _create(request, "conversation")


@routes.post("/v1/echo")
async def create_echo(request: web.Request) -> web.Response:
    """The same for a call that plays the caller's own audio back."""
    _require_echo_test(request)
    return await _create(request, "echo")


@routes.post("/api/offer")
async def create_call_json(request: web.Request) -> web.Response:
    """`{"sdp", "type": "offer"}` -> `{"sdp", "type": "answer", "pc_id"}`, for simple clients and load generators."""
    return await _create_json(request, "conversation")


@routes.post("/api/echo")
async def create_echo_json(request: web.Request) -> web.Response:
    """The same for a call that plays the caller's own audio back."""
    _require_echo_test(request)
    return await _create_json(request, "echo")


@routes.patch("/v1/realtime/calls/{call_id}")
async def update_call(request: web.Request) -> web.Response:
    """More candidates (`application/trickle-ice-sdpfrag`, RFC 8840) -> 204; an offer with new ICE credentials
    (`application/sdp`) -> 200 and the new answer: the call goes on over another network path."""
    context, call_id = request.app[CONTEXT], request.match_info["call_id"]
    addresses = _host_addresses(request)
    if request.content_type == "application/sdp":
        offer = _validate(request, await request.read(), addresses)
        return web.Response(text=await context.router.restart_ice(call_id, offer), content_type="application/sdp")
    if request.content_type == "application/trickle-ice-sdpfrag":
        body, allow_loopback = await request.read(), _allows_loopback(request, addresses)
        await context.router.add_candidates(call_id, validate_fragment(body, allow_loopback=allow_loopback))
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


async def _create(request: web.Request, kind: CallKind) -> web.Response:
    if request.content_type != "application/sdp":
        raise UnsupportedMediaTypeError("Send the offer as 'Content-Type: application/sdp'.")
    answer = await _answer(request, await request.read(), kind)
    headers = {"Location": f"/v1/realtime/calls/{answer.call_id}"}
    return web.Response(status=201, text=answer.sdp, content_type="application/sdp", headers=headers)


async def _create_json(request: web.Request, kind: CallKind) -> web.Response:
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
    answer = await _answer(request, body, kind)
    return web.json_response({"sdp": answer.sdp, "type": "answer", "pc_id": answer.call_id})


async def _answer(request: web.Request, body: bytes, kind: CallKind = "conversation") -> Answer:
    """Validate, then let the least loaded node answer."""
    context = request.app[CONTEXT]
    addresses = _host_addresses(request)
    offer = _validate(request, body, addresses)
    principal = request[PRINCIPAL]
    options = CallOptions(session=principal.session)
    return await context.router.answer(OfferRequest(offer, addresses, kind, options), principal.caller)


def _host_addresses(request: web.Request) -> tuple[str, ...]:
    """Local addresses to offer this caller: loopback only to callers on this machine, or when configured."""
    configured = request.app[CONTEXT].settings.webrtc.host_addresses
    return configured or tuple(machine_addresses(include_loopback=is_same_host(request)))


def _validate(request: web.Request, body: bytes, addresses: Sequence[str]) -> Offer:
    try:
        return validate_offer(body, allow_loopback=_allows_loopback(request, addresses))
    except ApiError as error:
        metrics.CALLS_REFUSED.labels(error.code).inc()
        raise


def _allows_loopback(request: web.Request, addresses: Sequence[str]) -> bool:
    return is_same_host(request) or any(ipaddress.ip_address(a).is_loopback for a in addresses)


def _require_echo_test(request: web.Request) -> None:
    if not request.app[CONTEXT].settings.server.echo_test:
        raise NotEnabledError("The echo test is off; the operator can turn it on with server.echo_test = true.")
