"""How many calls a core carries, and how well: this server and others, the same load, interleaved in one run.

    python -m benchmarks.media_load                     the tables: load, nothing to say, links, recovery, set-up
    python -m benchmarks.media_load --find-capacity     and how many calls each carries on one core
    python -m benchmarks.media_load --gil-hog           and 20 calls beside a thread that holds signaling's interpreter
    python -m benchmarks.media_load --workers           and what two media workers carry, against one
    python -m benchmarks.media_load --all               all of these
    python -m benchmarks.media_load --minutes 10        and a long run at 40 calls: memory, clocks
    python -m benchmarks.media_load --peers aiortc fastrtc pipecat      beside these; `--peers` alone: beside nobody
    python -m benchmarks.media_load --vad silero        with another voice detector than webrtcvad on every frame

Full duplex: real speech in, decoded to 16 kHz, voice detection, echoed, encoded and sent. The server's media process is
pinned to CPU 0, the client (libdatachannel, see `rtc-server loadtest`) to CPU 1. Echo delay is the added round trip:
what the server's receive path, pacing and both codecs take, on loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.support.cpu_quota import NoQuotaError, cpu_quotas
from benchmarks.support.machine import provenance
from benchmarks.support.media_acceptance import LOADED_CALLS, acceptance
from benchmarks.support.media_plots import plot_media_load
from benchmarks.support.media_tables import print_acceptance, print_loads, print_long_run, print_trial
from benchmarks.support.media_targets import PEER_SERVERS, Target, load, ours, peer, prepare_peer
from benchmarks.support.server import BenchmarkError
from rtc_server.loadtest.impairment import Impairment
from rtc_server.loadtest.run import LoadTestError

MAX_GAP_MS, MIN_DELIVERED, MAX_GROWTH_MS = 40.0, 0.99, 25.0  # what counts as carrying a load
MAX_CALLS = 400  # nothing is looked for beyond
RAMP_MS = 60.0  # between two calls on a whole core: setting one up takes a third of it
LOADS = (1, 8, LOADED_CALLS)
MAX_PEER_LOAD = 20  # beyond it a peer is saturated and tells nothing
CAPACITY_START, CAPACITY_STEP = 80, 20  # of this server on a whole core
WORKER_SHARE = 0.3  # of a core per worker: two of them leave room on one, and the client has the other
WORKER_START, WORKER_STEP = 48, 4  # calls per worker: both searches take the same steps, and have the same luck
LINKS: Mapping[str, Impairment] = {
    "clean": Impairment(),
    "1 % loss": Impairment(loss=0.01),
    "5 % loss": Impairment(loss=0.05),
    "5 % in bursts of 3": Impairment(loss=0.05, burst=3),
    "0-40 ms jitter": Impairment(jitter_ms=40),
    "5 % bursts, 40 ms jitter": Impairment(loss=0.05, burst=3, jitter_ms=40),
    "reordered, doubled": Impairment(reorder=0.05, duplicate=0.05),
}
BAD_UNTIL_SECONDS = 6.0  # then the link is clean; the echo counts from five seconds later on
TABLES = ("load", "idle", "links", "recovery", "setup", "hog", "capacity", "workers")
DEFAULT_TABLES = TABLES[:5]


class MediaLoad:
    """One run of the benchmark: `result` is what becomes the JSON file."""

    def __init__(self, console: Console, vad: str, peers: Sequence[str], is_quick: bool) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.result: dict[str, Any] = {"provenance": provenance(), "vad": vad, "tables": self.tables, "failures": []}
        self._console = console
        self._vad = vad
        self._peers = peers
        self._is_quick = is_quick
        self._seconds = 3.0 if is_quick else 10.0

    def measure(self, table: str) -> None:
        """Make one of `TABLES` and print it. A server that fails ends its table and no other."""
        measure, title, label = {
            "load": (self._load, "Load", ""),
            "idle": (self._idle, "Hearing, with nothing to say", ""),
            "links": (self._links, "Links, 6 calls", "link"),
            "recovery": (self._recovery, "Back to clean", "link"),
            "setup": (self._setup, "Set-up", ""),
            "hog": (self._hog, "Beside a busy interpreter", ""),
            "capacity": (self._capacity, "", ""),  # its rows are printed as they come
            "workers": (self._workers, "", ""),
        }[table]
        try:
            measure()
        except BenchmarkError as error:
            self._fail(table, error)
        print_loads(self._console, title, self.tables.get(table, ()), label)

    def long_run(self, minutes: float) -> None:
        """40 calls for that long."""
        with self._ours() as target:
            if self._add("long", f"{minutes:g} min", target, LOADED_CALLS, 60 * minutes):
                print_loads(self._console, "Long run", self.tables["long"])
                print_long_run(self._console, self.tables["long"][-1])

    def _load(self) -> None:
        for calls in LOADS[:2] if self._is_quick else LOADS:
            for system in self._systems(calls):
                with system() as target:
                    self._add("load", "", target, calls, self._seconds)

    def _idle(self) -> None:
        with self._ours(listens_only=True) as target:
            self._add("idle", "", target, LOADED_CALLS, self._seconds, expects_audio=False)

    def _links(self) -> None:
        for label, impairment in LINKS.items():
            for system in self._systems():
                with system() as target:
                    self._add("links", label, target, 6, self._seconds, impairment=impairment, probes=6)

    def _recovery(self) -> None:
        bad = Impairment(loss=0.05, burst=3, jitter_ms=40, until_seconds=BAD_UNTIL_SECONDS)
        label = f"bad until {BAD_UNTIL_SECONDS:g} s; from {BAD_UNTIL_SECONDS + 5:g} s on"
        with self._ours() as target:
            if self._add("recovery", label, target, 6, 15.0, impairment=bad, probes=6):
                report = self.tables["recovery"][-1]
                report["echo_ms"] = report["echo_after_impairment_ms"] or {}

    def _setup(self) -> None:
        for calls in (1, 10):
            for system in self._systems():
                with system() as target:
                    for _ in range(2 if self._is_quick else 5):
                        self._add("setup", "all at once", target, calls, 1.0, ramp_ms=0.0)

    def _hog(self) -> None:
        with self._ours(hog=True) as target:
            self._add("hog", "a thread computes in signaling", target, 20, self._seconds)

    def _capacity(self) -> None:
        capacity = self.result["capacity"] = {}
        for system in self._systems():
            with system() as target:
                about = PEER_SERVERS.get(target.name)
                start, step = (about.capacity_start, about.capacity_step) if about else (CAPACITY_START, CAPACITY_STEP)
                capacity[target.name] = self._find_capacity(f"capacity {target.name}", target, start, step)
        self._console.print(f"calls per core: {capacity}")

    def _workers(self) -> None:
        """Two workers against one, each with the same share of a core: a machine may not have three to give."""
        carried: dict[int, int] = {}
        try:
            with cpu_quotas() as limit:
                for workers in (1, 2):
                    with self._ours(workers=workers) as target:
                        for pid in target.pids:
                            limit(pid, WORKER_SHARE)
                        start, step = WORKER_START * workers, WORKER_STEP * workers
                        ramp_ms = RAMP_MS / (WORKER_SHARE * workers)
                        carried[workers] = self._find_capacity(f"workers {workers}", target, start, step, ramp_ms)
        except NoQuotaError as error:
            self._console.print(f"workers: skipped. {error}")
            return
        if carried[1]:
            ratio = carried[2] / carried[1]
            self.result["workers"] = {"share": WORKER_SHARE, "one": carried[1], "two": carried[2], "ratio": ratio}
            self._console.print(
                f"at {WORKER_SHARE:.0%} of a core each, one worker carries {carried[1]} calls, two {carried[2]}: "
                f"{ratio:.2f} times as many"
            )

    def _find_capacity(self, table: str, target: Target, start: int, step: int, ramp_ms: float = RAMP_MS) -> int:
        """The largest load that is carried, in steps up from `start`, or down where that is too much; a step that fails
        is tried once more."""
        best, calls, too_many = 0, start, MAX_CALLS + 1
        while 0 < calls < too_many:
            if any(self._is_carried(table, target, calls, ramp_ms) for _ in range(2)):
                best, calls = calls, calls + step
            else:
                too_many = calls
                calls -= step  # carried already, unless this was the first step
                if best:
                    break
        return best

    def _is_carried(self, table: str, target: Target, calls: int, ramp_ms: float) -> bool:
        if not self._add(table, "", target, calls, self._seconds, ramp_ms=ramp_ms, is_trial=True):
            return False
        report = self.tables[table][-1]
        is_carried = carries(report)
        print_trial(self._console, report, is_carried)
        return is_carried

    def _add(
        self,
        table: str,
        label: str,
        target: Target,
        calls: int,
        seconds: float,
        *,
        is_trial: bool = False,
        **more: Any,
    ) -> bool:
        """One run into a table. False when no call could be made: that ends the run of nothing else."""
        try:
            report = load(target, calls, seconds, **more)
        except LoadTestError as error:
            if not is_trial:  # in a search, a load that cannot even be set up is too much
                self._fail(f"{table}, {calls} calls, {target.name}", error)
            return False
        self.tables.setdefault(table, []).append({"label": label, **report})
        return True

    def _fail(self, what: str, error: Exception) -> None:
        self.result["failures"].append(f"{what}: {error}")
        self._console.print(f"not measured: {what}: {error}")

    def _ours(self, **more: Any) -> AbstractContextManager[Target]:
        return ours(self._vad, **more)

    def _systems(self, calls: int = 0) -> Sequence[Callable[[], AbstractContextManager[Target]]]:
        """This server and the peers, to be started one after the other; only ours beyond what a peer can carry."""
        return [self._ours, *(partial(peer, name) for name in self._peers if calls <= MAX_PEER_LOAD)]


def carries(report: Mapping[str, Any]) -> bool:
    """The load was carried: punctual, complete, and the delay did not grow."""
    growth = report["echo_growth_ms"]
    return (
        report["connected"] == report["calls"]
        and report["gap_ms"]["p99"] <= MAX_GAP_MS
        and report["delivered"] >= MIN_DELIVERED
        and (growth is None or growth <= MAX_GROWTH_MS)
    )


def main() -> int:
    """0, or 1 when something that was asked for could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short runs: does it work?")
    parser.add_argument("--vad", default="webrtcvad", choices=("webrtcvad", "silero", "gated"))
    parser.add_argument(
        "--peers", nargs="*", default=["aiortc"], choices=tuple(PEER_SERVERS), help="what runs beside us"
    )
    parser.add_argument("--tables", nargs="*", default=DEFAULT_TABLES, choices=TABLES, help="which to make")
    parser.add_argument("--find-capacity", action="store_true", help="the table capacity too")
    parser.add_argument("--gil-hog", action="store_true", help="the table hog too")
    parser.add_argument("--workers", action="store_true", help="the table workers too")
    parser.add_argument("--all", action="store_true", help="every table")
    parser.add_argument("--minutes", type=float, default=0.0, help="and a long run")
    parser.add_argument("--json", type=Path, help="write every report there")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw load, capacity and links there")
    arguments = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        raise BenchmarkError("The load test needs two CPUs: one for the server, one for the client.")
    asked = {"capacity": arguments.find_capacity, "hog": arguments.gil_hog, "workers": arguments.workers}
    wanted = {*arguments.tables, *(table for table, is_asked in asked.items() if is_asked)}
    for name in arguments.peers:
        prepare_peer(name)  # now, not beside a measurement
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # servers and control groups go too
    console = Console(width=160)
    run = MediaLoad(console, arguments.vad, arguments.peers, arguments.quick)
    for table in TABLES:
        if table in wanted or arguments.all:
            run.measure(table)
    if arguments.minutes:
        run.long_run(arguments.minutes)
    figures = acceptance(run.result)
    print_acceptance(console, figures)
    if arguments.json is not None:
        run.result["acceptance"] = [{**asdict(figure), "holds": figure.holds} for figure in figures]
        arguments.json.write_text(json.dumps(run.result, indent=1) + "\n", encoding="utf-8")
        console.print(f"wrote {arguments.json}")
    if arguments.plot is not None:
        plot_media_load(run.tables, arguments.plot, "media load: calls on one core")
        console.print(f"wrote {arguments.plot}")
    return 1 if run.result["failures"] else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BenchmarkError, LoadTestError) as error:
        sys.exit(str(error))
