"""A web server for pages that use our server from another origin.

A real one, in a process of its own: Chromium does not let a page whose address it does not know talk to this machine.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.running_server import free_port

START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Pages:
    """Files of `folder` under `origin`."""

    folder: Path
    origin: str


@contextmanager
def pages_process(folder: Path) -> Iterator[Pages]:
    """`with pages_process(tmp_path) as pages:` serves what is put into the folder."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield Pages(folder, f"http://localhost:{port}")
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        except OSError:
            assert process.poll() is None, f"the web server ended with {process.returncode}"
            assert time.monotonic() < deadline, "the web server does not listen"
            time.sleep(0.05)
