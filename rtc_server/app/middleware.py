"""Around every request: errors as JSON, in OpenAI's shape or as RFC 9725 wants them, and the security headers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import TypeAlias

from aiohttp import http_exceptions, web

from rtc_server.errors import ApiError

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

# The page needs nothing from elsewhere: no scripts, styles, fonts or connections of other origins.
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; manifest-src 'self'; worker-src 'self'; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
}


class HideBadRequests(logging.Filter):
    """A request that is no HTTP is its sender's mistake, answered with 400 by aiohttp: nothing to report at length, and
    aiohttp would quote its bytes, which may hold a key."""

    def filter(self, record: logging.LogRecord) -> bool:
        """False for such a record."""
        kind = record.exc_info[0] if record.exc_info else None
        return kind is None or not issubclass(kind, http_exceptions.HttpProcessingError)


logging.getLogger("aiohttp.server").addFilter(HideBadRequests())

HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
PROBLEM_PATHS = ("/whip", "/whep")
PROBLEM_TYPE = "application/problem+json"


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every failure into the API's error body; a bug is a 500 without details."""
    try:
        return await handler(request)
    except ApiError as error:
        return _reply(request, error.status, error.to_body(), error.headers)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        code = HTTP_CODES.get(error.status, "http_error")
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _reply(request, error.status, _body("invalid_request_error", code, f"{error.reason}."), headers)
    except Exception:  # the last line of defence of the HTTP surface: logged once, answered without details
        log.exception("request failed", extra={"path": request.path})
        message = "The server made a mistake; it has been logged."
        return _reply(request, 500, _body("server_error", "internal_error", message), {})


def _body(kind: str, code: str, message: str) -> dict[str, dict[str, str | None]]:
    return {"error": {"message": message, "type": kind, "code": code, "param": None}}


def _reply(
    request: web.Request, status: int, body: Mapping[str, Mapping[str, str | None]], headers: Mapping[str, str]
) -> web.Response:
    """The API's error, or the same as a problem (RFC 9457) where WHIP is spoken."""
    if not request.path.startswith(PROBLEM_PATHS):
        return web.json_response(body, status=status, headers=headers)
    error = body["error"]
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    problem |= {"detail": error["message"], "code": error["code"]}
    return web.json_response(problem, status=status, headers=headers, content_type=PROBLEM_TYPE)


async def add_security_headers(request: web.Request, response: web.StreamResponse) -> None:
    """`on_response_prepare` signal: headers on everything, errors and files included."""
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    if request.path.startswith("/static/"):
        # Asked again each time (304 if unchanged): an upgraded server must not meet yesterday's page.
        response.headers["Cache-Control"] = "no-cache"
