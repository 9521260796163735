"""Time to first audio, throughput and underruns of the OpenS2S engine, beside the loop that the reference runs.

    python -m benchmarks.engine_latency                       a GPU: random weights of the released size, 1 4 8 16 calls
    python -m benchmarks.engine_latency --load-format small   the small checkpoint of the tests, 1 and 8 calls
    python -m benchmarks.engine_latency --checkpoint DIR --decoder DIR                    real weights
    python -m benchmarks.engine_latency --quick --json out/engine_latency.json --plot out/engine_latency.png

Systems one after the other in this process, with the same conversations from one seed: "reference_loop" (transformers'
generate() and the lock-step consumer: support/reference_loop.py), "engine_batch1" (ours without a batch), "engine" as
the server drives it, and "engine_no_guess", which is asked when the turn is surely over. Each run has two parts:
*paced*, in which turns come on time and listeners play and grant credit in real time, and *flat out*, in which every
call has all the credit it can use and says its next turn at once. Audio goes into the engine and comes out of it: no
server, no network. Ratios and limits stand at the end; random weights on a CPU judge the ratios alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, product
from pathlib import Path
from typing import Any

import torch

from benchmarks.support.engine_plots import plot_latencies
from benchmarks.support.engine_runs import Load, measure
from benchmarks.support.engine_systems import (
    ENGINE,
    GUESSES,
    NO_GUESS,
    REFERENCE,
    SYSTEMS,
    add_model_arguments,
    default_format,
    device_name,
    options_of,
    system,
)
from benchmarks.support.machine import provenance
from model.opens2s.precision import resolve_device

CPU_CALLS, GPU_CALLS = (1, 8), (1, 4, 8, 16)
CPU_SECONDS, GPU_SECONDS = 40.0, 30.0
TURNS = 3
HELD_MS = 280
COLUMNS: dict[str, Callable[[dict[str, Any]], object]] = {
    "system": lambda row: row["system"],
    "calls": lambda row: row["calls"],
    "turns": lambda row: row["turns"],
    "p50": lambda row: row["first_audio_ms"]["p50"],
    "p95": lambda row: row["first_audio_ms"]["p95"],
    "p99": lambda row: row["first_audio_ms"]["p99"],
    "rtf": lambda row: row["rtf"],
    "reply rtf": lambda row: row.get("reply_rtf", {}).get("p50"),
    "underruns": lambda row: f"{row['underruns']} ({row['underrun_ms']:.0f} ms)",
    "cut": lambda row: f"{row['cut']} ({row['silent']} silent)",
    "refused, failed": lambda row: f"{row['refused']}, {row['failed'] + row.get('failed_flat_out', 0)}",
    "tokens/s": lambda row: row.get("tokens_per_s"),
    "batch": lambda row: row["mean_batch"],
    "flat out: tokens/s": lambda row: row.get("tokens_per_s_flat_out"),
    "batch ": lambda row: row.get("mean_batch_flat_out"),
    "MB": lambda row: row["memory"].get("device_mb", row["memory"]["rss_mb"]),
}


@dataclass(frozen=True, slots=True)
class Criterion:
    """A figure beside its limit."""

    name: str
    value: float | None
    """None: it was not measured in this run."""
    limit: float
    is_least: bool
    """The limit is the least that will do; otherwise the most."""

    @property
    def holds(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.is_least else self.value <= self.limit


def criteria(rows: Sequence[dict[str, Any]], is_gpu: bool) -> list[Criterion]:
    """The acceptance figures of a result."""

    def get(name: str, calls: int, *path: str) -> float | None:
        value: Any = next((row for row in rows if row["system"] == name and row["calls"] == calls), None)
        for key in path:
            value = value.get(key) if value is not None else None
        return None if value is None else float(value)

    def ratio(part: float | None, whole: float | None) -> float | None:
        return round(part / whole, 2) if part is not None and whole else None

    first = ("first_audio_ms", "p50")
    found = [
        Criterion(
            f"first audio, p50, {calls} call{'s' if calls > 1 else ''}: reference_loop / engine",
            ratio(get(REFERENCE, calls, *first), get(ENGINE, calls, *first)),
            limit,
            True,
        )
        for calls, limit in ((1, 5.0), (8, 10.0))
    ]
    found += [
        Criterion(
            f"the same without guesses, {calls} call{'s' if calls > 1 else ''}",
            ratio(get(REFERENCE, calls, *first), get(NO_GUESS, calls, *first)),
            limit,
            True,
        )
        for calls, limit in ((1, 5.0), (8, 10.0))
    ]
    for name, key in (("tokens per second", "tokens_per_s"), ("the same, flat out", "tokens_per_s_flat_out")):
        per_second = [get(ENGINE, calls, key) for calls in (8, 1)]
        found.append(Criterion(f"{name}: engine, 8 calls / 1 call", ratio(*per_second), 3.0, True))
    if is_gpu:
        found += [
            Criterion("first audio, p50, 1 call, ms", get(ENGINE, 1, *first), 120.0, False),
            Criterion("first audio, p95, 16 calls, ms", get(ENGINE, 16, "first_audio_ms", "p95"), 300.0, False),
            Criterion("underruns, 16 calls", get(ENGINE, 16, "underruns"), 0.0, False),
            Criterion("real-time factor, 16 calls", get(ENGINE, 16, "rtf"), 0.3, False),
        ]
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        cells = (column(row) for column in COLUMNS.values())
        lines.append("| " + " | ".join("-" if cell is None else str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def print_criteria(found: Sequence[Criterion]) -> None:
    words = {True: "holds", False: "DOES NOT HOLD", None: "not measured"}
    for one in found:
        value = "-" if one.value is None else f"{one.value:g}"
        print(f"{one.name}: {value} ({'at least' if one.is_least else 'at most'} {one.limit:g}) {words[one.holds]}")


def add_load_arguments(parser: argparse.ArgumentParser) -> None:
    """How long and with what, for both benchmarks of engines."""
    parser.add_argument("--seconds", type=float, help="turns of a run come within so long")
    parser.add_argument(
        "--held-ms",
        type=int,
        default=HELD_MS,
        help="ask our engine so long before the turn is surely over, and release the guess then, as the server does "
        "(%(default)s: from speculation_silence_ms, 120, to silence_duration_ms, 400)",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, help="draw them into this file")
    parser.add_argument("--quick", action="store_true", help="short replies and runs: does it work?")


def head(arguments: argparse.Namespace, options: dict[str, object], device: torch.device) -> dict[str, Any]:
    """Where a result comes from."""
    folders = {"checkpoint", "decoder"}
    return {
        **provenance(),
        "torch": torch.__version__,
        "device": device_name(device),
        "weights": arguments.load_format or default_format(arguments),
        "options": {key: value for key, value in options.items() if key not in folders},
        "seed": arguments.seed,
    }


def write(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, nargs="+", help="numbers of conversations at once")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--turns", type=int, default=TURNS, help=f"of each call, flat out ({TURNS})")
    add_model_arguments(parser)
    add_load_arguments(parser)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    is_gpu = device.type == "cuda"
    calls = arguments.calls or (GPU_CALLS if is_gpu else CPU_CALLS)
    seconds = arguments.seconds or (GPU_SECONDS if is_gpu else CPU_SECONDS)
    load = Load(seconds, arguments.turns, seed=arguments.seed, hold_ms=arguments.held_ms)
    if arguments.quick:
        load = Load.quick(arguments.seed, arguments.held_ms)
    rows: list[dict[str, Any]] = []
    with options_of(arguments, max(calls)) as options:
        result: dict[str, Any] = {**head(arguments, options, device), "load": asdict(load), "runs": rows}
        for build, names in groupby(arguments.systems, lambda name: ENGINE if name == NO_GUESS else name):
            with system(build, options) as loaded:
                for name, count in product(names, calls):
                    held_ms = load.hold_ms if name in GUESSES else 0
                    turns = 0 if name == NO_GUESS else load.turns  # flat out there are no guesses
                    asked = replace(load, hold_ms=held_ms, turns=turns)
                    rows.append(measure(replace(loaded, name=name), count, asked, device))
                    print(json.dumps(rows[-1]), flush=True)
    found = criteria(rows, is_gpu)
    result["criteria"] = [{**asdict(one), "holds": one.holds} for one in found]
    print(f"\n{device_name(device)}, weights: {result['weights']}, commit {result['commit']}\n")
    print(table(rows), end="\n\n")
    print_criteria(found)
    if arguments.quick:
        print("With --quick replies are short: the reference's loop, which makes the whole reply first, looks better.")
    write(arguments.json, result)
    if arguments.plot:
        plot_latencies(rows, arguments.plot, f"{device_name(device)}, weights: {result['weights']}")


if __name__ == "__main__":
    main()
