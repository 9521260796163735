"""scripts/setup.sh, run with a Python that only notes what is asked of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
needs_no_gpu = pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")

STUB_PYTHON = """\
#!/bin/bash
# Answers like Python $STUB_VERSION; notes calls of pip in $STUB_LOG.
case "$*" in
  *"3, 11"*) [[ "$STUB_VERSION" == 3.1[123] ]] ;;
  *"import venv"*) true ;;
  *urllib*) [[ -n "${STUB_CPU_INDEX:-}" ]] ;;
  --version) echo "Python $STUB_VERSION" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip --version") true ;;
  "-m pip install "*+cpu) echo "$*" >>"$STUB_LOG"; [[ -n "${STUB_HAS_CPU_TORCH:-}" ]] ;;
  "-m pip install "*) echo "$*" >>"$STUB_LOG" ;;
  *) exit 1 ;;
esac
"""


class Clone:
    """A copy of what set-up reads, and a PATH whose programs are stubs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "clone"
        self.log = folder / "pip.log"
        self.programs = folder / "bin"
        (self.folder / "scripts").mkdir(parents=True)
        self.programs.mkdir()
        for name in ("pyproject.toml", "constraints.txt", "scripts/setup.sh"):
            shutil.copy(ROOT / name, self.folder / name)
        self.program("dpkg-query", "#!/bin/sh\necho 'install ok installed'\n")
        for name in ("apt-get", "python3.13", "python3.12", "python3.11"):
            self.program(name, "#!/bin/sh\necho refused >&2\nexit 1\n")
        self.program("python3", STUB_PYTHON)

    def program(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def set_up(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs it; `pip_calls` tells what was asked of pip meanwhile."""
        self.log.write_text("")
        return subprocess.run(
            [str(self.folder / "scripts" / "setup.sh"), *arguments],
            env={
                "PATH": f"{self.programs}:/usr/bin:/bin",
                "HOME": os.environ.get("HOME", "/"),
                "STUB_LOG": str(self.log),
                "STUB_VERSION": "3.12",
                **variables,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def pip_calls(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if "--upgrade pip" not in line]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_the_server_is_installed_with_the_pinned_versions_and_without_torch(clone: Clone) -> None:
    assert clone.set_up().returncode == 0
    (call,) = clone.pip_calls
    assert call.endswith("--constraint constraints.txt --editable .")


def test_a_second_run_asks_pip_for_nothing(clone: Clone) -> None:
    clone.set_up()
    assert clone.set_up().returncode == 0
    assert clone.pip_calls == []


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
def test_a_changed_file_is_installed_again(clone: Clone, changed: str) -> None:
    clone.set_up()
    with (clone.folder / changed).open("a") as file:
        file.write("# changed\n")
    clone.set_up()
    assert len(clone.pip_calls) == 1


@needs_no_gpu
def test_tests_get_the_cpu_build_of_torch(clone: Clone) -> None:
    assert clone.set_up("--test", STUB_HAS_CPU_TORCH="1").returncode == 0
    torch, project = clone.pip_calls
    assert torch.endswith("torch==2.13.0+cpu")
    assert "--extra-index-url" not in torch
    assert project.endswith("--editable .[dev,opens2s,cluster,tracing,sip,cleaning]")
    clone.set_up()
    assert clone.pip_calls == []  # what tests need includes what the server needs


@needs_no_gpu
def test_opens2s_adds_torch_and_no_dev_tools(clone: Clone) -> None:
    assert clone.set_up("--opens2s", STUB_HAS_CPU_TORCH="1").returncode == 0
    torch, project = clone.pip_calls
    assert torch.endswith("torch==2.13.0+cpu")
    assert project.endswith("--editable .[opens2s]")
    clone.set_up()
    assert clone.pip_calls == []  # the server alone is in it
    clone.set_up("--test", STUB_HAS_CPU_TORCH="1")
    clone.set_up("--opens2s")
    assert clone.pip_calls == []  # and it is in what tests need


@needs_no_gpu
def test_the_cpu_index_is_used_where_it_can_be_reached(clone: Clone) -> None:
    clone.set_up("--test", STUB_HAS_CPU_TORCH="1", STUB_CPU_INDEX="1")
    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in clone.pip_calls[0]


@needs_no_gpu
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="elsewhere the ordinary build needs no CUDA")
def test_a_cuda_build_is_not_pulled_unasked(clone: Clone) -> None:
    done = clone.set_up("--test")
    assert done.returncode == 1
    assert "RTC_SERVER_ALLOW_CUDA_TORCH=1" in done.stderr
    assert clone.set_up("--test", RTC_SERVER_ALLOW_CUDA_TORCH="1").returncode == 0


def test_a_python_that_is_not_supported_is_refused_with_the_way_out(clone: Clone) -> None:
    done = clone.set_up(STUB_VERSION="3.10")
    assert done.returncode == 1
    assert "PYTHON=/path/to/python" in done.stderr


def test_a_shim_that_does_not_work_is_passed_over(clone: Clone) -> None:
    clone.program("python3", "#!/bin/sh\nexit 127\n")
    clone.program("python3.11", STUB_PYTHON)
    assert clone.set_up(STUB_VERSION="3.11").returncode == 0


def test_a_broken_environment_is_made_anew(clone: Clone) -> None:
    clone.set_up()
    (clone.folder / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    assert clone.set_up().returncode == 0
    assert len(clone.pip_calls) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root installs them instead")
def test_missing_debian_packages_are_named_in_one_line(clone: Clone) -> None:
    clone.program("dpkg-query", "#!/bin/sh\nexit 1\n")
    done = clone.set_up()
    assert done.returncode == 0
    assert "sudo apt-get install -y libopus0" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may install")
def test_root_installs_missing_debian_packages_and_goes_on_when_that_fails(clone: Clone) -> None:
    clone.program("dpkg-query", "#!/bin/sh\nexit 1\n")
    done = clone.set_up()
    assert done.returncode == 0
    assert "some packages could not be installed; going on without: libopus0" in done.stderr


def test_telephone_calls_need_their_packages_and_no_torch(clone: Clone) -> None:
    assert clone.set_up("--sip").returncode == 0
    (call,) = clone.pip_calls
    assert call.endswith("--constraint constraints.txt --editable .[sip,cleaning]")
    assert clone.set_up().returncode == 0
    assert clone.pip_calls == []  # the server alone is in it


def test_missing_packages_of_the_telephone_edge_are_named(clone: Clone) -> None:
    clone.program(
        "dpkg-query", '#!/bin/sh\ncase "$4" in kamailio*) echo unknown ;; *) echo "install ok installed" ;; esac\n'
    )
    clone.program("id", "#!/bin/sh\necho 1000\n")
    done = clone.set_up("--sip")
    assert done.returncode == 0
    assert "sudo apt-get install -y kamailio kamailio-tls-modules kamailio-extra-modules\n" in done.stderr
