"""Pictures for capacity planning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # files only: no display is needed
from matplotlib import pyplot as plt

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3")
Row = dict[str, Any]


def plot_load(rows: Sequence[Row], engine: Sequence[Row], limit_ms: float, slots: int, path: Path) -> None:
    """Left: share of the callers refused, by load. Right: response latency at p95, by load and without admission."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    for number, engines in enumerate(sorted({row["engines"] for row in rows})):
        own = [row for row in rows if row["engines"] == engines]
        loads, colour = [100 * row["load"] for row in own], COLOURS[number]
        name = f"{engines} engine{'s' if engines > 1 else ''}, {own[0]['slots']} calls"
        left.plot(loads, [100 * row["erlang_b"] for row in own], "-", color=colour, linewidth=1)
        left.errorbar(
            loads,
            [100 * row["refused"] for row in own],
            [200 * row["refused_error"] for row in own],
            fmt="o",
            color=colour,
            markersize=5,
            label=f"{name}: refused, tries once",
        )
        gave_up = [100 * row["gave_up"] for row in own]
        left.plot(loads, gave_up, "x:", color=colour, markersize=5, label=f"{name}: gave up after 3 min")
        right.plot(loads, [row["p95_ms"] for row in own], "o-", color=colour, markersize=4, label=name)
    left.set_xlabel("load, % of the calls that are admitted at once")
    left.set_ylabel("% of the callers")
    left.set_title("refused (lines: Erlang B; bars: two standard errors)")
    left.legend(fontsize=8, loc="upper left")
    beyond = [row for row in engine if 40 <= 100 * row["calls"] / slots <= 170]
    right.plot(
        [100 * row["calls"] / slots for row in beyond],
        [row["p95_ms"] for row in beyond],
        "s--",
        color="black",
        markersize=4,
        label="if everybody were admitted",
    )
    right.axhline(limit_ms, color=COLOURS[3], linewidth=0.8)
    right.annotate(f"{limit_ms:.0f} ms", (92, limit_ms), va="bottom", fontsize=8, color=COLOURS[3])
    right.set_xlabel("load, % of the calls that are admitted at once")
    right.set_ylabel("ms")
    right.set_ylim(400, 1.25 * limit_ms)
    right.set_title("response latency, p95")
    right.legend(fontsize=8, loc="upper left")
    _save(figure, (left, right), path)


def plot_engine(rows: Sequence[Row], slots: int, limit_ms: float, path: Path) -> None:
    """Response latency of one engine by the calls it has."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    calls = [row["calls"] for row in rows]
    for quantile, style in (("p50", "-"), ("p95", "--"), ("p99", ":")):
        axes.plot(calls, [row[f"{quantile}_ms"] for row in rows], "o" + style, markersize=4, label=quantile)
    axes.axvline(slots, color="black", linewidth=0.8)
    axes.annotate(f" admitted: {slots}", (slots, 5_000), fontsize=9)
    axes.axhline(limit_ms, color=COLOURS[3], linewidth=0.8)
    axes.annotate(f"{limit_ms:.0f} ms", (max(calls), limit_ms), ha="right", va="bottom", fontsize=8, color=COLOURS[3])
    axes.set_yscale("log")
    ticks = [400, 600, 800, 1_000, 2_000, 4_000, 8_000]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("calls on one engine")
    axes.set_ylabel("response latency, ms")
    axes.legend(loc="upper left")
    _save(figure, (axes,), path)


def plot_wave(rows: Sequence[Row], path: Path) -> None:
    """Left: attempts per second with a constant and an honest answer. Right: people who wait, by the cold start."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    fixed = [row for row in rows if row["engine_start"] is None]
    for row, colour in zip(fixed, (COLOURS[3], COLOURS[0]), strict=True):
        name = "Retry-After that follows the queue" if row["is_honest"] else "Retry-After: 10, always"
        minutes = [at / 60 for at in row["series"]["at"]]
        left.plot(minutes, row["series"]["attempts_per_second"], color=colour, linewidth=1.2, label=name)
    left.set_ylabel("tries per second")
    left.set_title("no engines are added")
    for number, row in enumerate(row for row in rows if row["engine_start"] is not None):
        minutes = [at / 60 for at in row["series"]["at"]]
        name = f"{row['engine_start']:.0f} s: {100 * row['gave_up_share']:.1f} % give up"
        right.plot(minutes, row["series"]["waiting"], color=COLOURS[number], linewidth=1.2, label=name)
    right.set_ylabel("callers who wait to try again")
    right.set_title("engines are added, and are ready after")
    for axes in (left, right):
        axes.set_xlabel("minutes")
        axes.set_xlim(5, 45)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=9)
    _save(figure, (left, right), path)


def plot_day(rows: Sequence[Row], path: Path) -> None:
    """Calls of a day, and the room for them by the autoscaler's target."""
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    hours = [at / 3600 for at in rows[0]["series"]["at"]]
    axes.fill_between(hours, rows[0]["series"]["calls"], color="#cccccc", label="calls")
    for number, row in enumerate(rows):
        name = f"target {100 * row['target']:.0f} %" if row["target"] else "always the same"
        name += f": {row['engine_hours']:,} engine hours, {row['refused']:,} refusals"
        axes.plot([at / 3600 for at in row["series"]["at"]], row["series"]["slots"], color=COLOURS[number], label=name)
    axes.set_xticks(range(0, 25, 3))
    axes.set_xlabel("hour of the day")
    axes.set_ylabel("calls, and room for calls")
    axes.set_ylim(0, 1.45 * max(rows[0]["series"]["slots"]))
    axes.legend(fontsize=9, loc="upper left")
    _save(figure, (axes,), path)


def _save(figure: Any, axes: Sequence[Any], path: Path) -> None:
    for each in axes:
        each.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
