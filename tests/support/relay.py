"""coturn as a process, with the configuration that we ship and lines of a test after it, or with its own alone."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.deployment import DEPLOY

SECRET = "0123456789abcdef0123456789abcdef"
START_SECONDS = 10.0


def require_coturn() -> None:
    """Skip where it is not installed."""
    if shutil.which("turnserver") is None:
        pytest.skip("not installed: coturn (scripts/setup.sh --test as root installs it)")


def shipped_lines(*, without: Sequence[str] = ()) -> list[str]:
    """Those of deploy/turn/turnserver.conf, but for options of these names."""
    text = (DEPLOY / "turn" / "turnserver.conf").read_text(encoding="utf-8")
    left_out = {*without, "pidfile", "userdb"}
    return [line for line in text.splitlines() if line.partition("=")[0] not in left_out]


@contextmanager
def coturn(folder: Path, lines: Sequence[str], listening: Sequence[tuple[str, int]]) -> Iterator[Path]:
    """On the machine that this thread is on, until it listens there by TCP; its log."""
    folder.mkdir(parents=True, exist_ok=True)
    config, path = folder / "turnserver.conf", folder / "coturn.log"
    own = [f"pidfile={folder / 'turn.pid'}", f"userdb={folder / 'turn.db'}"]
    config.write_text("\n".join([*lines, *own, ""]), encoding="utf-8")
    with path.open("wb") as log:
        process = subprocess.Popen(["turnserver", "-c", config], stdout=log, stderr=log, cwd=folder)
    try:
        deadline = time.monotonic() + START_SECONDS
        for place in listening:
            while not _listens(place):
                assert process.poll() is None, path.read_text(errors="replace")
                assert time.monotonic() < deadline, path.read_text(errors="replace")
                time.sleep(0.02)
        yield path
    finally:
        process.terminate()
        process.wait()


def _listens(place: tuple[str, int]) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET) as probe:
        return probe.connect_ex(place) == 0
