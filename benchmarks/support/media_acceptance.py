"""What the audio path must hold: each figure of a run of `media_load` beside its limit. Pure."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]

MIN_CALLS_PER_CORE = 80
MIN_TIMES_AIORTC = 4.0
LOADED_CALLS = 40
MAX_CPU_MS, MAX_IDLE_CPU_MS = 14.0, 6.0  # per second of call, at LOADED_CALLS
MAX_CALL_MB = 0.5
MAX_CLEAN_ECHO_MS = 30.0  # p50; also once a bad link is clean again
MAX_LOSS_ECHO_MS = 45.0  # p50 at 1 % loss, on top of the clean link's
MIN_LOSS_DELIVERED = 0.998
MAX_BAD_ECHO_MS = 120.0  # p99, losses in bursts and jitter together
MAX_SETUP_MS: Mapping[int, float] = {1: 70.0, 10: 150.0}  # p50, by calls at once
MIN_HOG_DELIVERED, MAX_HOG_GAP_MS = 0.99, 40.0
MAX_CLOCK_ERROR_MS = 20.0
MIN_TIMES_ONE_WORKER = 1.8


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure and what it must be."""

    name: str
    value: float
    limit: float
    unit: str = ""
    is_at_least: bool = False
    """The limit is the least; otherwise it is the most."""

    @property
    def holds(self) -> bool:
        return self.value >= self.limit if self.is_at_least else self.value <= self.limit


def acceptance(result: Report) -> list[Figure]:
    """The figures of this server that `result` holds; what was not measured, or gave no value, is left out.

    Where a load was repeated, the median of the runs counts."""
    tables = result["tables"]
    figures: list[Figure] = []

    def add(name: str, value: float | None, limit: float, unit: str = "", is_at_least: bool = False) -> None:
        if value is not None:
            figures.append(Figure(name, value, limit, unit, is_at_least))

    def measured(table: str, read: Callable[[Report], float | None], **where: object) -> float | None:
        reports = [report for report in tables.get(table, ()) if report["server_name"] == "ours"]
        wanted = [report for report in reports if all(report[key] == value for key, value in where.items())]
        values = [value for report in wanted if (value := read(report)) is not None]
        return statistics.median(values) if values else None

    delivered, cpu, memory = (
        operator.itemgetter("delivered"),
        _usage("cpu_ms_per_call_second"),
        _usage("rss_mb_per_call"),
    )
    capacity = result.get("capacity", {})
    calls = capacity.get("ours")
    add("calls that one core carries", calls, MIN_CALLS_PER_CORE, "", True)
    if calls is not None and capacity.get("aiortc"):
        add("calls per core, multiple of plain aiortc's", calls / capacity["aiortc"], MIN_TIMES_AIORTC, "", True)
    add("CPU per second of call, 40 calls", measured("load", cpu, calls=LOADED_CALLS), MAX_CPU_MS, "ms")
    add("CPU per second of call, nothing to say", measured("idle", cpu, calls=LOADED_CALLS), MAX_IDLE_CPU_MS, "ms")
    add("memory per call, 40 calls", measured("load", memory, calls=LOADED_CALLS), MAX_CALL_MB, "MB")
    clean = measured("links", _echo("p50"), label="clean")
    add("echo p50, clean link", clean, MAX_CLEAN_ECHO_MS, "ms")
    if clean is not None:
        lossy = measured("links", _echo("p50"), label="1 % loss")
        add("echo p50, 1 % loss", lossy, clean + MAX_LOSS_ECHO_MS, "ms")
    add("delivered, 1 % loss", measured("links", delivered, label="1 % loss"), MIN_LOSS_DELIVERED, "", True)
    bad = measured("links", _echo("p99"), label="5 % bursts, 40 ms jitter")
    add("echo p99, 5 % lost in bursts, 0-40 ms jitter", bad, MAX_BAD_ECHO_MS, "ms")
    add("echo p50, 5 s after a bad link became clean", measured("recovery", _echo("p50")), MAX_CLEAN_ECHO_MS, "ms")
    for count, limit in MAX_SETUP_MS.items():
        setup = measured("setup", lambda report: report["setup_ms"].get("p50"), calls=count)
        add(f"offer to first sound p50, {count} at once", setup, limit, "ms")
    add("delivered beside a busy interpreter", measured("hog", delivered), MIN_HOG_DELIVERED, "", True)
    gap = measured("hog", lambda report: report["gap_ms"].get("p99"))
    add("p99 gap beside a busy interpreter", gap, MAX_HOG_GAP_MS, "ms")
    if "workers" in result:
        add("calls of two workers, multiple of one's", result["workers"]["ratio"], MIN_TIMES_ONE_WORKER, "", True)
    clock = measured("long", operator.itemgetter("clock_error_ms"))
    add("audio sent against the clock, long run", clock, MAX_CLOCK_ERROR_MS, "ms")
    return figures


def _usage(name: str) -> Callable[[Report], float | None]:
    return lambda report: report["server"][name]


def _echo(name: str) -> Callable[[Report], float | None]:
    return lambda report: report["echo_ms"].get(name)
