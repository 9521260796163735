"""What is asked of the system for a process happens to real processes, or is told; a refusal ends nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from rtc_server import scheduling
from rtc_server.media.turn_judges import TurnJudges
from rtc_server.scheduling import Outcome, Scheduling, apply, ranges, thread_placement, try_out
from tests.support.server_process import ServerProcess, server_process

ROOT = Path(__file__).resolve().parent.parent
ABSENT = 4_000  # no machine of ours has that CPU
CPU = min(os.sched_getaffinity(0))

MAY_RAISE = not try_out(Scheduling(nice=-1, realtime_priority=1)).refused
needs_right = pytest.mark.skipif(not MAY_RAISE, reason="this user may not raise priorities (CAP_SYS_NICE)")

CHILD = """
import json, os, sys, threading
from dataclasses import asdict
from rtc_server.scheduling import Scheduling, apply

def state():
    return {
        "cpus": sorted(os.sched_getaffinity(0)),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "policy": os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK,
    }

def started_early():
    go.wait()
    found["early thread"] = state()

found, go = {}, threading.Event()
early = threading.Thread(target=started_early)
early.start()
%s
found["outcome"] = asdict(apply(Scheduling(**json.loads(sys.argv[1]))))
go.set()
found["caller"] = state()
late = threading.Thread(target=lambda: found.update({"late thread": state()}))
late.start()
early.join()
late.join()
lines = [line.split() for line in open("/proc/self/status")]
found["huge pages"] = next((line[1] for line in lines if line[0] == "THP_enabled:"), None)
print(json.dumps(found))
"""
DROP_RIGHTS = """
import resource
for limit in (resource.RLIMIT_NICE, resource.RLIMIT_RTPRIO):
    resource.setrlimit(limit, (0, 0))
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
"""


def child(before: str = "", **request: object) -> dict[str, Any]:
    """What a process with a thread of its own finds after it applied `request`."""
    command = [sys.executable, "-c", CHILD % before, json.dumps(request)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_cpus_and_a_lower_priority_are_those_of_all_threads() -> None:
    found = child(cpus=[CPU], nice=3)
    assert found["outcome"] == {"applied": [f"CPUs {CPU}", f"nice {os.nice(0) + 3}"], "refused": []}
    for who in ("caller", "early thread", "late thread"):
        assert found[who] == {"cpus": [CPU], "nice": os.nice(0) + 3, "policy": os.SCHED_OTHER}, who


@needs_right
def test_real_time_belongs_to_the_caller_alone() -> None:
    found = child(nice=-2, realtime_priority=7)
    assert found["outcome"]["applied"] == [f"nice {os.nice(0) - 2}", "SCHED_FIFO 7"]
    assert found["caller"]["policy"] == os.SCHED_FIFO
    assert found["early thread"]["policy"] == os.SCHED_OTHER
    assert found["late thread"]["policy"] == os.SCHED_OTHER


def test_huge_pages_are_off_for_the_process() -> None:
    found = child(huge_pages=False)
    assert found["outcome"] == {"applied": ["no huge pages"], "refused": []}
    assert found["huge pages"] == "0"
    assert child()["huge pages"] == "1"


def test_without_the_right_the_process_goes_on_and_says_what_would_give_it() -> None:
    found = child(DROP_RIGHTS, cpus=[CPU], nice=-5, realtime_priority=10)
    assert found["outcome"]["applied"] == [f"CPUs {CPU}"]
    nice, realtime = found["outcome"]["refused"]
    assert (nice["wanted"], nice["reason"]) == ("nice -5", "not permitted (RLIMIT_NICE)")
    assert "CAP_SYS_NICE" in nice["advice"]
    assert realtime["wanted"] == "SCHED_FIFO 10"
    assert "LimitRTPRIO=10" in realtime["advice"]
    assert "ulimit -r 10" in realtime["advice"]
    assert found["caller"] == {"cpus": [CPU], "nice": os.nice(0), "policy": os.SCHED_OTHER}


def test_cpus_that_are_not_there_are_named_and_the_others_used() -> None:
    outcome = try_out(Scheduling(cpus=(CPU, ABSENT)))
    assert outcome.applied == (f"CPUs {CPU}",)
    assert f"CPUs {ABSENT} are not there or not allowed" in outcome.refused[0].reason
    assert ranges(os.sched_getaffinity(0)) in outcome.refused[0].reason


def test_no_cpu_that_is_there_leaves_the_process_where_it_was() -> None:
    outcome = try_out(Scheduling(cpus=(ABSENT,)))
    assert outcome.applied == ()
    assert len(outcome.refused) == 1


def test_a_system_without_these_calls_refuses_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    monkeypatch.delattr(os, "SCHED_RESET_ON_FORK")
    monkeypatch.setattr(scheduling.ctypes, "CDLL", lambda *_, **__: object())
    outcome = apply(Scheduling(cpus=(CPU,), realtime_priority=10, huge_pages=False))
    assert outcome.applied == ()
    assert [refusal.wanted for refusal in outcome.refused] == [f"CPUs {CPU}", "SCHED_FIFO 10", "no huge pages"]
    assert all(refusal.advice for refusal in outcome.refused)


def test_trying_changes_nothing_here() -> None:
    before = (os.sched_getaffinity(0), os.nice(0), os.sched_getscheduler(0))
    assert try_out(Scheduling(cpus=(CPU,), nice=4)).refused == ()
    assert try_out(Scheduling()) == Outcome()
    assert (os.sched_getaffinity(0), os.nice(0), os.sched_getscheduler(0)) == before


@pytest.mark.parametrize(("cpus", "text"), [((), ""), ((3,), "3"), ((2, 0, 1), "0-2"), ((0, 1, 4, 6, 7), "0-1,4,6-7")])
def test_cpus_are_written_as_ranges(cpus: tuple[int, ...], text: str) -> None:
    assert ranges(cpus) == text


# --- threads beside the event loops


def lines_about(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == scheduling.__name__]


async def test_executor_threads_are_moved_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    thread_placement.cache_clear()
    before = os.sched_getaffinity(0)
    with caplog.at_level(logging.INFO):
        scheduling.place_executor((CPU,))
        found = [await asyncio.to_thread(os.sched_getaffinity, 0) for _ in range(3)]
        await asyncio.get_running_loop().shutdown_default_executor()
    assert found == [{CPU}] * 3
    assert os.sched_getaffinity(0) == before
    assert lines_about(caplog) == ["scheduling applied"]


async def test_an_executor_on_absent_cpus_works_where_it_is(caplog: pytest.LogCaptureFixture) -> None:
    thread_placement.cache_clear()
    scheduling.place_executor((ABSENT,))
    assert await asyncio.to_thread(os.sched_getaffinity, 0) == os.sched_getaffinity(0)
    await asyncio.get_running_loop().shutdown_default_executor()
    assert lines_about(caplog) == ["scheduling refused"]


async def test_the_turn_model_runs_where_it_is_told() -> None:
    thread_placement.cache_clear()
    found: list[set[int]] = []
    answered = asyncio.Event()
    judges = TurnJudges(lambda: lambda _: found.append(os.sched_getaffinity(0)) or 0.5, place=thread_placement((CPU,)))
    judge = judges()
    judge.ask([], lambda _: answered.set())  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        await answered.wait()
    judge.close()
    assert found == [{CPU}]


# --- the server


def processes(server: ServerProcess, module: str) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if f"rtc_server.{module}" in child.cmdline()]


def test_the_server_runs_its_processes_as_the_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    settings: dict[str, Any] = {
        "turns.vad": "webrtcvad",
        "server.media_workers": 2,
        "server.media_cpu_affinity": [CPU],
        "engine.nice": 6,
        "system.media_nice": 2,
        "system.media_realtime_priority": 5 if MAY_RAISE else 0,
        "system.engine_huge_pages": False,
        "system.engine_returns_memory": True,
        "system.engine_cuda_expandable_segments": True,
        "logging.format": "json",
    }
    with server_process("echo", settings) as server:
        media, (engine,) = processes(server, "media.worker"), processes(server, "inference.worker")
        assert [worker.cpu_affinity() for worker in media] == [[CPU], [CPU]]
        assert [worker.nice() for worker in media] == [os.nice(0) + 2] * 2
        policies = {os.sched_getscheduler(worker.pid) & ~os.SCHED_RESET_ON_FORK for worker in media}
        assert policies == {os.SCHED_FIFO if MAY_RAISE else os.SCHED_OTHER}
        assert engine.nice() == os.nice(0) + 6
        assert os.sched_getscheduler(engine.pid) == os.SCHED_OTHER
        assert "THP_enabled:\t0" in Path(f"/proc/{engine.pid}/status").read_text()
        variables = engine.environ()
        assert variables["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
        assert variables["MALLOC_TRIM_THRESHOLD_"] == variables["MALLOC_MMAP_THRESHOLD_"] == "131072"
        assert not {"PYTORCH_ALLOC_CONF", "MALLOC_TRIM_THRESHOLD_"} & set(media[0].environ())
        lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    told = {line["whose"]: line["applied"] for line in lines if line["message"] == "scheduling applied"}
    assert set(told) == {"media worker 0", "media worker 1", "engine"}
    assert told["engine"] == f"nice {os.nice(0) + 6}; no huge pages"
    assert told["media worker 1"].startswith(f"CPUs {CPU}; nice {os.nice(0) + 2}")


def test_threads_beside_the_event_loop_are_where_the_settings_say() -> None:
    settings: dict[str, Any] = {"turns.vad": "webrtcvad", "system.executor_cpu_affinity": [CPU]}
    with server_process("echo", settings) as server:
        with urllib.request.urlopen(f"{server.url}/", timeout=10) as page:  # files are opened in the executor
            assert page.status == 200
        pid = server.process.pid
        threads = {int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()} - {pid}
        assert {CPU} in [os.sched_getaffinity(thread) for thread in threads]
        assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
        assert f'scheduling applied whose="threads of process {pid}" applied="CPUs {CPU}"' in server.log


def test_a_variable_of_the_operator_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "999999")
    settings: dict[str, Any] = {"turns.vad": "webrtcvad", "system.engine_returns_memory": True}
    with server_process("echo", settings) as server:
        (engine,) = processes(server, "inference.worker")
        assert engine.environ()["MALLOC_TRIM_THRESHOLD_"] == "999999"


def test_the_server_starts_on_cpus_that_are_not_there_and_warns() -> None:
    settings: dict[str, Any] = {
        "turns.vad": "webrtcvad",
        "server.media_cpu_affinity": [ABSENT],
        "engine.cpu_affinity": [ABSENT],
    }
    with server_process("echo", settings) as server:
        refused = [line for line in server.log.splitlines() if "scheduling refused" in line]
    assert len(refused) == 2
    assert all(f"CPUs {ABSENT} are not there" in line for line in refused)


def test_without_media_workers_their_settings_are_told_to_do_nothing() -> None:
    settings: dict[str, Any] = {"turns.vad": "webrtcvad", "server.media_workers": 0, "system.media_nice": 3}
    with server_process("echo", settings) as server:
        assert "no media workers" in server.log
        assert "system.media_nice" in server.log
        assert psutil.Process(server.process.pid).nice() == os.nice(0)


def test_threads_of_this_process_are_found() -> None:
    assert threading.get_native_id() in scheduling._threads()
