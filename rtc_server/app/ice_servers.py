"""STUN and TURN servers for callers, over HTTP: whoever may make a call may ask for them."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from rtc_server.limits import address_key
from rtc_server.relays.ice_servers import IceServers

from .auth import Visitor
from .context import CONTEXT
from .principal import PRINCIPAL

routes = web.RouteTableDef()


@routes.get("/v1/realtime/ice-servers")
async def ice_servers(request: web.Request) -> web.Response:
    """For the caller's next call, in snake case as the API writes, and as `RTCPeerConnection` takes them."""
    found = ice_server_list(request)
    body = {"ice_servers": found, "iceServers": found, "ttl": _known(request).ttl_seconds}
    return web.json_response(body, headers={"Cache-Control": "no-store"})


def ice_server_list(request: web.Request) -> list[dict[str, Any]]:
    """As `RTCPeerConnection` takes them, for whoever asks."""
    return _known(request).for_caller(_caller(request), time.time())


def ice_links(request: web.Request) -> CIMultiDict[str]:
    """`Link` headers for whoever asks; only what needs no credentials for somebody who is not known."""
    caller = _caller(request) if request.get(PRINCIPAL) is not None else None
    return _known(request).links(caller, time.time())


def _known(request: web.Request) -> IceServers:
    servers = request.app[CONTEXT].ice_servers
    assert servers is not None  # from `create_app`
    return servers


def _caller(request: web.Request) -> tuple[str, ...]:
    """Those without a key are told apart by their address: a TURN server's quota is for one of them."""
    owner = request[PRINCIPAL].owner
    if owner != ("anonymous",):
        return owner
    return *owner, address_key(Visitor.of(request, request.app[CONTEXT].settings).address)
