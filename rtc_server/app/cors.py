"""Cross-origin requests (Fetch standard): the headers that let an allowed page read an answer, and preflights."""

from __future__ import annotations

import re

from aiohttp import hdrs, web

from .origins import OriginPolicy

EXPOSED_HEADERS = "Location, ETag, Link, Accept-Patch, Retry-After, WWW-Authenticate, Resume-Token"
ALLOWED_HEADERS = "Authorization, Content-Type, If-Match, ETag, OpenAI-Beta, OpenAI-Organization, OpenAI-Project"
MAX_AGE_SECONDS = 600  # for which a browser need not ask again

_HEADER_LIST = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,1000}")


def add_cors_headers(request: web.Request, response: web.StreamResponse, policy: OriginPolicy) -> None:
    """For every answer: readable for the page that asked, if that page may ask."""
    vary = response.headers.get(hdrs.VARY)
    if vary is None or "origin" not in vary.lower():
        response.headers[hdrs.VARY] = hdrs.ORIGIN if vary is None else f"{vary}, {hdrs.ORIGIN}"
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None and policy.allows_origin(origin, request.headers.get(hdrs.HOST, "")):
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED_HEADERS


def is_preflight(request: web.Request) -> bool:
    """The browser asks whether it may ask; such a request carries no credential."""
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ORIGIN in request.headers
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )


async def methods_of(request: web.Request) -> list[str]:
    """What the address of this request answers to, OPTIONS included; empty when there is nothing."""
    found: set[str] = set()
    for resource in request.app.router.resources():
        found |= (await resource.resolve(request))[1]
    return sorted(found | {hdrs.METH_OPTIONS}) if found else []


def add_options_headers(request: web.Request, response: web.StreamResponse, methods: list[str]) -> None:
    """To the answer of OPTIONS, from a route's own handler or not. What the handler has set stays."""
    allowed = ", ".join(methods)
    response.headers.setdefault(hdrs.ALLOW, allowed)
    response.headers.setdefault(hdrs.ACCESS_CONTROL_ALLOW_METHODS, allowed)
    # SDKs send headers of their own (X-Stainless-...). The origin is allowed already, and no header here gives a right.
    asked = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "")
    headers = f"{ALLOWED_HEADERS}, {asked}" if _HEADER_LIST.fullmatch(asked) else ALLOWED_HEADERS
    response.headers.setdefault(hdrs.ACCESS_CONTROL_ALLOW_HEADERS, headers)
    response.headers.setdefault(hdrs.ACCESS_CONTROL_MAX_AGE, str(MAX_AGE_SECONDS))
