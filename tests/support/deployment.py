"""What checks deploy/: programs fetched by `python -m scripts.deploy_tools`, and where things lie."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from rtc_server.config import Settings
from scripts.deploy_tools import FOLDER

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"

TOOL_SECONDS = 60.0


def tool(name: str) -> Path:
    """A fetched program or file; the test skips where it cannot be had."""
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{name} is not here: `.venv/bin/python -m scripts.deploy_tools` fetches it (Linux on x86-64)")
    return path


def program(name: str) -> str:
    """A program of the system; the test skips where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed on this machine")
    return found


def run(
    *command: str | Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=None if env is None else dict(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TOOL_SECONDS,
        check=False,
    )


def kubernetes_problems(version: str, objects: list[dict[str, Any]]) -> list[str]:
    """What the API of that Kubernetes would refuse: unknown or misspelled fields, wrong types, missing ones."""
    definitions = json.loads(tool(f"kubernetes-{version}.json").read_text())["$defs"]
    by_kind = {
        (kind["group"], kind["version"], kind["kind"]): name
        for name, definition in definitions.items()
        for kind in definition.get("x-kubernetes-group-version-kind", [])
    }
    problems = []
    for found in objects:
        group, _, api_version = found["apiVersion"].rpartition("/")
        name = by_kind[group, api_version, found["kind"]]
        schema = {"$ref": f"#/$defs/{name}", "$defs": definitions}
        for error in jsonschema_rs.Draft202012Validator(schema).iter_errors(found):
            problems.append(f"{found['kind']} {'/'.join(map(str, error.instance_path))}: {error.message[:300]}")
    return problems


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def drain_seconds(settings: Settings) -> float:
    """How long the server takes at most from SIGTERM to its end: the drain, and what is left to end after it."""
    return float(settings.server.drain_timeout_seconds + settings.server.shutdown_timeout_seconds)
