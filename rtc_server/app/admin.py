"""What operators do to a running server. For API keys, or for this machine while there is none."""

from __future__ import annotations

import logging

from aiohttp import web

from .context import CONTEXT
from .principal import require_operator

log = logging.getLogger(__name__)

routes = web.RouteTableDef()


@routes.post("/admin/drain")
async def drain(request: web.Request) -> web.Response:
    """202: no new calls from now on, and the server ends once the running ones have, or after the time given. What
    SIGTERM does; asking again changes nothing."""
    require_operator(request)
    context = request.app[CONTEXT]
    log.info("a drain was asked for over HTTP")
    context.lifecycle.drain()
    body = {
        "status": "draining",
        "calls": context.router.num_calls,
        "drain_timeout_seconds": context.settings.server.drain_timeout_seconds,
    }
    return web.json_response(body, status=202)
