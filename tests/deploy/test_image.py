"""The recipe of the image, and its entry point: run with stand-ins for a while, and with the real server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from rtc_server.config import load_settings
from tests.support.deployment import DEPLOY, ROOT, read_yaml, run, tool
from tests.support.running_server import free_port, running_server
from tests.support.server_process import DEFAULTS, ServerProcess, as_toml

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
ENTRYPOINT = DEPLOY / "docker" / "entrypoint.sh"

STUB = """\
#!/bin/sh
# A stand-in for rtc-server: notes what is asked of it, and fetches for as long as it is told to.
echo "$*" >>"$STUB_LOG"
if [ "$1" = models ]; then exec sleep "${STUB_FETCH_SECONDS:-0}"; fi
exit "${STUB_EXIT:-0}"
"""


class Container:
    """The entry point on a PATH whose rtc-server is a stand-in."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.log.touch()
        (folder / "rtc-server").write_text(STUB)
        (folder / "rtc-server").chmod(0o755)
        self._path = f"{folder}:/usr/bin:/bin"

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        env = {"PATH": self._path, "STUB_LOG": str(self.log), **variables}
        return subprocess.Popen([str(ENTRYPOINT), *arguments], env=env, stdin=subprocess.DEVNULL)

    def asked(self, *arguments: str, **variables: str) -> list[str]:
        assert self.start(*arguments, **variables).wait(10) == int(variables.get("STUB_EXIT", 0))
        return self.log.read_text().splitlines()

    def wait_until_fetching(self) -> None:
        deadline = time.monotonic() + 10
        while "models fetch" not in self.log.read_text():
            assert time.monotonic() < deadline, "it does not fetch"
            time.sleep(0.01)


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def test_the_dockerfile_lints_clean() -> None:
    done = run(tool("hadolint"), "--failure-threshold", "style", DOCKERFILE)
    assert done.returncode == 0, done.stdout


def test_the_shell_scripts_lint_clean() -> None:
    scripts = [*DEPLOY.rglob("*.sh"), ROOT / "scripts" / "clean_root.sh"]
    assert len(scripts) == 4
    done = run(tool("shellcheck"), *scripts)
    assert done.returncode == 0, done.stdout


def test_the_base_image_is_an_exact_release() -> None:
    (base,) = re.findall(r"^ARG DEBIAN=(.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert re.fullmatch(r"debian:\d+\.\d+-slim(@sha256:[0-9a-f]{64})?", base)
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?", DOCKERFILE.read_text(), re.MULTILINE)
    names = {name for _, name in stages}
    assert {image for image, _ in stages} <= {"${DEBIAN}"} | names
    assert {"cpu", "cuda"} <= names


def test_the_image_runs_as_a_user_and_by_exec() -> None:
    lines = DOCKERFILE.read_text().splitlines()
    assert "USER 10001:10001" in lines
    for word in ("ENTRYPOINT", "CMD"):
        assert all(line.split(" ", 1)[1].startswith("[") for line in lines if line.startswith(f"{word} "))
    uid = re.search(r"^UID_GID=(\d+)", (DEPLOY / "install.sh").read_text(), re.MULTILINE)
    assert uid is not None
    assert uid[1] == "10001"


def test_everything_that_is_copied_exists_and_is_let_through() -> None:
    allowed = {
        line[1:]
        for line in (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = set()
    for line in DOCKERFILE.read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    assert not any(name.startswith(("certs", "config/keys")) for name in allowed)


async def test_the_health_check_tells_a_server_from_none() -> None:
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    found = re.search(r"^HEALTHCHECK .*CMD (\[.+\])$", text, re.MULTILINE)
    assert found is not None
    program, *words = json.loads(found[1])
    assert program == "python3"

    async def check(port: int) -> int:
        moved = [word.replace("8000", str(port)) for word in words]
        process = await asyncio.create_subprocess_exec(sys.executable, *moved, stderr=subprocess.DEVNULL)
        return await process.wait()

    assert await check(free_port()) != 0
    async with running_server() as url:
        assert await check(int(url.rsplit(":", 1)[1])) == 0


def test_the_settings_of_the_image_are_valid() -> None:
    settings = load_settings(DEPLOY / "docker" / "server.toml")
    assert settings.server.host == "0.0.0.0"
    exposed = re.search(r"^EXPOSE (.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert exposed is not None
    ports = {f"{settings.server.http_port}/tcp", f"{settings.server.https_port}/tcp", f"{settings.webrtc.udp_port}/udp"}
    assert set(exposed[1].split()) == ports


def test_models_are_fetched_before_the_server_starts(container: Container) -> None:
    assert container.asked() == ["models fetch", "serve"]


def test_arguments_of_serve_are_passed_on(container: Container) -> None:
    assert container.asked("serve", "--backend", "echo", RTC_SERVER_FETCH_MODELS="0") == ["serve --backend echo"]


def test_other_commands_run_as_they_are(container: Container) -> None:
    assert container.asked("keys", "list", STUB_EXIT="3") == ["keys list"]


def test_sigterm_ends_the_download_at_once(container: Container) -> None:
    process = container.start(STUB_FETCH_SECONDS="600")
    container.wait_until_fetching()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    assert "serve" not in container.log.read_text()


def test_a_failed_download_is_not_followed_by_a_server(container: Container) -> None:
    process = container.start(STUB_FETCH_SECONDS="no number")
    assert process.wait(10) != 0
    assert "serve" not in container.log.read_text()


def test_sigterm_reaches_the_server_itself(tmp_path: Path) -> None:
    port = free_port()
    config, log = tmp_path / "server.toml", tmp_path / "log"
    values = {**DEFAULTS, "server.tls": False, "server.http_port": port, "engine.backend": "echo"}
    config.write_text(as_toml(values))
    env = {name: value for name, value in os.environ.items() if not name.startswith("RTC_SERVER_")}
    env |= {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "RTC_SERVER_FETCH_MODELS": "0"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(ENTRYPOINT), "serve", "--config", str(config)],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = ServerProcess(f"http://127.0.0.1:{port}", process, log)
    try:
        server.wait_until_ready()
        command = Path(f"/proc/{process.pid}/cmdline")  # the shell has become the server
        if command.exists():
            assert b"rtc-server" in command.read_bytes()
            assert b"entrypoint" not in command.read_bytes()
    finally:
        server.stop()


def test_every_recipe_names_the_version_that_there_is() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = read_yaml(DEPLOY / "kubernetes" / "rtc-server" / "Chart.yaml")
    assert (chart["version"], chart["appVersion"]) == (version, version)
    assert f'image.version="{version}"' in DOCKERFILE.read_text()
    assert f"rtc-server:{version}}}" in (DEPLOY / "compose.yml").read_text()
