"""Every example runs as its header says, against the real server."""

from __future__ import annotations

import os
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from tests.clients.dialogue import KEY
from tests.support.npm_clients import NpmClients, npm_clients
from tests.support.server_process import ServerProcess

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
RUN_SECONDS = 120.0
PAGES = {"browser_agents", "whip.html"}
"""Run in tests/clients/browser/test_examples_in_pages.py."""

TELEPHONE = {"answer_calls.py"}
"""Run in tests/sip/test_control.py."""

MOBILE = {"mobile"}
"""Its part in Node: run in tests/clients/test_mobile.py. Those in Swift and Kotlin say that they are not built here."""

RAN = {"aiortc_talk.py", "curl.sh", "node_agents.mjs", "node_openai.mjs", "python_openai.py"}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> NpmClients:
    """The examples beside the packages that they tell to install."""
    return npm_clients(tmp_path_factory.mktemp("examples"), EXAMPLES)


def run(command: list[str], server: ServerProcess, **variables: str) -> str:
    """What it prints. Raises AssertionError when it fails."""
    variables = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": KEY, **variables}
    keyboard, fingers = os.pipe()  # at which nobody types; wscat ends when there is none
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **variables},
            stdin=keyboard,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
    finally:
        os.close(keyboard)
        os.close(fingers)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def seconds_of(path: Path) -> float:
    with wave.open(str(path)) as file:
        return file.getnframes() / file.getframerate()


def assert_talked(printed: str) -> None:
    """Both sides have words."""
    said = dict(line.split(":", 1) for line in printed.splitlines() if line.startswith(("you:", "server:")))
    assert said["you"].strip()
    assert said["server"].strip()


@pytest.mark.parametrize("script", ["python_openai.py", "aiortc_talk.py"])
def test_python(script: str, stock_server: ServerProcess, tmp_path: Path) -> None:
    reply = tmp_path / "reply.wav"
    command = [sys.executable, str(EXAMPLES / script), str(EXAMPLES / "question.wav"), str(reply)]
    assert_talked(run(command, stock_server))
    assert seconds_of(reply) > 0.3


def test_node_openai(packages: NpmClients, stock_server: ServerProcess, tmp_path: Path) -> None:
    reply = tmp_path / "reply.wav"
    command = ["node", str(packages.folder / "node_openai.mjs"), str(EXAMPLES / "question.wav"), str(reply)]
    secure = {"OPENAI_BASE_URL": f"{stock_server.https_url}/v1", "NODE_EXTRA_CA_CERTS": str(stock_server.ca_path)}
    assert_talked(run(command, stock_server, **secure))
    assert seconds_of(reply) > 0.3


def test_node_agents(packages: NpmClients, stock_server: ServerProcess) -> None:
    printed = run(["node", str(packages.folder / "node_agents.mjs")], stock_server)
    assert_talked(printed)
    assert "tool:   get_weather(" in printed


def test_curl(packages: NpmClients, stock_server: ServerProcess) -> None:
    script = packages.folder / "curl.sh"
    script.write_bytes((EXAMPLES / "curl.sh").read_bytes())
    printed = run(["bash", "-c", 'cd "$0" && bash curl.sh', str(packages.folder)], stock_server, WAIT_SECONDS="15")
    assert '"object": "list"' in printed
    assert "ek_" in printed
    assert '"response.output_text.done"' in printed.replace('"type": ', "")
    assert "response.done" in printed


def test_every_example_is_run_and_listed() -> None:
    shown = {path.name for path in EXAMPLES.iterdir()} - {"README.md", "question.wav", "node_modules"}
    assert shown == RAN | PAGES | TELEPHONE | MOBILE
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [name for name in shown if f"({name}" not in listed] == []
