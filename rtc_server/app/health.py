"""What operators and pages ask: liveness, readiness, what this server is, and the metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from rtc_server import metrics, process_metrics
from rtc_server.media.merge import Merged, merge

from .context import CONTEXT, AppContext
from .guard import GUARD

routes = web.RouteTableDef()

OPENAPI: web.AppKey[dict[str, Any]] = web.AppKey("openapi", dict)
"""The document, built once from the routes that the application has."""


@routes.get("/healthz")
async def healthz(request: web.Request) -> web.Response:
    """200 while the event loop runs."""
    return web.json_response({"status": "ok"})


@routes.get("/readyz")
async def readyz(request: web.Request) -> web.Response:
    """200 when a call would be taken now, else 503. `reason`: the first check that fails; `checks`: all by name."""
    context = request.app[CONTEXT]
    checks = readiness(context, asyncio.get_running_loop().time())
    reason = first_reason(checks)
    body = {
        "status": "ready" if reason is None else "not_ready",
        "reason": reason,
        "engine_ready": context.engine.is_ready,
        "engine_restarts": context.engine.restarts,
        "calls": context.router.num_calls,
        "max_calls": context.router.limit.max_calls,
        "checks": checks,
    }
    return web.json_response(body, status=200 if reason is None else 503)


def readiness(context: AppContext, now: float) -> dict[str, dict[str, Any]]:
    """Every check by name: whether it is `ok`, its `reason` when it is not, and what was looked at."""
    engine, router, tls = context.engine, context.router, context.tls
    silent, allowed = engine.silent_seconds(now), context.settings.engine.answer_timeout_seconds
    num_calls, limits = router.num_calls, router.limit
    found: dict[str, tuple[str, bool, dict[str, object]]] = {
        "not_draining": ("draining", not context.lifecycle.is_ending, {}),
        "models": ("engine_not_ready", engine.is_ready, {"restarts": engine.restarts}),
        "engine": ("engine_silent", silent < allowed, {"silent_seconds": round(silent, 1)}),
        "media": ("media_not_ready", router.is_ready, {}),
        "certificate": (
            "certificate_expired",
            tls is None or not tls.is_expired,
            {"not_after": None if tls is None else tls.not_after.isoformat()},
        ),
        "capacity": (
            "server_full",
            num_calls < limits.max_calls,
            {"calls": num_calls, "max_calls": limits.max_calls, "live_limit": limits.live_calls},
        ),
    }
    return {
        name: {"ok": ok, **({} if ok else {"reason": reason}), **more} for name, (reason, ok, more) in found.items()
    }


def first_reason(checks: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why the next call would be refused, as a word; None when it would be taken."""
    return next((check["reason"] for check in checks.values() if not check["ok"]), None)


@routes.get("/v1/info")
async def info(request: web.Request) -> web.Response:
    """What the page shows about this server, before it has a key."""
    context = request.app[CONTEXT]
    settings = context.settings
    body: dict[str, object] = {
        "backend": settings.engine.backend,
        "ready": context.engine.is_ready,
        "calls": context.router.num_calls,
        "max_calls": context.router.limit.max_calls,
        "https_port": settings.server.https_port if settings.server.tls else None,
        "auth_required": request.app[GUARD].requires_key,
        "model": None,
        "description": "",
        "voices": [],
    }
    if context.engine.is_ready:
        engine = context.engine.info
        body |= {"model": engine.name, "description": engine.description, "voices": list(engine.voices)}
    return web.json_response(body)


@routes.get("/v1/models")
async def models(request: web.Request) -> web.Response:
    """The loaded model as an OpenAI list; empty while it loads."""
    engine = request.app[CONTEXT].engine
    data = []
    if engine.is_ready:
        data.append({"id": engine.info.name, "object": "model", "created": 0, "owned_by": "rtc-server"})
    return web.json_response({"object": "list", "data": data})


@routes.get("/openapi.json")
async def openapi(request: web.Request) -> web.Response:
    """The HTTP surface as an OpenAPI document."""
    return web.json_response(request.app[OPENAPI])


@routes.get("/metrics")
async def prometheus(request: web.Request) -> web.Response:
    """Prometheus text format."""
    context = request.app[CONTEXT]
    metrics.MAX_CALLS.set(context.router.limit.max_calls)
    metrics.ENGINE_READY.set(context.engine.is_ready)
    if context.telephony is not None:
        metrics.SIP_READY.set(context.telephony.is_running)
        for state, count in context.telephony.num_legs().items():
            metrics.SIP_LEGS.labels(state.value).set(count)
    media, engine, _ = await asyncio.gather(
        context.router.metrics(), context.engine.metrics(), asyncio.to_thread(process_metrics.sample_gpus)
    )
    pages = [("signaling", process_metrics.page())]
    pages += [(f"media-{index}", page) for index, page in enumerate(media)]
    if engine:
        pages.append(("engine", engine))
    registry = CollectorRegistry()
    registry.register(Merged(merge(pages, metrics.OF_PROCESS)))
    return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
