"""What is done to a server in the fault tests, and how its processes are found."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from aiortc import RTCConfiguration, RTCIceServer, RTCIceTransportPolicy

from tests.support.live_call import LiveCall
from tests.support.server_process import ServerProcess

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
TURNSERVER = Path("/usr/bin/turnserver")
TURN_START_SECONDS = 10.0


def workers(server: ServerProcess) -> list[psutil.Process]:
    """The media workers, the oldest first."""
    return _children(server, "rtc_server.media.worker")


def engine(server: ServerProcess) -> psutil.Process:
    """The engine's process."""
    return _children(server, "rtc_server.inference.worker")[0]


def _children(server: ServerProcess, module: str) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return sorted((child for child in children if module in child.cmdline()), key=lambda child: child.create_time())


def worker_of(server: ServerProcess, call: LiveCall) -> psutil.Process:
    """The media worker that carries a call."""
    connection = call.peer.pc.getTransceivers()[0].sender.transport.transport._connection
    port = connection._nominated[1].remote_addr[1]
    return next(w for w in workers(server) if any(c.laddr.port == port for c in w.net_connections("udp")))


@contextmanager
def paused(process: psutil.Process) -> Iterator[None]:
    """The process stands still meanwhile, as a process does whose machine swaps or whose debugger holds it."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@contextmanager
def slowed(process: psutil.Process, run_seconds: float = 0.01, stop_seconds: float = 0.05) -> Iterator[None]:
    """The process gets a share of its time only: it is stopped and let go in turn."""
    is_over = threading.Event()

    def toggle() -> None:
        while not is_over.is_set():
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(stop_seconds)
            os.kill(process.pid, signal.SIGCONT)
            is_over.wait(run_seconds)

    thread = threading.Thread(target=toggle, name="slowing")
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextmanager
def turn_server(port: int, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], RTCConfiguration]]:
    """A coturn on loopback, and the configuration of a client that uses nothing else."""
    command = [str(TURNSERVER), "-n", "--listening-ip", "127.0.0.1", "--listening-port", str(port)]
    command += ["--relay-ip", "127.0.0.1", "--allow-loopback-peers", "--lt-cred-mech", "--user", "caller:turn-test"]
    command += ["--realm", "test", "--no-tls", "--no-dtls", "--no-cli", "--min-port", "50000", "--max-port", "59999"]
    command += ["--log-file", "stdout", "--pidfile", str(folder / "turn.pid"), "--userdb", str(folder / "turn.db")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + TURN_START_SECONDS
        while True:
            assert process.poll() is None, "coturn did not start"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline, "coturn does not listen"
            time.sleep(0.05)
        ice = RTCIceServer(urls=f"turn:127.0.0.1:{port}?transport=udp", username="caller", credential="turn-test")
        yield process, RTCConfiguration(iceServers=[ice], iceTransportPolicy=RTCIceTransportPolicy.RELAY)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextmanager
def small_disk(folder: Path, size_kb: int = 256) -> Iterator[None]:
    """`folder` is a disk of its own meanwhile, soon full. Only root may mount one; the test is skipped where even root
    may not."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("this container may not mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
