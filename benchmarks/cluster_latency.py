"""What streaming through a cluster adds: events of ten responses from a model worker, beside those of a local engine.

    python -m benchmarks.cluster_latency                                     half a minute for each side
    python -m benchmarks.cluster_latency --quick --json out/cluster_latency.json

Both sides drive the same echo engine in a process of its own and take its events on an event loop: the server's own
engine client over a socket pair, and the cluster's over Ray Serve, in an actor as a media node is one. Each response
plays in real time: it is granted 100 ms of sound every 100 ms, and every grant makes one piece. Measured are

    event   from the engine's stamp on a piece of sound to its delivery in the media process
    grant   from a grant to the delivery of the sound that it made: both ways

What the cluster adds is the difference of the percentiles. Limits: 4 ms at p50 and 10 ms at p99 of the events.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.support.machine import percentiles, provenance
from model.interface import AudioDelta, EngineEvent, GenerateRequest, ResponseDone
from rtc_server.inference.client import EngineClient, EngineSettings
from rtc_server.inference.process import ProcessEngineClient

GRANT_MS = 100
FIRST_CREDIT_MS = 200
LIMIT_P50_MS, LIMIT_P99_MS = 4.0, 10.0
WARM_UP_SECONDS = 2.0
SETTINGS = EngineSettings("echo", {}, max_pending=256)

Delays = dict[str, list[float]]


async def drive(client: EngineClient, num_streams: int, seconds: float) -> Delays:
    """`num_streams` responses that play for `seconds`, after a shorter round of them; delays in ms."""
    await _round(client, "warm", num_streams, WARM_UP_SECONDS)
    return await _round(client, "measured", num_streams, seconds)


async def _round(client: EngineClient, name: str, num_streams: int, seconds: float) -> Delays:
    delays: Delays = {"event": [], "grant": []}
    async with asyncio.TaskGroup() as tasks:
        for index in range(num_streams):
            offset = index * GRANT_MS / num_streams / 1000
            tasks.create_task(_stream(client, f"{name}-{index}", offset, seconds, delays), name=f"stream-{index}")
    return delays


async def _stream(client: EngineClient, name: str, offset: float, seconds: float, delays: Delays) -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[ResponseDone] = loop.create_future()
    granted: list[float] = []

    def on_event(event: EngineEvent) -> None:
        now = time.monotonic()
        if isinstance(event, AudioDelta) and not loop.is_closed():
            delays["event"].append(1000 * (now - event.at))
            if granted:
                delays["grant"].append(1000 * (now - granted.pop(0)))
        elif isinstance(event, ResponseDone):
            done.set_result(event)

    await asyncio.sleep(offset)
    samples = np.zeros(int(16 * (FIRST_CREDIT_MS + 1000 * seconds)), np.int16)
    client.submit(GenerateRequest(name, name, name, (), samples, audio_credit_ms=FIRST_CREDIT_MS), on_event)
    start = loop.time() + FIRST_CREDIT_MS / 1000
    for number in range(int(1000 * seconds / GRANT_MS)):
        await asyncio.sleep(max(0.0, start + number * GRANT_MS / 1000 - loop.time()))
        granted.append(time.monotonic())
        client.grant(name, GRANT_MS)
    ended = await done
    assert ended.status == "completed", ended


async def local(num_streams: int, seconds: float) -> Delays:
    """Through the engine client of a single machine."""
    client = ProcessEngineClient(SETTINGS)
    await client.start()
    try:
        return await drive(client, num_streams, seconds)
    finally:
        await client.close()


class Probe:
    """An actor in the place of a media node."""

    def __init__(self) -> None:
        import ray

        from rtc_server.inference.ray.client import RayEngineClient

        context = ray.get_runtime_context()
        self._client = RayEngineClient(SETTINGS, "probe", context.current_actor, context.get_node_id())

    async def take_commands(self, worker_id: str) -> object:
        return await self._client.mailbox.take(worker_id)

    async def measure(self, num_streams: int, seconds: float) -> Delays:
        await self._client.start()
        return await drive(self._client, num_streams, seconds)


def cluster(num_streams: int, seconds: float) -> Delays:
    """Through Ray, on this machine; one worker, or there would be less to do for each."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray
    from ray import serve

    from rtc_server.inference.ray import workers
    from rtc_server.inference.ray.messages import NAMESPACE, WORKERS_APP

    arguments = {"settings": {"engine.backend": "echo", "engine.nice": 0}, "worker_cpus": 0.1, "page_port": None}
    ray.init(
        address="local",
        namespace=NAMESPACE,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    try:
        serve.run(workers(arguments), name=WORKERS_APP, route_prefix=None)
        actor: Any = ray.remote(Probe)
        probe = actor.options(num_cpus=0, max_concurrency=100).remote()
        delays: Delays = ray.get(probe.measure.remote(num_streams, seconds))
        return delays
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def main(arguments: list[str]) -> int:
    """Measure both, and judge. 0 when the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=10, help="responses at once")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each plays")
    parser.add_argument("--quick", action="store_true", help="5 s each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    options = parser.parse_args(arguments)
    seconds = 5.0 if options.quick else options.seconds
    head = provenance()
    sides = {"local": asyncio.run(local(options.streams, seconds)), "cluster": cluster(options.streams, seconds)}
    result: dict[str, Any] = {
        **head,
        "streams": options.streams,
        "seconds": seconds,
        **{side: {kind: percentiles(values) for kind, values in delays.items()} for side, delays in sides.items()},
    }
    p50s, p99s = (
        {side: float(np.percentile(delays["event"], percent)) for side, delays in sides.items()} for percent in (50, 99)
    )
    added = {"p50": round(p50s["cluster"] - p50s["local"], 2), "p99": round(p99s["cluster"] - p99s["local"], 2)}
    result["added_ms"] = added
    result["within_limits"] = added["p50"] <= LIMIT_P50_MS and added["p99"] <= LIMIT_P99_MS
    print(f"{options.streams} streams for {seconds:g} s, delays in ms")
    for side in sides:
        for kind, row in result[side].items():
            print(f"  {side:8} {kind:6} p50 {row['p50']:6} p95 {row['p95']:6} p99 {row['p99']:6} max {row['max']:6}")
    print(f"  added to an event: p50 {added['p50']} (limit {LIMIT_P50_MS}), p99 {added['p99']} (limit {LIMIT_P99_MS})")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if result["within_limits"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
