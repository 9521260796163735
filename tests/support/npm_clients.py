"""Clients from npm for the tests: fetched once into the user's cache, run by Node or bundled for a browser.

The packages are those of tests/support/js/package-lock.json; each lock has a folder of its own, so that two checkouts
do not undo each other's. Scripts run beside a link to them, in a folder of the test.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

FILES = Path(__file__).resolve().parent / "js"
MIN_NODE = 20  # the oldest that the packages run on
FETCH_SECONDS = 300.0
RUN_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class NpmClients:
    """The packages, and a folder with our scripts beside them."""

    folder: Path

    def run(
        self, script: str, *arguments: str, env: Mapping[str, str] | None = None, timeout: float = RUN_SECONDS
    ) -> str:
        """Run one of our scripts in Node; its standard output. Raises AssertionError when it fails."""
        command = ["node", str(self.folder / script), *arguments]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, (
            f"{script} ended with {done.returncode}:\n{done.stderr[-4000:]}{done.stdout[-2000:]}"
        )
        return done.stdout

    def run_json(self, script: str, *arguments: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The same for a script whose last line is JSON."""
        report: dict[str, Any] = json.loads(self.run(script, *arguments, env=env).strip().splitlines()[-1])
        return report

    def bundle(self, script: str) -> str:
        """One of our scripts with the packages that it imports, as one ES module for a browser."""
        esbuild = self.folder / "node_modules" / "esbuild" / "bin" / "esbuild"
        command = ["node", str(esbuild), str(self.folder / script), "--bundle", "--format=esm", "--platform=browser"]
        done = subprocess.run(
            [*command, "--log-level=error"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def npm_clients(folder: Path, sources: Path = FILES) -> NpmClients:
    """Our scripts from `sources`, copied to `folder`, beside the packages. Skips the test without npm or network."""
    if shutil.which("npm") is None:
        pytest.skip("Node.js with npm is not installed: apt-get install nodejs npm")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < MIN_NODE:
        pytest.skip(f"Node.js {version} is too old for the npm clients; they need {MIN_NODE}")
    packages = _fetched()
    for source in sources.iterdir():
        if source.suffix in (".mjs", ".js", ".html", ".wav"):
            shutil.copy(source, folder / source.name)
    (folder / "package.json").write_text('{"type": "module"}\n', encoding="utf-8")
    (folder / "node_modules").symlink_to(packages / "node_modules")
    return NpmClients(folder)


def _fetched() -> Path:
    """The folder of the packages of our lock. Another process may be fetching the same at this moment."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    lock = (FILES / "package-lock.json").read_bytes()
    folder = base / "rtc-server" / "test-clients" / sha256(lock).hexdigest()[:12]
    if (folder / "complete").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # a fetch that was broken off
    folder.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(FILES / name, folder / name)
    # All binaries that we need are in the packages themselves, so no package has to run a script.
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    if done.returncode:
        shutil.rmtree(folder)
        pytest.skip(f"the npm clients cannot be fetched: {done.stderr.strip()[-200:]}")
    (folder / "complete").touch()
    return folder
