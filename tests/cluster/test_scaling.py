"""Workers come and go with the load, and no turn fails for it; and the rule that says how many there should be."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from model.interface import CacheUse
from rtc_server.inference.ray.scaling import FULL, fullness, wanted_workers
from tests.support.cluster_process import ClusterProcess, cluster_process
from tests.support.live_call import LiveCall, live_call

TALKERS = 4
RECORDING = "f2_rms.wav"
SCALE_SECONDS = 60.0


async def talk(call: LiveCall, stop: asyncio.Event) -> list[str]:
    """Turn after turn; how each ended."""
    statuses: list[str] = []
    while not stop.is_set():
        call.say(RECORDING)
        done = await call.event("response.done", len(statuses) + 1)
        statuses.append(done["response"]["status"])
    return statuses


async def until_workers(cluster: ClusterProcess, num: int) -> None:
    """So many processes, all of them warm."""

    def is_so() -> bool:
        processes = {process.pid for process in cluster.processes("EngineWorker")}
        return len(processes) == num and processes <= {worker["pid"] for worker in cluster.workers() if worker["ready"]}

    async with asyncio.timeout(SCALE_SECONDS):
        while not await asyncio.to_thread(is_so):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.2)


async def test_workers_come_and_go_under_load_and_no_turn_fails() -> None:
    scaling = ("--responses-per-worker", "1", "--scale-up-seconds", "1", "--scale-down-seconds", "3")
    settings = {"server.media_workers": 1}  # calls in a process without Ray, as by default
    with cluster_process("--media-nodes", "1", "--workers", "1:2", *scaling, settings=settings) as cluster:
        await until_workers(cluster, 1)
        async with AsyncExitStack() as stack:
            found = [await stack.enter_async_context(live_call(cluster.url)) for _ in range(TALKERS)]
            all_stop, rest_stop = asyncio.Event(), asyncio.Event()
            async with asyncio.TaskGroup() as tasks:
                one = tasks.create_task(talk(found[0], all_stop))
                rest = [tasks.create_task(talk(call, rest_stop)) for call in found[1:]]
                await until_workers(cluster, 2)
                rest_stop.set()
                await asyncio.gather(*rest)
                await until_workers(cluster, 1)  # while one call goes on talking
                all_stop.set()
            statuses = [await one, *[await talker for talker in rest]]
        assert all(turns and set(turns) == {"completed"} for turns in statuses), statuses


@pytest.mark.parametrize(
    ("ongoing", "pressures", "wanted"),
    [
        (0.0, [0.0], 0.0),
        (4.0, [0.1], 2.0),  # by the responses being made
        (1.0, [FULL, FULL], 2.0),  # as full as they may be: as many as there are
        (1.0, [1.0, 1.0], 2.5),  # fuller: one more
        (1.0, [FULL / 2, FULL / 2], 1.0),  # one could take it all
    ],
)
def test_the_larger_of_load_and_pressure_decides(ongoing: float, pressures: list[float], wanted: float) -> None:
    assert wanted_workers(ongoing, 2.0, pressures) == pytest.approx(wanted)


def test_an_engine_is_as_full_as_what_runs_out_first() -> None:
    speech = CacheUse("speech", 90, 100)
    assert fullness(0, 16) == 0.0
    assert fullness(4, 16, (CacheUse("text", 10, 100), CacheUse("speech", 0, 0))) == 0.25
    assert fullness(4, 16, (CacheUse("text", 10, 100), speech)) == 0.9
    assert fullness(40, 16, (speech,)) == 1.0
