"""libwebrtc outside a browser (@roamhq/wrtc): what it negotiates, hears, and keeps over an ICE restart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server_process import ServerProcess, server_process

FILES = Path(__file__).resolve().parent.parent / "support" / "js"
NAMES = ("package.json", "package-lock.json", "wrtc_echo.mjs")


@pytest.fixture(scope="module")
def client() -> Path:
    """The script beside its npm package, which is fetched once into the user's cache."""
    if shutil.which("npm") is None:
        pytest.skip("Node.js with npm is not installed: apt-get install nodejs npm")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "rtc-server" / "test-clients"
    lock = (FILES / "package-lock.json").read_bytes()
    kept = folder / "package-lock.json"
    is_installed = (folder / "node_modules").is_dir() and kept.is_file() and kept.read_bytes() == lock
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        shutil.copy(FILES / name, folder / name)
    if not is_installed:
        command = ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            kept.unlink()
            pytest.skip(f"@roamhq/wrtc cannot be fetched: {done.stderr.strip()[-200:]}")
    return folder / "wrtc_echo.mjs"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    settings = {"server.echo_test": True, "turns.vad": "webrtcvad"}
    with server_process("echo", settings=settings) as running:
        yield running


def test_libwebrtc_hears_itself_and_survives_an_ice_restart(client: Path, server: ServerProcess) -> None:
    done = subprocess.run(
        ["node", str(client), server.url], capture_output=True, text=True, timeout=60, check=False, cwd=client.parent
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    (line,) = {line for line in seen["lines"] if "usedtx" in line}
    assert "useinbandfec=1" in line
    assert seen["state"] == "connected"
    assert "failed" not in seen["states"]
    assert seen["newCredentials"]
    assert seen["ports"][0] == seen["ports"][1], "one port, before and after"
    assert seen["sameSource"]
    assert seen["received"] > 100
    server.wait_for_calls(0, 20.0)
    assert "Traceback" not in server.log
