"""The simulator beside a real server: callers come as a seed says, and both count whom they refuse.

The server is this one, with the backend echo and few places; callers are WebSockets that say nothing and leave after
their time, so that many of them fit on a laptop. The simulator gets the same rate, lengths and manners, so often that
it can say within which limits one such run falls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import numpy as np

from benchmarks.support.fleet import Fleet, Plan, Sizes
from benchmarks.support.fleet_load import Lengths, Manners, Rate, erlang_b, steady
from benchmarks.support.server import serving

LENGTHS = Lengths(median=0.8, sigma=0.75, longest=12.0)
POLITE = Manners(patience=20.0)
SIMULATED_RUNS = 400


@dataclass(slots=True)
class Counts:
    """What became of real callers."""

    arrivals: int = 0
    attempts: int = 0
    refused: int = 0
    gave_up: int = 0
    failed: int = 0
    """Attempts that were answered with anything but a call or a 503."""


async def call(
    http: aiohttp.ClientSession, url: str, length: float, manners: Manners, seed: int, counts: Counts
) -> None:
    """One caller until he has had his call or gives up."""
    loop, random = asyncio.get_running_loop(), np.random.default_rng((seed, counts.arrivals))
    counts.arrivals += 1
    first_try = loop.time()
    while True:
        counts.attempts += 1
        try:
            async with http.ws_connect(f"{url}/v1/realtime") as socket:
                await asyncio.sleep(length)
                await socket.close()
            return
        except aiohttp.WSServerHandshakeError as error:
            if error.status != 503:
                counts.failed += 1
                return
            counts.refused += 1
            told = float(error.headers["Retry-After"]) if error.headers else 0.0
        wait = told * (1 + manners.spread * random.random())
        if loop.time() + wait - first_try > manners.patience:
            counts.gave_up += 1
            return
        await asyncio.sleep(wait)


async def crowd(url: str, rate: float, seconds: float, manners: Manners, seed: int) -> Counts:
    """Callers for so long, and until the last one is through."""
    loop, random, counts = asyncio.get_running_loop(), np.random.default_rng(seed), Counts()
    begin = loop.time()
    async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:
        for arrival in steady(rate).arrivals(random, seconds):
            await asyncio.sleep(max(0.0, begin + arrival - loop.time()))
            length = float(LENGTHS.draw(random, 1)[0])
            tasks.create_task(call(http, url, length, manners, seed, counts))
    return counts


def compare(slots: int, load: float, seconds: float, manners: Manners, seed: int) -> Mapping[str, Any]:
    """The same load on a server with so many places and on the simulator."""
    rate = load * slots / LENGTHS.mean
    settings: dict[str, object] = {
        "server.max_calls": slots,
        "limits.calls_per_address": 1_000,
        "limits.burst": 100_000,
        "limits.address_burst": 100_000,
        "logging.level": "error",
    }
    with serving("echo", settings) as server:
        real = asyncio.run(crowd(server.url, rate, seconds, manners, seed))
    sizes = replace(Sizes(), media_slots=slots, engine_slots=slots, media_hours=0.0, engine_hours=0.0)
    pulse = Rate((0.0, 0.1, seconds, seconds + 0.1), (0.0, rate, rate, 0.0))  # as for the server: empty at both ends
    runs = [
        Fleet([Plan(1, 1)], pulse, sizes=sizes, lengths=LENGTHS, manners=manners, seed=number).run(
            seconds + manners.patience + LENGTHS.longest
        )
        for number in range(SIMULATED_RUNS)
    ]
    return {
        "slots": slots,
        "load": load,
        "tries_again": manners.patience > 0,
        "callers": real.arrivals,
        "failed": real.failed,
        "callers_simulated": _range([run.arrivals for run in runs]),
        "refused": real.refused / max(1, real.attempts),
        "refused_simulated": _range([run.refused / run.attempts for run in runs]),
        "erlang_b": erlang_b(load * slots, slots) if not manners.patience else None,
        "tries_per_caller": real.attempts / max(1, real.arrivals),
        "tries_per_caller_simulated": _range([run.attempts / run.arrivals for run in runs]),
        "gave_up": real.gave_up / max(1, real.arrivals),
        "gave_up_simulated": _range([run.gave_up / run.arrivals for run in runs]),
    }


def _range(values: Sequence[float]) -> list[float]:
    """Within which 95 % of the runs fall, and their median between."""
    return [round(float(value), 4) for value in np.percentile(values, (2.5, 50, 97.5))]
