"""A server of our own in a subprocess, on loopback only, with what it uses measured from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_SECONDS = 120.0  # the embedded models load in a few seconds; a cold disk takes longer
STOP_TIMEOUT_SECONDS = 15.0
POLL_SECONDS = 0.1


class BenchmarkError(RuntimeError):
    """The measurement cannot be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a server and its children hold."""

    calls: int
    asyncio_tasks: int
    threads: int
    """Of the signaling and media processes."""
    processes: int
    """The signaling process and everything below it."""
    sockets: int
    """Internet sockets of all processes."""
    rss_mb: float
    """Resident memory of all processes."""
    fds: int = 0
    """Open files, pipes and sockets of all processes."""

    def to_json(self) -> dict[str, float]:
        return asdict(self)


class RunningServer:
    """A server at `url`; `process` is None when somebody else started it."""

    def __init__(self, url: str, process: subprocess.Popen[bytes] | None = None) -> None:
        self.url = url.rstrip("/")
        self.process = process

    def info(self) -> dict[str, object]:
        """What `GET /v1/info` says."""
        return dict(json.loads(self._get("/v1/info")))

    def metrics(self) -> dict[str, float]:
        """Every sample of `GET /metrics`: name with labels -> value."""
        samples = {}
        for line in self._get("/metrics").splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def usage(self) -> Usage:
        """What it holds now. Only for a server of our own."""
        assert self.process is not None, "only the processes of a server that we started can be looked at"
        metrics = self.metrics()
        signaling = psutil.Process(self.process.pid)
        processes = [signaling, *signaling.children(recursive=True)]
        tasks = (value for name, value in metrics.items() if name.startswith("rtc_server_asyncio_tasks"))
        return Usage(
            calls=int(metrics["rtc_server_calls"]),
            asyncio_tasks=int(sum(tasks)),
            threads=sum(psutil.Process(pid).num_threads() for pid in (signaling.pid, *self.media_pids())),
            processes=len(processes),
            sockets=sum(len(process.net_connections("inet")) for process in processes),
            rss_mb=round(sum(process.memory_info().rss for process in processes) / 1e6, 1),
            fds=sum(process.num_fds() for process in processes),
        )

    def media_pids(self) -> list[int]:
        """Process ids of the media workers; the signaling process's own when calls run in it."""
        assert self.process is not None, "only the processes of a server that we started can be looked at"
        children = psutil.Process(self.process.pid).children()
        workers = [child.pid for child in children if "rtc_server.media.worker" in child.cmdline()]
        return workers or [self.process.pid]

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=10) as reply:
            return str(reply.read().decode())


@contextmanager
def serving(
    backend: str, overrides: Mapping[str, object] | None = None, module: str = "rtc_server"
) -> Iterator[RunningServer]:
    """A warm server on a free port of 127.0.0.1, with default settings but for `overrides` ("section.key": value);
    `module` is what is started in place of the server's own command.

    Raises BenchmarkError when it does not become ready; what it printed is in the message."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RTC_SERVER_")}
    fixed: dict[str, object] = {
        "webrtc.host_addresses": ["127.0.0.1"],
        "auth.keys_file": "",
        "server.realtime_port": 0,
    }
    for key, value in {**fixed, **(overrides or {})}.items():
        name = "RTC_SERVER__" + key.replace(".", "__").upper()
        environment[name] = value if isinstance(value, str) else json.dumps(value)
    command = [sys.executable, "-m", module, "serve", "--host", "127.0.0.1", "--no-tls"]
    command += ["--http-port", str(port), "--backend", backend]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        server = RunningServer(f"http://127.0.0.1:{port}", process)
        try:
            _wait_until_ready(server, process, log)
            yield server
        finally:
            _stop(process)


def histogram_quantile(
    before: Mapping[str, float], after: Mapping[str, float], name: str, quantile: float
) -> float | None:
    """A quantile of what a Prometheus histogram counted between two readings, in its unit; None if nothing.

    Linear inside a bucket, as Prometheus does it; the last bucket's lower edge where it lies beyond."""
    pattern = re.compile(re.escape(name) + r'_bucket\{le="([^"]+)"\}')
    buckets = []
    for key, value in after.items():
        found = pattern.fullmatch(key)
        if found:
            buckets.append((float(found[1]), value - before.get(key, 0.0)))
    buckets.sort()
    if not buckets or buckets[-1][1] <= 0:
        return None
    wanted = quantile * buckets[-1][1]
    low, counted = 0.0, 0.0
    for high, total in buckets:
        if total >= wanted:
            if high == float("inf"):
                return low
            return low + (high - low) * ((wanted - counted) / max(1.0, total - counted))
        low, counted = high, total
    return low


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(server: RunningServer, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(server.url + "/readyz", timeout=5):
                return
        except OSError:  # refused, or 503 until the models are warm
            time.sleep(POLL_SECONDS)
    log.seek(0)
    said = log.read().decode(errors="replace").strip()[-2_000:]
    raise BenchmarkError(f"The server did not become ready. It printed:\n{said}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
