"""Pictures of latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from rtc_server.client.report import TurnReport

mpl.use("Agg")  # files only: no display is needed
from matplotlib import pyplot as plt

STAGE_COLOUR = "#4c72b0"
LATENCY_COLOUR = "#c44e52"


def plot_latency(turns: Sequence[TurnReport], path: Path, title: str) -> None:
    """Left: when the stages of the median turn begin and end. Right: how the latency is distributed.

    Zero is the moment at which the last voiced sample reached the server's voice detector."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), width_ratios=(3, 2), layout="constrained")
    names = list(dict.fromkeys(name for turn in turns for name in turn.stages))
    for row, name in enumerate(names):
        stages = [turn.stages[name] for turn in turns if name in turn.stages]
        start = float(np.median([stage["start_ms"] for stage in stages]))
        end = float(np.median([stage["end_ms"] for stage in stages]))
        left.barh(row, end - start, left=start, color=STAGE_COLOUR, height=0.6)
        left.annotate(f" {end - start:.0f} ms", (max(start, end), row), va="center", fontsize=9)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.axvline(0.0, color="black", linewidth=0.8)
    left.margins(x=0.12)
    left.set_xlabel("ms after the last voiced sample at the server")
    left.set_title("stages of a turn, medians")
    series = {
        "at the caller": sorted(t.response_latency_ms for t in turns if t.response_latency_ms is not None),
        "at the server": sorted(t.server_latency_ms for t in turns if t.server_latency_ms is not None),
    }
    for (label, values), colour in zip(series.items(), (LATENCY_COLOUR, STAGE_COLOUR), strict=True):
        if values:
            share = np.arange(1, len(values) + 1) / len(values) * 100
            right.step(values, share, where="post", color=colour, label=f"{label}, p50 {np.median(values):.0f} ms")
    right.set_xlabel("response latency, ms")
    right.set_ylabel("% of turns at most")
    right.set_title("distribution")
    right.legend(loc="lower right")
    right.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)
