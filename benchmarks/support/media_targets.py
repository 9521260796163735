"""The servers under load: ours and the peers, each pinned to one CPU, and one run of the load test against them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rtc_server.loadtest.run import LoadPlan, default_recordings, run

from .peer_environments import PEERS, peer_python
from .server import BenchmarkError, free_port, serving

SERVER_CPU, CLIENT_CPU = 0, 1
PEER_START_SECONDS = 60.0  # FastRTC imports gradio


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare with, and where to look for what it carries."""

    program: str
    """In `benchmarks/peers`."""
    has_environment: bool
    """Its packages are not among ours."""
    capacity_start: int
    capacity_step: int


PEER_SERVERS: Mapping[str, Peer] = {
    "aiortc": Peer("plain_aiortc_echo.py", False, 12, 4),
    "fastrtc": Peer("fastrtc_echo.py", True, 12, 4),
    "pipecat": Peer("pipecat_echo.py", True, 6, 1),
}


@dataclass(frozen=True, slots=True)
class Target:
    """A server under load."""

    name: str
    url: str
    path: str
    pids: tuple[int, ...]
    """Of the processes that carry the media."""


@contextmanager
def ours(vad: str, *, workers: int = 1, hog: bool = False, listens_only: bool = False) -> Iterator[Target]:
    """This server as an echo; with `listens_only` as the partner of a conversation who never answers."""
    settings: dict[str, object] = {
        "server.echo_test": True,
        "server.max_calls": 1_000,
        "server.media_workers": workers,
        "server.media_cpu_affinity": [SERVER_CPU],
        "turns.vad": vad,
        "turns.create_response": not listens_only,
        "logging.level": "warning",
    }
    with serving("echo", settings, "benchmarks.support.hogged" if hog else "rtc_server") as server:
        path = "/api/offer" if listens_only else "/api/echo"
        yield Target("ours", server.url, path, tuple(server.media_pids()))


def prepare_peer(name: str) -> str:
    """The interpreter of one of `PEER_SERVERS`, its packages installed if need be."""
    return str(peer_python(name)) if PEER_SERVERS[name].has_environment else sys.executable


@contextmanager
def peer(name: str) -> Iterator[Target]:
    """One of `PEER_SERVERS`. Raises BenchmarkError when it does not start; what it printed is in the message."""
    python = prepare_peer(name)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        command = [python, str(PEERS / PEER_SERVERS[name].program), "--port", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            os.sched_setaffinity(process.pid, {SERVER_CPU})
            deadline = time.monotonic() + PEER_START_SECONDS
            while not _answers(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    said = log.read().decode(errors="replace").strip()[-2_000:]
                    raise BenchmarkError(f"The peer {name} did not start. It printed:\n{said}")
                time.sleep(0.1)
            yield Target(name, url, "/offer", (process.pid,))
        finally:
            process.kill()
            process.wait()


def load(target: Target, calls: int, seconds: float, **more: Any) -> dict[str, Any]:
    """One run of the load test; `more` goes into its `LoadPlan`."""
    plan = LoadPlan(
        target.url,
        default_recordings(),
        calls,
        seconds,
        path=target.path,
        pids=target.pids,
        client_cpu=CLIENT_CPU,
        **more,
    )
    return {"server_name": target.name, **run(plan)}


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url + "/healthz", timeout=2).close()
    except OSError:
        return False
    return True
