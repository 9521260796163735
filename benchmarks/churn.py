"""The soak: calls arrive, talk, interrupt, hang up and vanish, for minutes or hours. Does the server stay as it was?

    make soak                                        five minutes, backend echo
    python -m benchmarks.churn --minutes 15          what a release has to pass
    python -m benchmarks.churn --minutes 600 --backend cascade
    python -m benchmarks.churn --quick               twenty seconds: does it run

Three calls in ten end without a word, as a phone does in a tunnel; three turns in ten are talked over. Memory is
fitted with a straight line against the number of calls so far, after a warm-up; what the server holds at the end is
compared with what it held before the first call. `many calls at once` are the business of `benchmarks.soak`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.support.client_processes import ClientProcesses, client_processes
from benchmarks.support.machine import ROOT, percentiles, provenance
from benchmarks.support.server import BenchmarkError, RunningServer, Usage, serving

DEFAULT_SAY = tuple(ROOT / "tests/data/speech" / f"f{number}_rms.wav" for number in range(4))
CLIENT_PROCESSES = 2
SAMPLE_SECONDS = 2.0
WARM_UP_SHARE = 0.3  # of the time: pools, caches and threads that are made once and kept are not a leak
MIN_SAMPLES = 8  # fewer do not make a line
SETTLE_SECONDS = 60.0  # a caller that vanished is given up after about 30 s (ICE consent, RFC 7675)
GRACE_SECONDS = 60.0  # the last calls' turns and hang-up
MAX_SLOPE_MB = 1.0  # per 100 calls
MAX_LOST_SHARE = 0.01  # of the turns: a machine shared with the callers is late now and then
HELD = ("calls", "asyncio_tasks", "threads", "processes", "sockets", "fds")


def slope_per_100(calls: Sequence[float], rss_mb: Sequence[float]) -> float | None:
    """MB of resident memory per 100 calls, by least squares; None where there is no line to draw."""
    if len(calls) < MIN_SAMPLES or np.ptp(calls) == 0:
        return None
    return float(np.polyfit(np.asarray(calls, np.float64), np.asarray(rss_mb, np.float64), 1)[0]) * 100


def left_behind(before: Usage, after: Usage) -> dict[str, int]:
    """What the server holds more of than before the first call: name -> how many."""
    more = {name: getattr(after, name) - getattr(before, name) for name in HELD}
    return {name: count for name, count in more.items() if count > 0}


class Churn:
    """The client processes, and a look at the server every other second while they run."""

    def __init__(self, server: RunningServer, files: Sequence[Path], rate: float, most: int, seed: int) -> None:
        self._server, self._files, self._rate, self._most, self._seed = server, files, rate, most, seed
        self.samples: list[tuple[float, float, Usage]] = []
        """(seconds, calls so far, usage)."""

    def run(self, seconds: float) -> list[dict[str, Any]]:
        """What each client process saw. Raises BenchmarkError when one fails or does not end."""
        module, rate = "benchmarks.support.churn_worker", self._rate / CLIENT_PROCESSES
        most = -(-self._most // CLIENT_PROCESSES)
        commands = (
            [module, self._server.url, str(seconds), str(rate), str(most), str(self._seed + index)]
            + [str(file) for file in self._files]
            for index in range(CLIENT_PROCESSES)
        )
        with client_processes(commands) as clients:
            self._watch(clients, seconds)
            return clients.results()

    def _watch(self, clients: ClientProcesses, seconds: float) -> None:
        begun = time.monotonic()
        started = self._server.metrics().get("rtc_server_calls_started_total", 0.0)
        while clients.are_running:
            at = time.monotonic() - begun
            if at > seconds + GRACE_SECONDS:
                raise BenchmarkError(f"The callers did not end within {GRACE_SECONDS:.0f} s after their time.")
            calls = self._server.metrics().get("rtc_server_calls_started_total", 0.0) - started
            if at <= seconds:
                self.samples.append((at, calls, self._server.usage()))
            time.sleep(SAMPLE_SECONDS)


def churn(
    backend: str, seconds: float, rate: float, most: int, seed: int, files: Sequence[Path], console: Console
) -> dict[str, Any]:
    """The whole measurement as data; `failures` holds one sentence per broken promise."""
    # A caller that vanished holds its line for half a minute: more lines than callers at once are needed.
    lines = most + int(rate * 40) + 10
    overrides: dict[str, object] = {"server.max_calls": lines, "limits.calls_per_address": 0}
    overrides["limits.address_requests_per_minute"] = 100_000
    with serving(backend, overrides) as server:
        console.print(f"server is up at {server.url}; warming up", highlight=False)
        Churn(server, files, rate, most, seed + 1_000).run(min(10.0, seconds / 4))
        settle(server, None)
        baseline = server.usage()
        before = server.metrics()
        console.print(f"calls come at {rate:g} per second for {seconds:g} s", highlight=False)
        running = Churn(server, files, rate, most, seed)
        results = running.run(seconds)
        rest = settle(server, baseline)
        after = server.metrics()
    result = summarise(results, running.samples, seconds)
    restarts = [name for name in after if name.startswith(("rtc_server_engine_restarts", "rtc_server_media_worker"))]
    result |= {
        "baseline": baseline.to_json(),
        "afterwards": rest.to_json(),
        "left_behind": left_behind(baseline, rest),
        "restarts": int(sum(after[n] - before.get(n, 0.0) for n in restarts if n.endswith("_total"))),
        "internal_errors": int(
            after.get('rtc_server_calls_ended_total{reason="internal_error"}', 0.0)
            - before.get('rtc_server_calls_ended_total{reason="internal_error"}', 0.0)
        ),
    }
    result["failures"] = failures(result)
    return result


def settle(server: RunningServer, baseline: Usage | None) -> Usage:
    """The server's usage once it holds no call and no more than before, or after `SETTLE_SECONDS` as it is then."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        usage = server.usage()
        is_done = usage.calls == 0 if baseline is None else not left_behind(baseline, usage)
        if is_done or time.monotonic() > deadline:
            return usage
        time.sleep(0.5)


def summarise(
    results: Sequence[dict[str, Any]], samples: Sequence[tuple[float, float, Usage]], seconds: float
) -> dict[str, Any]:
    """Pool the client processes and fit the memory."""
    names = ("calls", "turns", "lost_turns", "interruptions", "vanished", "refused")
    pooled: dict[str, Any] = {name: sum(result[name] for result in results) for name in names}
    errors: Counter[str] = Counter()
    losses: Counter[str] = Counter()
    for result in results:
        errors.update(result["errors"])
        losses.update(result["losses"])
    warm = [sample for sample in samples if sample[0] >= seconds * WARM_UP_SHARE]
    return {
        **pooled,
        "reply_ms": percentiles([value for result in results for value in result["reply_ms"]]),
        "errors": dict(errors),
        "losses": dict(losses),
        "most_calls_at_once": max((usage.calls for _, _, usage in samples), default=0),
        "rss_mb_per_100_calls": slope_per_100([s[1] for s in warm], [s[2].rss_mb for s in warm]),
        "samples": [
            {"seconds": round(at, 1), "calls_so_far": calls, **usage.to_json()} for at, calls, usage in samples
        ],
    }


def failures(result: dict[str, Any]) -> list[str]:
    """What was promised and not kept, one sentence each."""
    found = [f"{count} calls failed: {error}" for error, count in result["errors"].items()]
    if not result["turns"]:
        found.append("No turn was begun.")
    elif result["lost_turns"] > MAX_LOST_SHARE * result["turns"]:
        why = ", ".join(f"{reason} ({count})" for reason, count in sorted(result["losses"].items()))
        found.append(f"{result['lost_turns']} of {result['turns']} turns were not answered: {why}.")
    slope = result["rss_mb_per_100_calls"]
    if slope is not None and slope >= MAX_SLOPE_MB:
        found.append(f"Memory grew by {slope:.2f} MB per 100 calls; less than {MAX_SLOPE_MB:g} was promised.")
    if result["restarts"]:
        found.append(f"{result['restarts']} processes were lost and started again.")
    if result["internal_errors"]:
        found.append(f"{result['internal_errors']} calls ended with an internal error.")
    found += [f"{count} {name} more than before the first call." for name, count in result["left_behind"].items()]
    return found


def table(result: dict[str, Any]) -> Table:
    """What the server held, before, at its fullest and afterwards."""
    held = Table("held by the server", "before", "most", "afterwards", box=None, pad_edge=False, header_style="bold")
    for name in (*HELD, "rss_mb"):
        most = max((sample[name] for sample in result["samples"]), default=0)
        held.add_row(name, str(result["baseline"][name]), str(most), str(result["afterwards"][name]))
    return held


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report. Returns 0, 1 when a promise was broken, 2 when nothing could be measured."""
    options = _parser().parse_args(arguments)
    console = Console()
    seconds = 20.0 if options.quick else options.minutes * 60
    files = [path.resolve() for path in options.say or DEFAULT_SAY]
    origin = provenance()
    try:
        result = churn(options.backend, seconds, options.rate, options.most, options.seed, files, console)
    except (BenchmarkError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    console.print()
    console.print(table(result))
    slope = result["rss_mb_per_100_calls"]
    console.print()
    console.print(
        f"{result['calls']} calls, {result['turns']} turns, {result['lost_turns']} lost; "
        f"{result['interruptions']} interruptions, {result['vanished']} callers vanished, {result['refused']} refused; "
        f"reply begins after p50 {result['reply_ms']['p50']} ms, p95 {result['reply_ms']['p95']} ms; "
        f"memory {'has too few samples' if slope is None else f'{slope:+.2f} MB per 100 calls'}"
    )
    for failure in result["failures"]:
        console.print(f"[bold red]failed:[/] {failure}")
    workload = {"seconds": seconds, "calls_per_second": options.rate, "most_at_once": options.most}
    workload |= {"backend": options.backend, "seed": options.seed, "recordings": [path.name for path in files]}
    document = {"benchmark": "churn", **origin, "workload": workload, "result": result}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.print(f"wrote {options.json}", highlight=False)
    return 1 if result["failures"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.churn", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="how long calls arrive (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=0.6, help="calls per second (default: %(default)s)")
    parser.add_argument("--most", type=int, default=10, help="talking callers at once (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of arrivals and of what callers do (default: %(default)s)")
    parser.add_argument("--backend", default="echo", help="backend of the server (default: %(default)s)")
    parser.add_argument("--say", type=Path, action="append", metavar="WAV", help="recording to say; repeatable")
    parser.add_argument("--json", type=Path, default=ROOT / "out/churn.json", metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="twenty seconds")
    return parser


if __name__ == "__main__":
    sys.exit(main())
