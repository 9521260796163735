"""How many calls a core carries, and how well: this server and plain aiortc, the same load, interleaved in one run.

    python -m benchmarks.media_load                     the tables: load, loss, set-up
    python -m benchmarks.media_load --find-capacity     and how many calls each carries on one core
    python -m benchmarks.media_load --minutes 10        and a long run at 40 calls: memory, clocks
    python -m benchmarks.media_load --gil-hog           and 20 calls beside a thread that holds signaling's interpreter
    python -m benchmarks.media_load --vad silero        with another voice detector than webrtcvad on every frame

Full duplex: real speech in, decoded to 16 kHz, voice detection, echoed, encoded and sent. The server's media process is
pinned to CPU 0, the client (libdatachannel, see `rtc-server loadtest`) to CPU 1. Echo delay is the added round trip:
what the server's receive path, pacing and both codecs take, on loopback.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.support.machine import ROOT, provenance
from benchmarks.support.server import BenchmarkError, serving
from rtc_server.loadtest.impairment import Impairment
from rtc_server.loadtest.run import LoadPlan, LoadTestError, default_recordings, run

SERVER_CPU, CLIENT_CPU = 0, 1
MAX_GAP_MS, MIN_DELIVERED, MAX_GROWTH_MS = 40.0, 0.99, 25.0  # what counts as carrying a load
LOADS = (1, 8, 40)
STARTS, STEPS = {"ours": 80, "aiortc": 12}, {"ours": 20, "aiortc": 4}
LINKS: Mapping[str, Impairment] = {
    "clean": Impairment(),
    "1 % loss": Impairment(loss=0.01),
    "5 % loss": Impairment(loss=0.05),
    "5 % in bursts of 3": Impairment(loss=0.05, burst=3),
    "0-40 ms jitter": Impairment(jitter_ms=40),
    "5 % bursts, 40 ms jitter": Impairment(loss=0.05, burst=3, jitter_ms=40),
    "reordered, doubled": Impairment(reorder=0.05, duplicate=0.05),
}


@dataclass(frozen=True, slots=True)
class Target:
    """A server under load."""

    name: str
    url: str
    path: str
    pids: tuple[int, ...]


@contextmanager
def ours(vad: str, hog: bool = False) -> Iterator[Target]:
    """This server with one media worker."""
    settings: dict[str, object] = {
        "server.echo_test": True,
        "server.max_calls": 1_000,
        "server.media_workers": 1,
        "server.media_cpu_affinity": [SERVER_CPU],
        "turns.vad": vad,
        "logging.level": "warning",
    }
    with serving("echo", settings, "benchmarks.support.hogged" if hog else "rtc_server") as server:
        yield Target("ours", server.url, "/api/echo", tuple(server.media_pids()))


@contextmanager
def plain_aiortc() -> Iterator[Target]:
    """The echo server of `benchmarks/peers`."""
    port = 9_473
    command = [sys.executable, str(ROOT / "benchmarks/peers/plain_aiortc_echo.py"), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        os.sched_setaffinity(process.pid, {SERVER_CPU})
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(url + "/healthz", timeout=2).close()
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise BenchmarkError("the aiortc peer did not start") from error
                time.sleep(0.1)
        yield Target("aiortc", url, "/offer", (process.pid,))
    finally:
        process.kill()
        process.wait()


def load(
    target: Target, calls: int, seconds: float, impairment: Impairment = LINKS["clean"], **more: Any
) -> dict[str, Any]:
    """One run of the load test."""
    report = run(
        LoadPlan(
            target.url,
            default_recordings(),
            calls,
            seconds,
            path=target.path,
            impairment=impairment,
            pids=target.pids,
            client_cpu=CLIENT_CPU,
            **more,
        )
    )
    return {"server_name": target.name, **report}


def recovery(target: Target) -> dict[str, Any]:
    """Six bad seconds, then a clean link: the echo delay from five seconds after the end on."""
    until = Impairment(loss=0.05, burst=3, jitter_ms=40, until_seconds=6)
    report = load(target, 6, 15.0, until, probes=6)
    return {**report, "echo_ms": report["echo_after_impairment_ms"] or {}}


def carries(report: Mapping[str, Any]) -> bool:
    """The load was carried: punctual, complete, and the delay did not grow."""
    growth = report["echo_growth_ms"]
    return (
        report["connected"] == report["calls"]
        and report["gap_ms"]["p99"] <= MAX_GAP_MS
        and report["delivered"] >= MIN_DELIVERED
        and (growth is None or growth <= MAX_GROWTH_MS)
    )


def find_capacity(target: Target, start: int, step: int, seconds: float, show: Any) -> tuple[int, list[dict[str, Any]]]:
    """The largest load that is carried, in steps; a step that fails is tried once more."""
    best, calls = 0, start
    reports: list[dict[str, Any]] = []
    while calls <= 400:
        for _ in range(2):
            try:
                report = load(target, calls, seconds, ramp_ms=60.0)
            except LoadTestError:
                return best, reports
            reports.append(report)
            show(report)
            if carries(report):
                break
        else:
            return best, reports
        best, calls = calls, calls + step
    return best, reports


def rows(console: Console, title: str, reports: list[dict[str, Any]], label: str) -> None:
    """One table; nothing when there is nothing to show."""
    if not reports:
        return
    table = Table(title=title)
    for name in (
        label,
        "server",
        "calls",
        "CPU ms/call-s",
        "core %",
        "delivered",
        "gap p99",
        "echo p50",
        "p95",
        "p99",
        "set-up p50",
        "max",
        "MB/call",
    ):
        table.add_column(name, justify="left" if name in (label, "server") else "right")
    for report in reports:
        echo, setup, usage = report["echo_ms"], report["setup_ms"], report["server"]
        values = (
            usage["cpu_ms_per_call_second"],
            100 * usage["cpu_share"],
            report["delivered"],
            report["gap_ms"]["p99"],
            *(echo.get(key, math.nan) for key in ("p50", "p95", "p99")),
            *(setup.get(key, math.nan) for key in ("p50", "max")),
            usage["rss_mb_per_call"],
        )
        digits = (1, 0, 4, 1, 1, 1, 1, 0, 0, 2)
        texts = [f"{value:.{digit}f}" for value, digit in zip(values, digits, strict=True)]
        table.add_row(str(report.get("label", "")), report["server_name"], str(report["calls"]), *texts)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short runs: does it work?")
    parser.add_argument("--json", type=Path, help="write every report there")
    parser.add_argument("--vad", default="webrtcvad", choices=("webrtcvad", "silero", "gated"))
    parser.add_argument("--tables", nargs="*", default=["load", "links", "recovery", "setup"], help="which to make")
    parser.add_argument("--find-capacity", action="store_true")
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--gil-hog", action="store_true")
    parser.add_argument("--only-ours", action="store_true", help="do not run plain aiortc")
    arguments = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        raise BenchmarkError("The load test needs two CPUs: one for the server, one for the client.")
    seconds = 3.0 if arguments.quick else 10.0
    console = Console(width=160)
    result: dict[str, Any] = {"provenance": provenance(), "vad": arguments.vad, "tables": {}}
    tables: dict[str, list[dict[str, Any]]] = result["tables"]

    def peers() -> list[Any]:
        return [lambda: ours(arguments.vad)] + ([] if arguments.only_ours else [plain_aiortc])

    def add(table: str, label: str, report: dict[str, Any]) -> None:
        tables.setdefault(table, []).append({"label": label, **report})

    wanted = set(arguments.tables)
    for calls in (LOADS[:2] if arguments.quick else LOADS) if "load" in wanted else ():
        for peer in peers():
            with peer() as target:
                if target.name == "aiortc" and calls > 20:
                    continue
                add("load", "", load(target, calls, seconds))
    rows(console, "Load", tables.get("load", []), "")
    for label, impairment in LINKS.items() if "links" in wanted else ():
        for peer in peers():
            with peer() as target:
                add("links", label, load(target, 6, seconds, impairment, probes=6))
    rows(console, "Links, 6 calls", tables.get("links", []), "link")
    if "recovery" in wanted:
        with ours(arguments.vad) as target:
            add("recovery", "bad until 6 s; from 11 s on", recovery(target))
        rows(console, "Back to clean", tables["recovery"], "link")
    with_setup = (1, 10) if "setup" in wanted else ()
    for calls in with_setup:
        for peer in peers():
            with peer() as target:
                for _ in range(2 if arguments.quick else 5):
                    add("setup", "all at once", load(target, calls, 1.0, ramp_ms=0.0))
    rows(console, "Set-up", tables.get("setup", []), "")
    if arguments.gil_hog:
        with ours(arguments.vad, hog=True) as target:
            add("hog", "a thread computes in signaling", load(target, 20, seconds))
        rows(console, "Beside a busy interpreter", tables["hog"], "")
    if arguments.find_capacity:
        capacity = {}
        for peer in peers():
            with peer() as target:
                step = STEPS[target.name]
                best, reports = find_capacity(
                    target, STARTS[target.name], step, seconds, lambda r: rows(console, "", [r], "")
                )
                capacity[target.name] = best
                tables[f"capacity {target.name}"] = reports
        result["capacity"] = capacity
        console.print(f"calls per core: {capacity}")
    if arguments.minutes:
        with ours(arguments.vad) as target:
            add("long", f"{arguments.minutes:g} min", load(target, 40, 60 * arguments.minutes))
        rows(console, "Long run", tables["long"], "")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        console.print(f"wrote {arguments.json}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BenchmarkError, LoadTestError) as error:
        sys.exit(str(error))
