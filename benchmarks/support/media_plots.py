"""Pictures of load: what calls cost, and how late their echo is."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # files only: no display is needed
from matplotlib import pyplot as plt

COLOURS: Mapping[str, str] = {"ours": "#c44e52", "aiortc": "#4c72b0", "fastrtc": "#55a868", "pipecat": "#8172b3"}

Reports = Sequence[Mapping[str, Any]]


def plot_media_load(tables: Mapping[str, Reports], path: Path, title: str) -> None:
    """Left and middle: CPU and echo delay against the number of calls, from the tables of load and capacity. Right:
    echo delay by link. A load that was repeated is drawn at the median of its runs."""
    loads = [r for name, reports in tables.items() if name == "load" or name.startswith("capacity") for r in reports]
    figure, (cpu, echo, links) = plt.subplots(1, 3, figsize=(15, 4.5), width_ratios=(3, 3, 4), layout="constrained")
    for name, colour in COLOURS.items():
        own = [report for report in loads if report["server_name"] == name]
        shares = _by_calls([(r["calls"], 100 * r["server"]["cpu_share"]) for r in own])
        if shares:
            cpu.plot(shares.keys(), shares.values(), "o-", color=colour, label=name, markersize=3)
        for key, line in (("p50", "o-"), ("p99", "o--")):
            delays = _by_calls([(r["calls"], r["echo_ms"][key]) for r in own if key in r["echo_ms"]])
            if delays:
                echo.plot(delays.keys(), delays.values(), line, color=colour, label=f"{name} {key}", markersize=3)
    for axes, label in ((cpu, "CPU of the media process, % of a core"), (echo, "echo delay, ms")):
        axes.set_xlabel("calls at once")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    if echo.lines:
        echo.set_yscale("log")
    cpu.set_ylim(bottom=0)
    _plot_links(links, tables.get("links", ()))
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _plot_links(axes: Any, reports: Reports) -> None:
    """A bar up to the p50 per link and server, a thin line from there to the p99."""
    labels = list(dict.fromkeys(report["label"] for report in reports))
    servers = [name for name in COLOURS if any(report["server_name"] == name for report in reports)]
    height = 0.8 / max(1, len(servers))
    for report in reports:
        if report["echo_ms"]:
            index = servers.index(report["server_name"])
            row = labels.index(report["label"]) + (index - (len(servers) - 1) / 2) * height
            p50, p99 = report["echo_ms"]["p50"], report["echo_ms"]["p99"]
            colour = COLOURS[report["server_name"]]
            axes.barh(row, p50, color=colour, height=0.9 * height)
            axes.plot((p50, p99), (row, row), "|-", color=colour, linewidth=1)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("echo delay by link, ms: p50 and up to p99")
    axes.grid(alpha=0.3, axis="x")


def _by_calls(points: Sequence[tuple[int, float]]) -> dict[int, float]:
    return {calls: statistics.median(y for x, y in points if x == calls) for calls in sorted({x for x, _ in points})}
