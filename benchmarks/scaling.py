"""How many calls a fleet carries, and what callers get when it is too small or breaks: a simulator.

    python -m benchmarks.scaling                                about three minutes; everything
    python -m benchmarks.scaling --only load wave               some of its parts
    python -m benchmarks.scaling --quick                        does it work?
    python -m benchmarks.scaling --validate                     beside a real server, two minutes more
    python -m benchmarks.scaling --json out/scaling.json --plots docs/images

Two levels, both on virtual time and the same for the same seed. One *engine* in full: the real scheduler
(`model/engine`) with the costs that were measured on a GPU, and callers who talk: response latency by calls. The
*fleet*: arrivals, lengths, refusals, retries, losses and starts event by event, with the real admission
(`rtc_server/calls/admission.py`); the latency of its calls is looked up by how many each engine has.
docs/scaling.md says what is measured, what is assumed, and what is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.support.engine_load import EnginePoint, LatencyCurve, largest_in_time
from benchmarks.support.engine_time import Times
from benchmarks.support.fleet import Sizes
from benchmarks.support.fleet_load import Manners
from benchmarks.support.machine import provenance
from benchmarks.support.scaling_plots import plot_day, plot_engine, plot_load, plot_wave
from benchmarks.support.scaling_reality import POLITE, compare
from benchmarks.support.scaling_scenarios import (
    LIMIT_MS,
    Row,
    Scale,
    day_rows,
    engine_rows,
    fault_rows,
    largest_row,
    load_rows,
    size_rows,
    wave_rows,
)
from benchmarks.support.server import BenchmarkError

PARTS = ("sizes", "load", "faults", "wave", "day", "largest")
SIZES = (1_000, 10_000, 100_000, 1_000_000)
VALIDATED = ((8, 0.8), (8, 1.2))
"""Places and load of the comparisons with a real server."""
REAL_SECONDS = 60.0


def run(parts: Sequence[str], scale: Scale, seed: int, say: Callable[[str, Sequence[Row]], None]) -> dict[str, Any]:
    """All rows of the parts asked for; `say` gets each table when it is there."""
    began = time.monotonic()
    engine = engine_rows(Times(), scale, seed)
    curve = LatencyCurve(tuple(EnginePoint(**row) for row in engine))
    result: dict[str, Any] = {
        "seed": seed,
        "engine": engine,
        "engine_calls_admitted": Times().costs().capacity(64),
        "engine_calls_in_time": largest_in_time(curve.points, LIMIT_MS),
    }
    say("engine", engine)
    make: dict[str, Callable[[], list[Row]]] = {
        "sizes": lambda: size_rows(SIZES, Sizes()),
        "load": lambda: load_rows(curve, scale, seed),
        "faults": lambda: fault_rows(curve, scale, seed),
        "wave": lambda: wave_rows(curve, scale, seed),
        "day": lambda: day_rows(curve, scale, seed),
        "largest": lambda: [largest_row(curve, scale, seed)],
    }
    for part in parts:
        result[part] = make[part]()
        say(part, result[part])
    result["seconds"] = round(time.monotonic() - began, 1)
    return result


def validate(seconds: float, seed: int) -> list[Row]:
    """The simulator beside a real server: callers who try once, then callers who try again."""
    return [
        dict(compare(slots, load, seconds, manners, seed + number))
        for number, manners in enumerate((Manners(patience=0.0), POLITE))
        for slots, load in VALIDATED
    ]


def draw(result: dict[str, Any], folder: Path) -> None:
    """One picture per part that has one."""
    slots = result["engine_calls_admitted"]
    plot_engine(result["engine"], slots, LIMIT_MS, folder / "scaling-engine.png")
    if "load" in result:
        plot_load(result["load"], result["engine"], LIMIT_MS, slots, folder / "scaling-load.png")
    if "wave" in result:
        plot_wave(result["wave"], folder / "scaling-wave.png")
    if "day" in result:
        plot_day(result["day"], folder / "scaling-day.png")


def as_table(title: str, rows: Sequence[Row]) -> Table:
    """For people."""
    table = Table(title=title, box=None, pad_edge=False, header_style="bold", title_justify="left")
    names = [name for name in rows[0] if name != "series"]
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        values = [row[name] for name in names]
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else f"{value}" for value in values))
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate and report. Returns 0; 2 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="some parts (default: all)")
    parser.add_argument("--quick", action="store_true", help="small fleets, short runs")
    parser.add_argument("--validate", action="store_true", help="beside a real server on this machine too")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every row there")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the pictures there")
    options = parser.parse_args(arguments)
    console = Console(width=200)

    def say(title: str, rows: Sequence[Row]) -> None:
        console.print(as_table(title, rows))

    scale = Scale.quick() if options.quick else Scale()
    result: dict[str, Any] = {"benchmark": "scaling", **provenance()} | run(options.only, scale, options.seed, say)
    if options.validate:
        try:
            result["validation"] = validate(8.0 if options.quick else REAL_SECONDS, options.seed)
        except BenchmarkError as error:
            print(f"Error: {error}", file=sys.stderr)
            return 2
        say("validation", result["validation"])
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.plots is not None:
        draw(result, options.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
