"""Pictures of what engines do under a number of calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # files only: no display is needed
from matplotlib import pyplot as plt

COLOURS = ("#8c8c8c", "#dd8452", "#4c72b0", "#55a868")


def plot_latencies(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Left: time to first audio, p50 as bars and p95 as whiskers, logarithmic. Right: tokens per second."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    names = list(dict.fromkeys(row["system"] for row in rows))
    calls = sorted({row["calls"] for row in rows})
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        for row in (row for row in rows if row["system"] == name):
            place = calls.index(row["calls"]) + (number - (len(names) - 1) / 2) * width
            label = name if row["calls"] == calls[0] else None
            p50, p95 = row["first_audio_ms"]["p50"], row["first_audio_ms"]["p95"]
            if p50 is not None:
                left.bar(place, p50, width, color=COLOURS[number % len(COLOURS)], label=label)
                left.plot([place, place], [p50, p95], color="black", linewidth=1)
                left.annotate(f"{p50:.0f}", (place, p95), ha="center", va="bottom", fontsize=8)
            if row.get("tokens_per_s_flat_out"):
                right.bar(place, row["tokens_per_s_flat_out"], width, color=COLOURS[number % len(COLOURS)], label=label)
                right.annotate(
                    f"{row['tokens_per_s_flat_out']:.0f}",
                    (place, row["tokens_per_s_flat_out"]),
                    ha="center",
                    va="bottom",
                )
    left.set_yscale("log")
    for axes, what in ((left, "time to first audio, ms (p50, line to p95)"), (right, "tokens per second, flat out")):
        axes.set_xticks(range(len(calls)), [str(count) for count in calls])
        axes.set_xlabel("calls")
        axes.set_title(what)
        axes.grid(alpha=0.3, axis="y")
        axes.legend()
    _save(figure, path, title)


def plot_capacity(rows: Sequence[dict[str, Any]], limit_ms: float, path: Path, title: str) -> None:
    """Left: time to first audio by number of calls; steps that did not hold are crossed. Right: share of the time in
    which the engine computed, and underruns."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    names = list(dict.fromkeys(row["system"] for row in rows))
    underruns = right.twinx()
    for number, name in enumerate(names):
        own = sorted((row for row in rows if row["system"] == name), key=lambda row: int(row["calls"]))
        heard = [row for row in own if row["first_audio_ms"]["p50"] is not None]
        colour, at = COLOURS[2 - number % 3], [row["calls"] for row in heard]
        for quantile, style in (("p50", "-"), ("p95", "--"), ("p99", ":")):
            values = [row["first_audio_ms"][quantile] for row in heard]
            left.plot(at, values, style, color=colour, label=f"{name}, {quantile}")
        for row in heard:
            mark = "o" if row["holds"] else "x"
            left.plot(row["calls"], row["first_audio_ms"]["p95"], mark, color=colour)
        right.plot([row["calls"] for row in own], [row["busy_share"] for row in own], "o-", color=colour, label=name)
        underruns.plot([row["calls"] for row in own], [row["underruns"] for row in own], "x:", color=colour)
    left.axhline(limit_ms, color="#c44e52", linewidth=0.8)
    left.set_yscale("log")
    left.set_title("time to first audio, ms")
    right.set_title("share of the time computing (line), underruns (dotted)")
    underruns.set_ylim(bottom=0)
    calls = sorted({row["calls"] for row in rows})
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(calls, [str(count) for count in calls])
        axes.set_xlabel("calls")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    _save(figure, path, title)


def _save(figure: Any, path: Path, title: str) -> None:
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
