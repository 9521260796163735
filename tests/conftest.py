"""Every test starts from a clean environment and has to leave no task, thread, process or socket behind."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

import psutil
import pytest

# Before any module of ours is imported: a developer's own settings must not change what the tests see.
for _name in [name for name in os.environ if name.upper().startswith("RTC_SERVER__")]:
    del os.environ[_name]
os.environ["HF_HUB_OFFLINE"] = "1"

GRACE_SECONDS = 5.0  # what was just closed may need a moment to be gone on a busy machine
POLL_SECONDS = 0.01

Found = TypeVar("Found")

LASTING_THREADS = ("pydevd", "tqdm", "MainThread")
"""Prefixes of threads that libraries start once and keep for good."""

LASTING_PROCESSES = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Parts of command lines of helpers that Python starts once and keeps for good."""


def pytest_sessionstart() -> None:
    """The library that cleans audio opens sockets of its own with its first use, and keeps them: they are no leak."""
    from rtc_server.audio.cleaning import is_cleaning_available, load

    if is_cleaning_available():
        load()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the checks around every other fixture: threads outside the event loop, tasks inside it."""
    for item in items:
        if isinstance(item, pytest.Function):
            checks = ["no_leaked_threads"]
            if inspect.iscoroutinefunction(item.obj):
                checks.append("no_leaked_tasks")
            item.fixturenames[:] = checks + [name for name in item.fixturenames if name not in checks]


@pytest.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fails when a test leaves tasks on its loop."""
    yield
    leaked = asyncio.all_tasks() - {asyncio.current_task()}
    if leaked:
        _, leaked = await asyncio.wait(leaked, timeout=GRACE_SECONDS)
    assert not leaked, f"leaked: tasks {sorted(task.get_name() for task in leaked)}"


@pytest.fixture(autouse=True)
def no_leaked_threads() -> Iterator[None]:
    """Fails when a test leaves Python threads, daemons included."""
    before = set(threading.enumerate())
    yield
    leaked = _settle(lambda: [thread for thread in threading.enumerate() if _is_new(thread, before)])
    assert not leaked, f"leaked: threads {sorted(thread.name for thread in leaked)}"


@pytest.fixture(autouse=True, scope="module")
def no_leaked_processes_and_sockets() -> Iterator[None]:
    """Fails when a module leaves child processes or sockets. Once per module: looking costs milliseconds."""
    processes, sockets = set(_children()), _sockets()
    yield
    gc.collect()
    left = _settle(lambda: [child for child in _children() if child not in processes])
    assert not left, f"leaked: processes {[_command(child) for child in left]}"
    opened = _settle(lambda: sorted(_sockets() - sockets))
    assert not opened, f"leaked: {len(opened)} sockets, {[_describe_socket(inode) for inode in opened]}"


@pytest.fixture(autouse=True, scope="session")
def no_leaked_processes_at_all() -> Iterator[None]:
    """Fails when fixtures that live as long as the session leave child processes."""
    before = set(_children())
    yield
    left = _settle(lambda: [child for child in _children() if child not in before])
    assert not left, f"leaked: processes {[_command(child) for child in left]}"


def _settle(look: Callable[[], list[Found]]) -> list[Found]:
    """What `look` still finds once it finds nothing or the grace is over."""
    deadline = time.monotonic() + GRACE_SECONDS
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return found


def _is_new(thread: threading.Thread, before: set[threading.Thread]) -> bool:
    return thread not in before and thread.is_alive() and not thread.name.startswith(LASTING_THREADS)


def _children() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [child for child in children if not any(part in _command(child) for part in LASTING_PROCESSES)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return "(gone)"


def _sockets() -> set[str]:
    """Inodes of the sockets that this process holds; empty where /proc does not tell."""
    found = set()
    try:
        descriptors = os.listdir("/proc/self/fd")
    except FileNotFoundError:
        return found
    for descriptor in descriptors:
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue  # closed meanwhile, such as the one that listed the folder
        if target.startswith("socket:"):
            found.add(target)
    return found


def _describe_socket(inode: str) -> str:
    for connection in psutil.Process().net_connections(kind="all"):
        if connection.fd >= 0 and os.readlink(f"/proc/self/fd/{connection.fd}") == inode:
            return f"{connection.type.name} {connection.laddr or 'unnamed'} -> {connection.raddr or 'nobody'}"
    return inode
