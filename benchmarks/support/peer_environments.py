"""Environments of the servers that we compare with: their packages would not fit beside ours.

Each is made on first use, from `benchmarks/peers/<name>.txt`, as `rtc-server/peers/<name>-<hash>` in the cache folder;
the hash is of that file and the Python version. They are large (about 1 GB) and can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .server import BenchmarkError

PEERS = Path(__file__).resolve().parents[1] / "peers"
INSTALL_TIMEOUT_SECONDS = 1_200.0


def environment_folder(requirements: Path) -> Path:
    """Where the environment with these packages is, or would be."""
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "rtc-server" / "peers" / f"{requirements.stem}-{digest}"


def peer_python(name: str) -> Path:
    """The interpreter with the packages of that peer. Raises BenchmarkError when they cannot be installed."""
    requirements = PEERS / f"{name}.txt"
    folder = environment_folder(requirements)
    python, complete = folder / "bin" / "python", folder / "complete"
    if complete.is_file():
        return python
    shutil.rmtree(folder, ignore_errors=True)  # of an installation that was broken off
    print(f"installing {name} into {folder}", file=sys.stderr)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)]
    try:
        for command in ([sys.executable, "-m", "venv", str(folder)], install):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_SECONDS)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError)):
            raise
        said = str(getattr(error, "stderr", None) or getattr(error, "stdout", None) or error).strip().splitlines()
        raise BenchmarkError(
            f"The environment of the peer {name} could not be made from {requirements}: {said[-1]}"
        ) from error
    complete.touch()
    return python
