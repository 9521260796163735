"""`GET /v1/status`: what an operator wants to see at a glance, as one JSON document: the calls that go on, how quick
the latest turns were, how much room is left, and how the engine and the media workers are. `/status` shows it.

Ids and numbers only: nothing of what was said. For this machine and for holders of a key, like the metrics.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, TypeAlias

from aiohttp import web

from rtc_server.calls.status import CallStatus
from rtc_server.calls.turn_records import STAGES, TurnRecord
from rtc_server.errors import InvalidParameterError
from rtc_server.media.node import MediaNode, NodeStatus
from rtc_server.media.process import ProcessNode
from rtc_server.paths import web_dir
from rtc_server.sip.states import LegState

from .context import CONTEXT, AppContext
from .health import first_reason, readiness

routes = web.RouteTableDef()

STARTED_AT: web.AppKey[float] = web.AppKey("started_at", float)
"""When the application was made, `time.monotonic()`."""

TARGETS_MS = {"response": 500.0, "endpoint": 500.0, "inference": 200.0, "first_audio": 150.0}
"""What the server is built for, at the 95th percentile; docs/monitoring.md says where they come from."""

MAX_TURNS = 200
DEFAULT_TURNS = 50
DIGITS = 4  # of milliseconds and shares: more is noise

Json: TypeAlias = dict[str, Any]


@routes.get("/status")
async def page(request: web.Request) -> web.FileResponse:
    """The page that shows it."""
    return web.FileResponse(web_dir() / "status.html", headers={"Cache-Control": "no-cache"})


@routes.get("/v1/status")
async def status(request: web.Request) -> web.Response:
    """Everything at this moment. `?turns=` says how many of the latest turns are listed; the percentiles are over all
    that are kept. Raises InvalidParameterError."""
    num_turns = _num_turns(request.query.get("turns"))
    context = request.app[CONTEXT]
    nodes = await context.router.status()
    turns = latest_turns(nodes)
    uptime = time.monotonic() - request.app[STARTED_AT]
    body = {
        "version": version("rtc-server"),
        "at": time.time(),
        "uptime_seconds": round(uptime, 1),
        **_capacity(context),
        "engine": _engine(context),
        "telephony": _telephony(context),
        "nodes": [_node(index, *pair) for index, pair in enumerate(zip(context.router.nodes, nodes, strict=True))],
        "live_calls": [
            _call(index, call) for index, node in enumerate(nodes) if node is not None for call in node.calls
        ],
        "turns": [_turn(turn) for turn in turns[:num_turns]],
        "latency": latency_by_stage(turns),
    }
    return web.json_response(body, headers={"Cache-Control": "no-store"})


def latest_turns(nodes: Iterable[NodeStatus | None]) -> list[TurnRecord]:
    """The turns of all nodes together, newest first, at most `MAX_TURNS`."""
    turns = [turn for node in nodes if node is not None for turn in node.turns]
    return sorted(turns, key=lambda turn: turn.ended_at, reverse=True)[:MAX_TURNS]


def latency_by_stage(turns: Iterable[TurnRecord]) -> dict[str, Json]:
    """Count, median, 95th percentile and its target in ms: of `response` (the whole, spoken turns only), of `inference`
    (from the request to the first words) and of each stage."""
    values: dict[str, list[float]] = {}
    for turn in turns:
        for name, ms in {"response": turn.latency_ms, "inference": turn.inference_ms, **turn.stages}.items():
            if ms is not None:
                values.setdefault(name, []).append(ms)
    return {
        name: {
            "count": len(found),
            "p50_ms": percentile(found, 50),
            "p95_ms": percentile(found, 95),
            "target_ms": TARGETS_MS.get(name),
        }
        for name in ("response", "inference", *STAGES)
        if (found := values.get(name))
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """By nearest rank: the smallest of `values` that at least `percent` of them do not exceed; always one of them."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def _num_turns(asked: str | None) -> int:
    if asked is None:
        return DEFAULT_TURNS
    if not (asked.isascii() and asked.isdigit() and len(asked) <= 4 and int(asked) <= MAX_TURNS):
        message = f"turns is '{asked[:64]}'; expected a whole number from 0 to {MAX_TURNS}."
        raise InvalidParameterError(message, param="turns")
    return int(asked)


def _capacity(context: AppContext) -> Json:
    reason = first_reason(readiness(context, asyncio.get_running_loop().time()))
    calls, limit = context.router.num_calls, context.router.limit
    return {
        "ready": reason is None,
        "reason": reason,
        "calls": calls,
        "max_calls": limit.max_calls,
        "max_calls_of_server": limit.server_calls,
        "max_calls_of_engine": limit.engine_calls,
        "max_calls_of_playout": limit.live_calls,
    }


def _engine(context: AppContext) -> Json:
    engine = context.engine
    return {
        "backend": context.settings.engine.backend,
        "model": engine.info.name if engine.is_ready else None,
        "ready": engine.is_ready,
        "restarts": engine.restarts,
        "load_seconds": round(engine.load_seconds, 2),
    }


def _telephony(context: AppContext) -> Json | None:
    """Legs by state: those that are accepted already count as ringing until their call is there."""
    if context.telephony is None:
        return None
    legs, out = context.telephony.num_legs(), context.telephony.num_answered_out
    return {
        "ready": context.telephony.is_running,
        "ringing": legs[LegState.RINGING] + legs[LegState.ACCEPTING],
        "calling": legs[LegState.CALLING],
        "answered": legs[LegState.ANSWERED],
        "answered_in": legs[LegState.ANSWERED] - out,
        "answered_out": out,
        "restarts": context.telephony.restarts,
    }


def _node(index: int, node: MediaNode, status: NodeStatus | None) -> Json:
    return {
        "index": index,
        "kind": "worker" if isinstance(node, ProcessNode) else "in_process",
        "answers": status is not None,
        "ready": node.load.is_ready,
        "calls": node.load.calls,
        "restarts": node.restarts if isinstance(node, ProcessNode) else 0,
    }


def _call(node: int, call: CallStatus) -> Json:
    line = {name: _rounded(value) for name, value in asdict(call.line).items()}
    own = {name: _rounded(value) for name, value in asdict(call).items() if name != "line"}
    return {"node": node, **own, **line}


def _turn(turn: TurnRecord) -> Json:
    """As the caller was told in `rtc_server.turn.metrics`, and whose turn it was."""
    return {"call_id": turn.call_id, "turn_id": turn.turn_id, "ended_at": turn.ended_at, **turn.to_event()}


def _rounded(value: object) -> object:
    return round(value, DIGITS) if isinstance(value, float) else value
