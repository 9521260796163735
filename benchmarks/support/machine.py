"""Where a result comes from, what a machine must have for it, and the arithmetic of figures."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.support.server import BenchmarkError

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("aiortc", "aioice", "av", "numpy", "onnxruntime", "xllamacpp", "hibari-tts")


def provenance() -> dict[str, object]:
    """Machine, commit, packages and load, for the head of every result."""
    return {
        "measured_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "has_local_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": [round(value, 2) for value in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def percentiles(values: Sequence[float]) -> dict[str, float | int | None]:
    """p50, p95, p99, min and max of `values`, rounded to a tenth; None where there are no values."""
    if not values:
        return {"n": 0, "p50": None, "p95": None, "p99": None, "min": None, "max": None}
    p50, p95, p99 = (round(float(value), 1) for value in np.percentile(values, (50, 95, 99)))
    return {
        "n": len(values),
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "min": round(min(values), 1),
        "max": round(max(values), 1),
    }


def largest(works: Callable[[int], bool], first: int, most: int) -> int:
    """The largest number up to `most` for which `works` holds, 0 if `first` does not; it is asked few times.

    Between a number that works and twice as many, three steps at most, so that the answer is good to an eighth."""
    good, bad, count = 0, 0, first
    while not bad and good < most:
        if works(count):
            good, count = count, min(2 * count, most)
        else:
            bad = count
    for _ in range(3):
        if not good or bad - good <= 1:
            break
        middle = (good + bad) // 2
        if works(middle):
            good = middle
        else:
            bad = middle
    return good


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # not a checkout
    return done.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def require_root_and_programs(programs: Sequence[str]) -> None:
    """For measurements on machines in a box. Raises BenchmarkError that says what is missing."""
    if os.geteuid() != 0:
        raise BenchmarkError("This measures on machines in a box (network namespaces), which only root can make.")
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise BenchmarkError(f"Not installed: {', '.join(missing)}; scripts/setup.sh --test, as root, installs them.")
