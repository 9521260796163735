"""How the system runs a process or thread: its CPUs, its priority, real time, huge pages.

`apply` does what a `Scheduling` asks for, as far as the system permits, to the process that calls it. What was applied
and what was refused come back as data, with what would permit it; nothing raises. `try_out` does the same in a child
process that then ends, so that `doctor` can tell without changing itself. Which settings ask for what is said here too.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rtc_server.config import Settings

log = logging.getLogger(__name__)

PR_SET_THP_DISABLE = 41  # <linux/prctl.h>
GLIBC_THRESHOLD_BYTES = "131072"  # where glibc begins; once set, it no longer raises them to 32 MB as blocks are freed
TRY_SECONDS = 20.0  # a Python that starts on a cold disk
THREADS = Path("/proc/self/task")  # one folder per thread: on Linux priority and affinity belong to threads


@dataclass(frozen=True, slots=True)
class Scheduling:
    """What is asked for. `Scheduling()` asks for nothing."""

    cpus: tuple[int, ...] = ()
    """Of all threads; () = wherever the system puts them."""
    nice: int = 0
    """Of all threads, added to what they have; below 0 is more than others get."""
    realtime_priority: int = 0
    """SCHED_FIFO of the thread that applies it, from 1 to 99; what it starts does not inherit it."""
    huge_pages: bool = True
    """False: never transparent huge pages, whatever the system's mode."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that the system did not do."""

    wanted: str
    reason: str
    advice: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a `Scheduling`."""

    applied: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()


def media_scheduling(settings: Settings, index: int) -> Scheduling:
    """That of media worker number `index`: one of the CPUs, in turn."""
    cpus, system = settings.server.media_cpu_affinity, settings.system
    return Scheduling(
        cpus=(cpus[index % len(cpus)],) if cpus else (),
        nice=system.media_nice,
        realtime_priority=system.media_realtime_priority,
    )


def unused_media_settings(settings: Settings) -> list[str]:
    """Keys that ask for something of media workers where there are none."""
    if settings.server.media_workers:
        return []
    asked = {
        "server.media_cpu_affinity": settings.server.media_cpu_affinity,
        "system.media_nice": settings.system.media_nice,
        "system.media_realtime_priority": settings.system.media_realtime_priority,
    }
    return [key for key, value in asked.items() if value]


def engine_scheduling(settings: Settings) -> Scheduling:
    """That of the engine's process."""
    engine = settings.engine
    return Scheduling(engine.cpu_affinity, engine.nice, huge_pages=settings.system.engine_huge_pages)


def engine_environment(settings: Settings) -> dict[str, str]:
    """Variables that must be there when the engine's process starts: its allocators read them then."""
    found: dict[str, str] = {}
    if settings.system.engine_returns_memory:
        found |= {"MALLOC_TRIM_THRESHOLD_": GLIBC_THRESHOLD_BYTES, "MALLOC_MMAP_THRESHOLD_": GLIBC_THRESHOLD_BYTES}
    if settings.system.engine_cuda_expandable_segments:
        found["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    return found


def apply(request: Scheduling) -> Outcome:
    """Do it to this process. Its threads so far get CPUs and priority, later ones inherit them; real time is for the
    thread that calls."""
    steps: list[str | Refusal] = []
    if request.cpus:
        steps += _set_cpus(request.cpus, _threads())
    if request.nice:
        steps.append(_set_nice(request.nice))
    if request.realtime_priority:
        steps.append(_set_realtime(request.realtime_priority))
    if not request.huge_pages:
        steps.append(_forbid_huge_pages())
    return _outcome(steps)


def try_out(request: Scheduling) -> Outcome:
    """What `apply` would do in a child of this process."""
    if request == Scheduling():
        return Outcome()
    command = [sys.executable, "-m", __name__, json.dumps(asdict(request))]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TRY_SECONDS, check=True
        )
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return Outcome(refused=(Refusal(str(request), f"trying it failed: {error}", "Leave it at its default."),))
    return Outcome(tuple(found["applied"]), tuple(Refusal(**refusal) for refusal in found["refused"]))


def report(outcome: Outcome, whose: str) -> None:
    """Into the log: one line for what was applied, one warning for each thing that was refused."""
    if outcome.applied:
        log.info("scheduling applied", extra={"whose": whose, "applied": "; ".join(outcome.applied)})
    for refusal in outcome.refused:
        log.warning(
            "scheduling refused",
            extra={
                "whose": whose,
                "wanted": refusal.wanted,
                "reason": refusal.reason,
                "advice": refusal.advice,
            },
        )


@functools.cache
def thread_placement(cpus: tuple[int, ...]) -> Callable[[], None]:
    """What a thread beside an event loop calls first: it moves to these CPUs, () = stays. The first of a process
    says so in the log."""
    is_told = threading.Event()

    def place() -> None:
        if not cpus:
            return
        outcome = _outcome(_set_cpus(cpus, (0,)))
        if not is_told.is_set():
            is_told.set()
            report(outcome, f"threads of process {os.getpid()}")

    return place


def place_executor(cpus: tuple[int, ...]) -> None:
    """Put the threads of the running loop's own executor (name resolution, files) on these CPUs; () = as they are."""
    if cpus:
        executor = ThreadPoolExecutor(thread_name_prefix="executor", initializer=thread_placement(cpus))
        asyncio.get_running_loop().set_default_executor(executor)


def ranges(cpus: Collection[int]) -> str:
    """CPU numbers as people write them: "0-2,5"."""
    found: list[list[int]] = []
    for cpu in sorted(cpus):
        if found and cpu == found[-1][-1] + 1:
            found[-1].append(cpu)
        else:
            found.append([cpu])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found)


def _outcome(steps: list[str | Refusal]) -> Outcome:
    return Outcome(
        tuple(step for step in steps if isinstance(step, str)),
        tuple(step for step in steps if isinstance(step, Refusal)),
    )


def _threads() -> tuple[int, ...]:
    """Ids of this process's threads; 0, which is the calling one, where the system does not tell."""
    try:
        return tuple(int(path.name) for path in THREADS.iterdir())
    except OSError:
        return (0,)


def _set_cpus(cpus: tuple[int, ...], threads: tuple[int, ...]) -> list[str | Refusal]:
    wanted = f"CPUs {ranges(cpus)}"
    if not hasattr(os, "sched_setaffinity"):
        return [Refusal(wanted, "this system has no CPU affinity", "Leave the list of CPUs empty.")]
    before = os.sched_getaffinity(0)
    try:
        for thread in threads:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setaffinity(thread, cpus)
        used = os.sched_getaffinity(0)
    except OSError:  # none of them can be used
        used = set()
    steps: list[str | Refusal] = [f"CPUs {ranges(used)}"] if used else []
    if missing := set(cpus) - used:
        reason = f"CPUs {ranges(missing)} are not there or not allowed to this process, which has {ranges(before)}"
        advice = "Name CPUs of `nproc --all` that the container, cpuset or AllowedCPUs= lets it use."
        steps.append(Refusal(wanted, reason, advice))
    return steps


def _set_nice(step: int) -> str | Refusal:
    """Relative to what the process was started with, as the command `nice` does it."""
    wanted = f"nice {step:+d}"
    try:
        value = max(-20, min(os.getpriority(os.PRIO_PROCESS, 0) + step, 19))
        for thread in _threads():
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, thread, value)
    except PermissionError:
        advice = f"Give it CAP_SYS_NICE or LimitNICE={value} (systemd), --cap-add SYS_NICE (Docker); or raise the nice."
        return Refusal(wanted, "not permitted (RLIMIT_NICE)", advice)
    except OSError as error:
        return Refusal(wanted, str(error.strerror or error), "Leave the nice at 0.")
    return f"nice {value}"


def _set_realtime(priority: int) -> str | Refusal:
    wanted = f"SCHED_FIFO {priority}"
    if not hasattr(os, "SCHED_RESET_ON_FORK"):
        return Refusal(wanted, "this system has no SCHED_FIFO for a thread alone", "Set the real-time priority to 0.")
    try:
        # Reset: neither threads nor children inherit it, or a model's thread could hold a core for good.
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except PermissionError:
        advice = (
            f"Give it CAP_SYS_NICE, LimitRTPRIO={priority} (systemd), `ulimit -r {priority}`, or --cap-add SYS_NICE "
            "(Docker); a cgroup may also need time of its own (cpu.rt_runtime_us)."
        )
        return Refusal(wanted, "not permitted (RLIMIT_RTPRIO)", advice)
    except OSError as error:
        return Refusal(wanted, str(error.strerror or error), "Set the real-time priority to 0.")
    return wanted


def _forbid_huge_pages() -> str | Refusal:
    try:
        failed = ctypes.CDLL(None, use_errno=True).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
        reason = os.strerror(ctypes.get_errno())
    except (OSError, AttributeError):
        failed, reason = -1, "this system has no prctl"
    wanted = "no huge pages"
    return Refusal(wanted, reason, "Leave the huge pages to the system.") if failed else wanted


if __name__ == "__main__":  # the child of `try_out`
    asked = json.loads(sys.argv[1])
    print(json.dumps(asdict(apply(Scheduling(**{**asked, "cpus": tuple(asked["cpus"])})))))
