"""Keeps `constraints.txt`, the exact versions that set-up installs, in step with `pyproject.toml`.

    python -m scripts.lock --check   compare it with pyproject.toml and with this environment (exit code 1)
    python -m scripts.lock --write   write it anew from this environment

To raise versions: make a new environment, `pip install --upgrade '.[dev,opens2s,cluster,tracing,sip,cleaning]'` into
it, run the tests, then `--write` from it. torch's CUDA libraries are left out: only its CUDA builds ask for them, and
pin them themselves.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "constraints.txt"
HEADER = """\
# Exact versions of everything that set-up installs, for Python 3.11 to 3.13.
# Written by `python -m scripts.lock --write`; the ranges and their reasons stand in pyproject.toml.
"""
CUDA_PREFIXES = ("nvidia-c", "nvidia-n", "cuda-", "triton")  # nvidia-cublas to nvidia-nvtx, but not nvidia-ml-py


def read_lock() -> dict[str, Version]:
    """Name -> pinned version, names in canonical form."""
    pins: dict[str, Version] = {}
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        text = line.split("#")[0].strip()
        if text:
            name, version = text.split("==")
            pins[canonicalize_name(name)] = Version(version)
    return pins


def installed() -> dict[str, Version]:
    """Name -> version of what the project brings into this environment, direct or not.

    Without local tags ("+cpu"), CUDA libraries, and whatever somebody installed here for themselves.
    """
    found: dict[str, Version] = {}
    waiting = requirements()
    seen = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, *sorted(requirement.extras)) in seen or name.startswith(CUDA_PREFIXES):
            continue
        seen.add((name, *sorted(requirement.extras)))
        try:
            present = distribution(name)
        except PackageNotFoundError:
            continue  # an extra that is not installed here, or of another platform
        found[name] = Version(Version(present.version).public)
        for text in present.requires or ():
            needed = Requirement(text)
            contexts = [{"extra": extra} for extra in ("", *requirement.extras)]
            if needed.marker is None or any(needed.marker.evaluate(context) for context in contexts):
                waiting.append(needed)
    return found


def requirements() -> list[Requirement]:
    """Every requirement of pyproject.toml, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(text) for group in groups for text in group]


def problems() -> list[str]:
    """What is wrong with the lock, one sentence each."""
    pins, present = read_lock(), installed()
    found = []
    for requirement in requirements():
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None:
            found.append(f"constraints.txt does not pin {requirement.name}.")
        elif not requirement.specifier.contains(pin, prereleases=True):
            found.append(
                f"constraints.txt pins {requirement.name}=={pin}; pyproject.toml wants {requirement.specifier}."
            )
    for name, version in sorted(present.items()):
        if name not in pins:
            found.append(f"{name}=={version} is installed but not pinned in constraints.txt.")
        elif pins[name] != version:
            found.append(f"{name}=={version} is installed; constraints.txt pins {pins[name]}.")
    return found


def main(arguments: list[str]) -> int:
    """Check or write the lock. Returns the exit code."""
    if "--write" in arguments:
        lines = [f"{name}=={version}\n" for name, version in sorted(installed().items())]
        LOCK.write_text(HEADER + "".join(lines), encoding="utf-8")
        return 0
    found = problems()
    for problem in found:
        print(problem)
    if found:
        print("Run `make setup-test`, or see scripts/lock.py for how to change versions.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
