"""Around every request: errors as JSON in OpenAI's shape, and the security headers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from aiohttp import web

from rtc_server.errors import ApiError

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

# The page needs nothing from elsewhere: no scripts, styles, fonts or connections of other origins.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; object-src 'none'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
}


HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}


def error_response(error: ApiError) -> web.Response:
    """The HTTP reply that an error carries."""
    return web.json_response(error.to_body(), status=error.status, headers=error.headers)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every failure into the API's error body; a bug is a 500 without details."""
    try:
        return await handler(request)
    except ApiError as error:
        return error_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        code = HTTP_CODES.get(error.status, "http_error")
        reply = _plain_error(error.status, "invalid_request_error", code, f"{error.reason}.")
        if "Allow" in error.headers:
            reply.headers["Allow"] = error.headers["Allow"]
        return reply
    except Exception:  # the last line of defence of the HTTP surface: logged once, answered without details
        log.exception("request failed", extra={"path": request.path})
        message = "The server made a mistake; it has been logged."
        return _plain_error(500, "server_error", "internal_error", message)


def _plain_error(status: int, kind: str, code: str, message: str) -> web.Response:
    error = {"message": message, "type": kind, "code": code, "param": None}
    return web.json_response({"error": error}, status=status)


async def add_security_headers(request: web.Request, response: web.StreamResponse) -> None:
    """`on_response_prepare` signal: headers on everything, errors and files included."""
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    if request.path.startswith("/static/"):
        # Asked again each time (304 if unchanged): an upgraded server must not meet yesterday's page.
        response.headers["Cache-Control"] = "no-cache"
