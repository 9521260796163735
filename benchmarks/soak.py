"""Many calls at once against a server of our own, on loopback: is every turn answered, in time, and all given back?

    python -m benchmarks.soak                    ten calls for a minute, backend echo
    python -m benchmarks.soak --quick            three calls for eight seconds

The callers run in processes of their own and neither encode nor decode, so that the machine is the server's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.support.client_processes import ClientProcesses, client_processes
from benchmarks.support.machine import ROOT, percentiles, provenance
from benchmarks.support.server import BenchmarkError, RunningServer, Usage, histogram_quantile, serving

DEFAULT_SAY = tuple(ROOT / "tests/data/speech" / f"f{number}_rms.wav" for number in range(4))
CLIENT_PROCESSES = 2
WARM_UP_SECONDS = 2.0  # the same calls before the baseline: threads that are made once and kept are not a leak
SETTLE_SECONDS = 10.0  # how long the server may take to give everything back
GRACE_SECONDS = 60.0  # set-up, the last reply and hang-up of the callers
MAX_LATE_MS = 40.0  # playout p99 beyond this fails
MAX_GROWTH_MB = 30.0  # resident memory at the end against the middle of the run
PLAYOUT = "rtc_server_playout_lateness_seconds"


def calling(url: str, calls: int, seconds: float, files: Sequence[Path]) -> AbstractContextManager[ClientProcesses]:
    """Client processes with `calls` calls in all."""
    shares = [calls // CLIENT_PROCESSES + (n < calls % CLIENT_PROCESSES) for n in range(CLIENT_PROCESSES)]
    return client_processes(
        [
            *("benchmarks.support.soak_worker", url, str(share), str(seconds), str(sum(shares[:index]))),
            *map(str, files),
        ]
        for index, share in enumerate(shares)
        if share
    )


def run_calls(
    server: RunningServer, calls: int, seconds: float, files: Sequence[Path]
) -> tuple[list[dict[str, Any]], list[tuple[float, Usage]]]:
    """Results of the client processes, and (seconds, usage) of the server once a second meanwhile."""
    usages = []
    begun = time.monotonic()
    with calling(server.url, calls, seconds, files) as clients:
        while clients.are_running:
            now = time.monotonic() - begun
            if now > seconds + GRACE_SECONDS:
                raise BenchmarkError(f"The callers did not end within {GRACE_SECONDS:.0f} s after their time.")
            usages.append((now, server.usage()))
            time.sleep(1.0)
        results = clients.results()
    return results, usages


def wait_for_baseline(server: RunningServer, baseline: Usage) -> Usage:
    """The server's usage once it is back at the baseline, or after `SETTLE_SECONDS` as it is then."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        usage = server.usage()
        if not leaks(baseline, usage) or time.monotonic() > deadline:
            return usage
        time.sleep(0.5)


def leaks(baseline: Usage, after: Usage) -> dict[str, int]:
    """What the server holds more of than before the calls: name -> how many."""
    found = {}
    for name in ("calls", "asyncio_tasks", "threads", "processes", "sockets"):
        more = getattr(after, name) - getattr(baseline, name)
        if more > 0:
            found[name] = more
    return found


def soak(backend: str, calls: int, seconds: float, files: Sequence[Path], console: Console) -> dict[str, Any]:
    """The whole measurement as data; `failures` holds one sentence per broken promise."""
    overrides: dict[str, object] = {"server.max_calls": calls}
    with serving(backend, overrides) as server:
        console.print(f"server is up at {server.url}; warming up", highlight=False)
        run_calls(server, calls, WARM_UP_SECONDS, files)
        time.sleep(1.0)
        baseline = server.usage()
        before = server.metrics()
        console.print(f"{calls} calls for {seconds:g} s", highlight=False)
        results, usages = run_calls(server, calls, seconds, files)
        after = server.metrics()
        rest = wait_for_baseline(server, baseline)
    pooled = {
        name: sum(result[name] for result in results) for name in ("turns", "lost_turns", "packets", "packets_lost")
    }
    series = {
        name: percentiles([value for result in results for value in result[name]])
        for name in ("reply_ms", "gaps_ms", "lateness_ms", "own_lateness_ms")
    }
    playout = {f"p{q}": histogram_quantile(before, after, PLAYOUT, q / 100) for q in (50, 95, 99)}
    playout_ms = {name: None if value is None else round(value * 1e3, 2) for name, value in playout.items()}
    running = [usage for at, usage in usages if at <= seconds]
    memory = {
        "start": baseline.rss_mb,
        "middle": running[len(running) // 2].rss_mb,
        "end": running[-1].rss_mb,
        "after": rest.rss_mb,
    }
    result = {
        **pooled,
        **series,
        "playout_lateness_ms": playout_ms,
        "rss_mb": memory,
        "baseline": baseline.to_json(),
        "after_hang_up": rest.to_json(),
        "left_behind": leaks(baseline, rest),
        "errors": [error for entry in results for error in entry["errors"]],
        "max_calls_seen": max(usage.calls for _, usage in usages),
    }
    result["failures"] = failures(result, calls)
    return result


def failures(result: dict[str, Any], calls: int) -> list[str]:
    """What was promised and not kept, one sentence each."""
    found = [f"A call failed: {error}" for error in result["errors"]]
    if not result["turns"]:
        found.append("No turn was begun.")
    if result["lost_turns"]:
        found.append(f"{result['lost_turns']} of {result['turns']} turns were not answered.")
    if result["max_calls_seen"] < calls:
        found.append(f"Only {result['max_calls_seen']} of {calls} calls were up at once.")
    late = result["playout_lateness_ms"]["p99"]
    if late is None or late > MAX_LATE_MS:
        found.append(f"Playout lateness p99 is {late} ms; at most {MAX_LATE_MS:g} ms were promised.")
    disturbed = result["own_lateness_ms"]["p99"]
    if found and disturbed is not None and disturbed > MAX_LATE_MS:
        found.append(f"The callers were late themselves (p99 {disturbed} ms): the machine was busy; measure again.")
    growth = result["rss_mb"]["end"] - result["rss_mb"]["middle"]
    if growth > MAX_GROWTH_MB:
        found.append(f"Memory grew by {growth:.0f} MB in the second half.")
    found += [f"{count} {name} more than before the calls." for name, count in result["left_behind"].items()]
    return found


def tables(result: dict[str, Any]) -> list[Table]:
    """The result for people."""
    times = Table("in ms", box=None, pad_edge=False, header_style="bold")
    for name in ("p50", "p95", "p99", "max"):
        times.add_column(name, justify="right")
    rows = {
        "question said -> reply announced": result["reply_ms"],
        "gap between packets at the caller": result["gaps_ms"],
        "lateness of packets at the caller": result["lateness_ms"],
        "the callers' own sending lateness": result["own_lateness_ms"],
        "playout lateness at the server": result["playout_lateness_ms"],
    }
    for name, figures in rows.items():
        times.add_row(name, *(str(figures.get(key, "")) for key in ("p50", "p95", "p99", "max")))
    held = Table("held by the server", "before", "after", box=None, pad_edge=False, header_style="bold")
    for name, value in result["baseline"].items():
        held.add_row(name, str(value), str(result["after_hang_up"][name]))
    return [times, held]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report. Returns 0, 1 when a promise was broken, 2 when nothing could be measured."""
    options = _parser().parse_args(arguments)
    console = Console()
    calls, seconds = (3, 8.0) if options.quick else (options.calls, options.seconds)
    files = [path.resolve() for path in options.say or DEFAULT_SAY]
    origin = provenance()
    try:
        result = soak(options.backend, calls, seconds, files, console)
    except (BenchmarkError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    for table in tables(result):
        console.print()
        console.print(table)
    memory = result["rss_mb"]
    console.print()
    console.print(
        f"{result['turns']} turns, {result['lost_turns']} lost; {result['packets']} packets received, "
        f"{result['packets_lost']} lost; memory {memory['start']} MB before, {memory['middle']} in the middle, "
        f"{memory['end']} at the end, {memory['after']} after"
    )
    for failure in result["failures"]:
        console.print(f"[bold red]failed:[/] {failure}")
    workload = {"calls": calls, "seconds": seconds, "backend": options.backend, "seed": None}
    workload["recordings"] = [path.name for path in files]
    document = {"benchmark": "soak", **origin, "workload": workload, "result": result}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.print(f"wrote {options.json}", highlight=False)
    return 1 if result["failures"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=10, help="calls at once (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they talk (default: %(default)s)")
    parser.add_argument("--backend", default="echo", help="backend of the server (default: %(default)s)")
    parser.add_argument("--say", type=Path, action="append", metavar="WAV", help="recording to say; repeatable")
    parser.add_argument("--json", type=Path, default=ROOT / "out/soak.json", metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="three calls for eight seconds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
