"""How many conversations the OpenS2S engine carries at once: the number is doubled until it fails, then bisected.

    python -m benchmarks.engine_capacity                        a GPU: random weights of the released size
    python -m benchmarks.engine_capacity --load-format small    the small checkpoint of the tests
    python -m benchmarks.engine_capacity --checkpoint DIR --decoder DIR                     real weights
    python -m benchmarks.engine_capacity --quick --json out/engine_capacity.json --plot out/engine_capacity.png

A number of calls *holds* when the p95 of the time to first audio is at most 500 ms, no listener's buffer ran dry, and
no turn was refused, failed, or was interrupted before its first sound. The conversations, the pacing and the systems
are those of `benchmarks.engine_latency`; --reference adds the reference's loop.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from typing import Any

from benchmarks.engine_latency import GPU_SECONDS, add_load_arguments, head, table, write
from benchmarks.support.engine_plots import plot_capacity
from benchmarks.support.engine_runs import Load, measure
from benchmarks.support.engine_systems import (
    BATCH1,
    ENGINE,
    REFERENCE,
    add_model_arguments,
    device_name,
    options_of,
    system,
)
from benchmarks.support.machine import largest
from model.opens2s.precision import resolve_device

LIMIT_MS = 500.0
MAX_CALLS = 128
QUICK_MAX_CALLS = 8
FAULTS = ("underruns", "refused", "failed", "silent")


def holds(row: dict[str, Any]) -> bool:
    p95 = row["first_audio_ms"]["p95"]
    return p95 is not None and p95 <= LIMIT_MS and not any(row[fault] for fault in FAULTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=1, help="number of calls to begin with")
    parser.add_argument("--max-calls", type=int, help=f"do not go beyond ({MAX_CALLS}; with --quick {QUICK_MAX_CALLS})")
    parser.add_argument("--reference", action="store_true", help="the reference's loop too")
    parser.add_argument("--only-engine", action="store_true", help="without engine_batch1")
    add_model_arguments(parser)
    add_load_arguments(parser)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    load = Load(arguments.seconds or GPU_SECONDS, 0, seed=arguments.seed, hold_ms=arguments.held_ms)
    if arguments.quick:
        load = replace(Load.quick(arguments.seed, arguments.held_ms), turns=0)
    most = arguments.max_calls or (QUICK_MAX_CALLS if arguments.quick else MAX_CALLS)
    names = [ENGINE] + [BATCH1] * (not arguments.only_engine) + [REFERENCE] * arguments.reference
    rows: list[dict[str, Any]] = []
    capacity: dict[str, int] = {}
    with options_of(arguments, most) as options:
        result = {**head(arguments, options, device), "load": asdict(load), "limit_ms": LIMIT_MS, "runs": rows}
        for name in names:
            with system(name, options) as loaded:

                def works(count: int) -> bool:
                    row = measure(loaded, count, load, device)
                    rows.append(row | {"holds": holds(row)})
                    print(json.dumps(rows[-1]), flush=True)
                    return holds(row)

                capacity[name] = largest(works, arguments.first, most)
    rows.sort(key=lambda row: (names.index(row["system"]), row["calls"]))
    print(f"\n{device_name(device)}, weights: {result['weights']}, commit {result['commit']}\n")
    print(table(rows), end="\n\n")
    for name, count in capacity.items():
        print(f"{name}: {count} call{'' if count == 1 else 's'} hold{'s' if count == 1 else ''}", end="")
        print(f" (the most that was tried is {most})" if count == most else "")
    write(arguments.json, result | {"capacity": capacity})
    if arguments.plot:
        plot_capacity(rows, LIMIT_MS, arguments.plot, f"{device_name(device)}, weights: {result['weights']}")


if __name__ == "__main__":
    main()
