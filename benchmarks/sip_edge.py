"""What the telephone edge adds: the round trip of a telephone call beside that of a direct WebRTC call, in one run.

    python -m benchmarks.sip_edge             20 calls of either kind with 8 tones each, then 20 telephones at once
    python -m benchmarks.sip_edge --quick     a few calls: does it work?

Both callers send the same tones at the same time as PCMU in frames of 20 ms, and the server plays back what it hears
(the echo test): (a) telephone -> Kamailio and rtpengine -> server and back, (b) WebRTC client -> server and back. The
telephones and the server are on machines of their own (network namespaces), so it needs root.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import random
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.support.direct_call import DirectCall, direct_call
from benchmarks.support.machine import ROOT, percentiles, provenance, require_root_and_programs
from benchmarks.support.server import BenchmarkError
from benchmarks.support.telephone import CallRefusedError, Line, TelephoneCall, telephone_call
from benchmarks.support.tone_bursts import FRAME_SECONDS, bursts, round_trips_ms, share_returned
from tests.support.sip_stand import STRANGERS, Stand, sip_stand

LIMIT_MS = 10.0  # of the difference of the medians
SETTLE_SECONDS = 1.0  # buffers have found their length
SET_UP_SECONDS = 60.0
LAST_SECONDS = 0.5  # the last tone is on its way back
TARGET = "echo"
PROGRAMS = ("ip", "kamailio", "rtpengine")


@dataclass(frozen=True, slots=True)
class Workload:
    """What is measured. A call's clocks keep the distance they started with, which is up to a frame of the round trip:
    so there are many calls, and each begins at a random moment of its frame."""

    rounds: int = 5
    pairs: int = 4
    """Calls of either kind at the same time."""
    tones: int = 8
    """Per call."""
    calls: int = 20
    """At once, when the cost is measured."""
    seconds: float = 20.0


QUICK = Workload(rounds=1, pairs=2, tones=4, calls=3, seconds=2.0)


@dataclass(frozen=True, slots=True)
class Load:
    """What many calls at once cost."""

    calls: int
    with_media: int
    """Calls that heard all of their tones again."""
    seconds: float
    percent_of_a_core_per_call: dict[str, float]


def compare(stand: Stand, workload: Workload) -> dict[str, list[float]]:
    """Round trips in ms of both paths, measured at the same time. Raises BenchmarkError when nothing comes back."""
    found: dict[str, list[float]] = {"telephone": [], "direct": []}

    async def measure() -> None:
        payloads, onsets = bursts(workload.tones)
        async with AsyncExitStack() as stack:
            calls: list[tuple[str, TelephoneCall | DirectCall]] = []
            for number in range(workload.pairs):
                calls.append(("telephone", await stack.enter_async_context(telephone(stand, number))))
                calls.append(("direct", await stack.enter_async_context(direct_call(signal_to(stand)))))
            await asyncio.sleep(SETTLE_SECONDS)
            await asyncio.gather(*(_say(call, payloads) for _, call in calls))
            await asyncio.sleep(LAST_SECONDS)
            for name, call in calls:
                found[name] += round_trips_ms(call.sent_at, onsets, call.heard)

    with stand.phone.entered():
        for _ in range(workload.rounds):
            asyncio.run(measure())
    expected = workload.rounds * workload.pairs * workload.tones
    for name, trips in found.items():
        if len(trips) < expected // 2:
            raise BenchmarkError(f"{name}: only {len(trips)} of {expected} tones came back")
    return found


async def _say(call: TelephoneCall | DirectCall, payloads: Sequence[bytes]) -> None:
    await asyncio.sleep(random.uniform(0.0, FRAME_SECONDS))
    await call.say(payloads)


def load(stand: Stand, num_calls: int, seconds: float) -> Load:
    """Hold telephone calls at once, and count what they cost the edge and the server."""

    async def talk() -> list[float]:
        payloads, _ = bursts(int(seconds * 2))
        is_ready = asyncio.Barrier(num_calls + 1)

        async def one(number: int) -> float:
            async with telephone(stand, number) as phone:
                await is_ready.wait()
                await phone.say(payloads)
                await asyncio.sleep(LAST_SECONDS)
                return share_returned(payloads, phone.heard)

        async def watch() -> None:
            await is_ready.wait()
            before.update(cpu_seconds(stand), at=time.monotonic())
            await asyncio.sleep(seconds)
            after.update(cpu_seconds(stand), at=time.monotonic())

        async with asyncio.timeout(seconds + SET_UP_SECONDS), asyncio.TaskGroup() as group:
            calls = [group.create_task(one(number)) for number in range(num_calls)]
            group.create_task(watch())
        return [call.result() for call in calls]

    before: dict[str, float] = {}
    after: dict[str, float] = {}
    with stand.phone.entered():
        shares = asyncio.run(talk())
    passed = after.pop("at") - before.pop("at")
    cost = {name: round(100 * (after[name] - before[name]) / passed / num_calls, 3) for name in after}
    return Load(num_calls, sum(share == 1.0 for share in shares), round(passed, 2), cost)


def cpu_seconds(stand: Stand) -> dict[str, float]:
    """Of each part, all of its processes together."""
    return {name: sum(map(_cpu_seconds, processes)) for name, processes in stand.processes().items()}


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def telephone(stand: Stand, number: int) -> AbstractAsyncContextManager[TelephoneCall]:
    """A telephone with an account, at an address of its own, and the call it makes."""
    host = next(islice(ipaddress.ip_network(STRANGERS).hosts(), number, None))
    return telephone_call(Line(str(host), stand.edge, stand.account), f"sip:{TARGET}@{stand.edge[0]}")


def signal_to(stand: Stand) -> Callable[[str], Awaitable[str]]:
    """Takes an offer to the server's echo test: over its loopback address, from a thread on its machine."""

    def post(sdp: str) -> str:
        request = urllib.request.Request(
            stand.server.url + "/v1/echo", sdp.encode(), {"Content-Type": "application/sdp"}
        )
        with stand.machine.entered(), urllib.request.urlopen(request, timeout=10.0) as reply:
            return str(reply.read().decode())

    return lambda sdp: asyncio.to_thread(post, sdp)


def summarise(trips: dict[str, list[float]]) -> dict[str, Any]:
    """Percentiles of both, what the edge adds to the median, and whether that is within the limit."""
    summary: dict[str, Any] = {f"{name}_ms": percentiles(values) for name, values in trips.items()}
    added = summary["telephone_ms"]["p50"] - summary["direct_ms"]["p50"]
    return {**summary, "added_median_ms": round(added, 1), "limit_ms": LIMIT_MS, "is_within_limit": added <= LIMIT_MS}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report. Returns 0, 1 when the edge adds more than the limit or a call had no media, 2 after an
    error."""
    options = _parser().parse_args(arguments)
    console = Console()
    workload = QUICK if options.quick else Workload(rounds=options.rounds, calls=options.calls)
    origin = provenance()
    try:
        require_root_and_programs(PROGRAMS)
        with sip_stand({"server.echo_test": True, "server.max_calls": workload.calls + 2 * workload.pairs}) as stand:
            summary = summarise(compare(stand, workload))
            loaded = load(stand, workload.calls, workload.seconds)
    except (BenchmarkError, CallRefusedError, OSError, TimeoutError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    table = Table("round trip in ms", "n", "p50", "p95", "max", box=None, pad_edge=False, header_style="bold")
    for name in ("telephone", "direct"):
        figures = summary[f"{name}_ms"]
        table.add_row(name, *(f"{figures[key]:g}" for key in ("n", "p50", "p95", "max")))
    console.print(table)
    console.print(f"the edge adds {summary['added_median_ms']:g} ms to the median (limit {LIMIT_MS:g} ms)")
    cost = ", ".join(f"{name} {value:g} %" for name, value in loaded.percent_of_a_core_per_call.items())
    console.print(
        f"{loaded.with_media} of {loaded.calls} calls at once with media both ways; of a core per call: {cost}"
    )
    result = {
        "benchmark": "sip_edge",
        **origin,
        "workload": {"codec": "PCMU", "frame_ms": 20, **asdict(workload)},
        "round_trip": summary,
        "load": asdict(loaded),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console.print(f"wrote {options.json}", highlight=False)
    return 0 if summary["is_within_limit"] and loaded.with_media == loaded.calls else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sip_edge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="of 4 calls of either kind (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=20, help="calls at once (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=ROOT / "out/sip_edge.json", metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="a few tones and calls only")
    return parser


if __name__ == "__main__":
    sys.exit(main())
