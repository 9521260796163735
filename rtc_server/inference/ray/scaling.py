"""How many model workers there should be: by the responses that are made, and by how full the engines are. [pure]

Bounds and delays are Serve's (`AutoscalingConfig`), applied to what is said here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model.interface import CacheUse

PRESSURE = "engine_pressure"
"""What each worker reports: how full its engine is, from 0 to 1 (see `EngineWorker.record_autoscaling_stats`)."""
FULL = 0.8
"""A worker that is fuller than this should have help: the next prompts would be refused or push others out."""


def fullness(num_responses: int, max_responses: int, caches: Sequence[CacheUse] = ()) -> float:
    """How full an engine is, from 0 to 1: by its responses, or by the fullest of its KV caches."""
    parts = [cache.used_blocks / cache.blocks for cache in caches if cache.blocks]
    return min(1.0, max(num_responses / max_responses, *parts, 0.0))


def wanted_workers(num_ongoing: float, target_ongoing: float, pressures: Sequence[float]) -> float:
    """`num_ongoing` responses in the cluster, of which a worker should have `target_ongoing`; `pressures` of the
    workers that there are. The larger of both wishes."""
    by_load = num_ongoing / target_ongoing
    by_pressure = sum(pressures) / FULL
    return max(by_load, by_pressure)


def scale_workers(context: Any) -> tuple[float, dict[str, Any]]:
    """Serve's custom policy: an `AutoscalingContext` -> the number of replicas and the policy's state (none)."""
    pressures = (context.aggregated_metrics or {}).get(PRESSURE, {})
    return wanted_workers(context.total_num_requests, context.config.target_ongoing_requests, [*pressures.values()]), {}
