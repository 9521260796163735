"""What is installed where: extras, files that ship, and what the server never loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rtc_server import paths
from scripts import lock

ROOT = Path(__file__).resolve().parent.parent


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_opens2s_extra_is_there() -> None:
    done = run_python("import torch, transformers; print(torch.ones(2, 3).sum().item(), transformers.__version__)")
    assert done.returncode == 0, f"{done.stderr}\nRun `make setup-test`."
    assert done.stdout.startswith("6.0 ")


@pytest.mark.parametrize("module", ["rtc_server.cli.app", "rtc_server.app.server", "rtc_server.inference.worker"])
def test_the_server_loads_neither_torch_nor_transformers(module: str) -> None:
    code = f"import sys, {module}; sys.exit(str({{'torch', 'transformers', 'ray'}} & set(sys.modules) or '') or 0)"
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_the_lock_fits_pyproject_and_this_environment() -> None:
    assert lock.problems() == []


def test_a_checkout_finds_its_own_files() -> None:
    assert paths.web_dir() == ROOT / "web"
    assert paths.default_config_file() == ROOT / "config" / "server.toml"


def test_an_installed_package_finds_the_files_inside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "rtc_server"
    monkeypatch.setattr(paths, "_PACKAGE", package)
    monkeypatch.setattr(paths, "_CHECKOUT", package.parent)
    (package.parent / "web").mkdir(parents=True)  # somebody else's
    assert paths.web_dir() == package / "_web"
    assert paths.default_config_file() == package / "_config" / "server.toml"


def test_onnxruntime_reports_nothing_to_anybody(tmp_path: Path) -> None:
    # It says so itself where it cannot write the id that it reports under.
    code = "import rtc_server, onnxruntime; print(onnxruntime.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "elemetry" not in done.stderr
    assert list(tmp_path.rglob("*")) == []
