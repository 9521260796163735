"""The reports of `media_load` as tables on the screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from .media_acceptance import Figure

LOAD_COLUMNS: Sequence[tuple[str, int]] = (  # and digits after the point
    ("CPU ms/call-s", 1),
    ("core %", 0),
    ("delivered", 4),
    ("gap p99", 1),
    ("echo p50", 1),
    ("p95", 1),
    ("p99", 1),
    ("set-up p50", 0),
    ("max", 0),
    ("MB/call", 2),
)
MAX_CLIENT_LATE = 0.02  # share of the client's packets that left more than 5 ms late


def print_loads(console: Console, title: str, reports: Sequence[Mapping[str, Any]], label: str = "") -> None:
    """One row per run of the load test; nothing when there is none. `label` heads a column with the runs' labels."""
    if not reports:
        return
    table = Table(title=title)
    for name in filter(None, (label, "server")):
        table.add_column(name)
    for name, _ in (("calls", 0), *LOAD_COLUMNS):
        table.add_column(name, justify="right")
    for report in reports:
        echo, setup, usage = report["echo_ms"], report["setup_ms"], report["server"]
        values = (
            usage["cpu_ms_per_call_second"],
            100 * usage["cpu_share"],
            report["delivered"],
            report["gap_ms"].get("p99"),
            *(echo.get(key) for key in ("p50", "p95", "p99")),
            *(setup.get(key) for key in ("p50", "max")),
            usage["rss_mb_per_call"],
        )
        texts = [_number(value, digits) for value, (_, digits) in zip(values, LOAD_COLUMNS, strict=True)]
        names = [report["label"], report["server_name"]] if label else [report["server_name"]]
        table.add_row(*names, str(report["calls"]), *texts)
    console.print(table)
    late = max(report["client_late_share"] for report in reports)
    if late > MAX_CLIENT_LATE:
        console.print(f"Disturbed: in one of these runs the client itself was late for {late:.0%} of its packets.")


def print_trial(console: Console, report: Mapping[str, Any], is_carried: bool) -> None:
    """One step of a search for what is carried, on one line."""
    echo, gap = report["echo_ms"], report["gap_ms"]["p99"]
    console.print(
        f"{report['server_name']:8} {report['calls']:4} calls  {'carried  ' if is_carried else 'too many '} "
        f"{100 * report['server']['cpu_share']:3.0f} % of a core, delivered {report['delivered']:.4f}, "
        f"gap p99 {gap:.1f}, echo {_number(echo.get('p50'), 1)} / {_number(echo.get('p99'), 1)} ms, "
        f"grown by {_number(report['echo_growth_ms'], 1)}",
        highlight=False,
    )


def print_long_run(console: Console, report: Mapping[str, Any]) -> None:
    """What only a long run tells: clocks and memory."""
    usage = report["server"]
    console.print(
        f"Audio sent against the clock: off by {_number(report['clock_error_ms'], 1)} ms in the worst call. "
        f"Memory: {usage['rss_mb_start']:.1f} MB after settling, {usage['rss_mb']:.1f} MB at the end, "
        f"{_number(usage['rss_mb_per_hour'], 1)} MB per hour."
    )


def print_acceptance(console: Console, figures: Sequence[Figure]) -> None:
    """Every figure beside its limit; nothing when there is none."""
    if not figures:
        return
    table = Table(title="This server against its limits")
    table.add_column("figure")
    table.add_column("measured", justify="right")
    table.add_column("limit", justify="right")
    table.add_column("")
    for figure in figures:
        digits = 3 if figure.limit < 1 else 2 if figure.limit < 5 else 0 if isinstance(figure.value, int) else 1
        bound = "at least" if figure.is_at_least else "at most"
        table.add_row(
            figure.name,
            f"{figure.value:.{digits}f} {figure.unit}".strip(),
            f"{bound} {figure.limit:.{digits}f} {figure.unit}".strip(),
            "holds" if figure.holds else "does not hold",
        )
    console.print(table)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"
