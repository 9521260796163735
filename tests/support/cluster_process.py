"""A cluster on this machine, as its users start it: `rtc-server cluster` with a Ray of its own.

Ray stays out of the test's process: what the tests see is HTTP, calls, and processes that they can kill.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.running_server import free_port
from tests.support.server_process import DEFAULTS, Value, as_toml

READY_SECONDS = 120.0  # 11 s on an idle machine
STOP_SECONDS = 60.0
POLL_SECONDS = 0.1
SETTINGS: Mapping[str, Value] = {**DEFAULTS, "server.tls": False, "server.media_workers": 0, "turns.vad": "webrtcvad"}


@dataclass(frozen=True, slots=True)
class ClusterProcess:
    """One running cluster."""

    url: str
    """The controller's, without a slash at the end."""
    page_url: str
    """The workers' status and metrics."""
    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def nodes(self) -> dict[str, dict[str, Any]]:
        """`/readyz`: name -> {"ready", "calls"}; {} when the controller does not answer."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5.0) as reply:
                nodes: dict[str, dict[str, Any]] = json.load(reply)["media_nodes"]
                return nodes
        except (OSError, ValueError, KeyError):
            return {}

    def workers(self) -> list[dict[str, Any]]:
        """`/status` of the workers' page; [] when it does not answer."""
        try:
            with urllib.request.urlopen(f"{self.page_url}/status", timeout=5.0) as reply:
                workers: list[dict[str, Any]] = json.load(reply)["workers"]
                return workers
        except (OSError, ValueError, KeyError):
            return []

    def processes(self, name: str) -> list[psutil.Process]:
        """Ray's processes with `name` in their title, such as "MediaNodeActor"."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                command = " ".join(child.cmdline())
            except psutil.Error:
                continue
            if command.startswith("ray::") and name in command:
                found.append(child)
        return found

    def stop(self) -> None:
        """SIGTERM, and wait. Raises AssertionError unless everything ends, with exit code 0."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_SECONDS)
        assert code == 0, f"the cluster ended with exit code {code}:\n{self.log}"
        _, alive = psutil.wait_procs(children, 10)
        assert not alive, f"left behind: {alive}"


@contextmanager
def cluster_process(*options: str, settings: Mapping[str, Value] | None = None) -> Iterator[ClusterProcess]:
    """`with cluster_process("--workers", "2") as cluster:` has echo workers and takes calls on loopback."""
    port, page_port = free_port(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="rtc-ray-"))  # short: Ray makes Unix sockets in it
    (folder / "server.toml").write_text(as_toml({**SETTINGS, **(settings or {})}), encoding="utf-8")
    command = [sys.executable, "-m", "rtc_server", "cluster", "--config", str(folder / "server.toml")]
    command += ["--backend", "echo", "--port", str(port), "--page-port", str(page_port)]
    command += ["--num-cpus", "4", "--worker-cpus", "0.1", *options]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RTC_SERVER__", "RAY_"))}
    env |= {"RAY_TMPDIR": str(folder), "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env)
    cluster = ClusterProcess(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{page_port}", process, folder)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while "cluster ready" not in cluster.log:
            assert process.poll() is None, f"the cluster ended with {process.returncode}:\n{cluster.log}"
            assert time.monotonic() < deadline, f"the cluster was not ready in time:\n{cluster.log}"
            time.sleep(POLL_SECONDS)
        yield cluster
        cluster.stop()
    finally:
        if process.poll() is None:
            for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                child.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
