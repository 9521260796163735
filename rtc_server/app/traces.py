"""Which calls are traced, and whose trace they belong to."""

from __future__ import annotations

import time

from aiohttp import web

from rtc_server.tracing import CallTrace, begin_call, parse_traceparent

from .context import CONTEXT

HEADER = "traceparent"


def call_trace(request: web.Request) -> CallTrace | None:
    """Of the call that `request` asks for; None when it is not traced. A header that is not valid counts as none."""
    settings = request.app[CONTEXT].settings.tracing
    if not settings.enabled:
        return None
    values = request.headers.getall(HEADER, [])
    parent = parse_traceparent(values[0]) if len(values) == 1 else None
    return begin_call(settings, parent, time.time())
