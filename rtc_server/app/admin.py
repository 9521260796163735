"""What operators do to a running server. For API keys, or for this machine while there is none."""

from __future__ import annotations

import logging

from aiohttp import web

from rtc_server.errors import CertificateError, ConfigError, SettingsRefusedError

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


@routes.post("/admin/reload")
async def reload(request: web.Request) -> web.Response:
    """200: the settings file, the keys and the certificate were read again, as with SIGHUP; `applied` names what counts
    now, `needs_restart` what is other in the file and does not yet. 422: nothing was changed, with the reason."""
    require_operator(request)
    reloading = request.app[CONTEXT].reload
    assert reloading is not None, "only tests of single handlers have no reloader"
    try:
        change = await reloading()
    except (ConfigError, CertificateError) as error:
        raise SettingsRefusedError(f"Nothing was changed: {error}") from None
    body = {"status": "reloaded", "applied": change.applied, "needs_restart": change.needs_restart}
    return web.json_response(body)
