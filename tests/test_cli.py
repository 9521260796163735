"""The command line: what each command prints, and what it answers to mistakes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rtc_server.app.webhook_signature import parse_secrets
from rtc_server.cli.app import app
from rtc_server.cli.models import needed_weights
from rtc_server.config import Settings, settings_keys

COMMANDS = ("serve", "call", "models", "certs", "keys", "recordings", "sip", "config", "doctor")
START_TIMEOUT_SECONDS = 60.0


def run(*arguments: str) -> Result:
    """Inside this process; for commands that end normally."""
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def run_program(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The real program, exit code and all."""
    return subprocess.run(
        [sys.executable, "-m", "rtc_server", *arguments],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- help


def test_help_names_every_command_and_the_first_steps() -> None:
    text = run("--help").output
    assert all(command in text for command in COMMANDS)
    assert "rtc-server models fetch" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 8


@pytest.mark.parametrize(
    "option",
    [
        "--config",
        "--host",
        "--insecure-no-auth",
        "--http-port",
        "--https-port",
        "--realtime-port",
        "--no-tls",
        "--backend",
        "--max-calls",
        "--models-dir",
    ],
)
def test_serve_has_its_flags(option: str) -> None:
    assert option in run("serve", "--help").output


def test_version() -> None:
    assert re.fullmatch(r"rtc-server \d+\.\d+\.\d+\n", run("--version").output)


def test_help_loads_no_media_and_no_model_library() -> None:
    code = (
        "import sys; from rtc_server.cli.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'aiortc', 'av', 'aiohttp', 'onnxruntime', 'torch', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# --- mistakes


def test_a_misspelt_setting_is_one_sentence_and_exit_code_2() -> None:
    done = run_program("config", RTC_SERVER__TURNS__TRESHOLD="0.6")
    assert done.returncode == 2
    assert done.stderr == (
        "Error: RTC_SERVER__TURNS__TRESHOLD (environment) sets nothing; did you mean RTC_SERVER__TURNS__THRESHOLD?\n"
    )


def test_an_unknown_backend_is_one_sentence_with_the_nearest() -> None:
    done = run_program("serve", "--backend", "ecko")
    assert done.returncode == 2
    assert "did you mean 'echo'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_models_are_one_sentence_with_the_command(tmp_path: Path) -> None:
    done = run_program("serve", "--models-dir", str(tmp_path))
    assert done.returncode == 1
    assert "rtc-server models fetch" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_option_is_exit_code_2() -> None:
    assert run("serve", "--hots", "x").exit_code == 2


def test_a_recording_must_exist(tmp_path: Path) -> None:
    result = run("call", "--say", str(tmp_path / "none.wav"))
    assert result.exit_code == 2


# --- config, models, certs, doctor


def test_config_prints_every_key_with_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTC_SERVER__TURNS__THRESHOLD", "0.6")
    path = tmp_path / "my.toml"
    path.write_text("[server]\nmax_calls = 7\n")
    rows = {row["key"]: row for row in json.loads(run("config", "--config", str(path), "--json").output)}
    assert list(rows) == [key.name for key in settings_keys()]
    assert rows["turns.threshold"] == {
        "key": "turns.threshold",
        "value": 0.6,
        "source": "RTC_SERVER__TURNS__THRESHOLD",
    }
    assert rows["server.max_calls"] == {"key": "server.max_calls", "value": 7, "source": str(path)}
    assert rows["server.host"]["source"] == "default"
    text = run("config", "--config", str(path)).output
    assert all(key in text for key in rows)


def test_models_list_shows_what_is_missing(tmp_path: Path) -> None:
    text = run("models", "list", "--models-dir", str(tmp_path)).stdout
    assert text.count("missing") == 6
    listing = json.loads(run("models", "list", "--models-dir", str(tmp_path), "--json").output)
    assert listing["folder"] == str(tmp_path)
    assert not any(file["is_present"] for file in listing["files"])


def test_models_verify_fails_while_files_are_missing(tmp_path: Path) -> None:
    result = run("models", "verify", "--models-dir", str(tmp_path))
    assert result.exit_code == 1
    assert "models fetch" in result.output


def test_models_fetch_does_not_use_the_network_when_told_so(tmp_path: Path) -> None:
    done = run_program("models", "fetch", "--models-dir", str(tmp_path), RTC_SERVER__MODELS__OFFLINE="true")
    assert done.returncode == 1
    assert "models.offline" in done.stderr


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, {"silero", "moonshine", "SmolLM2"}),
        ({"cascade": {"llm_path": "my.gguf"}}, {"silero", "moonshine"}),
        ({"turns": {"vad": "webrtcvad"}}, {"moonshine", "SmolLM2"}),
        ({"engine": {"backend": "echo"}}, {"silero"}),
        ({"engine": {"backend": "echo"}, "turns": {"vad": "webrtcvad"}}, set()),
    ],
)
def test_only_the_models_that_the_settings_use_are_needed(
    sections: dict[str, dict[str, str]], expected: set[str]
) -> None:
    needed = needed_weights(Settings.model_validate(sections))
    assert {re.split(r"[-_]", weight.name)[0] for weight in needed} == expected


def test_certs_makes_and_shows_a_certificate(tmp_path: Path) -> None:
    folder = str(tmp_path / "certs")
    assert run("certs", "show", "--dir", folder).exit_code == 1
    made = run("certs", "make", "--dir", folder, "--name", "speech.example")
    assert made.exit_code == 0
    assert "speech.example" in made.output
    shown = run("certs", "show", "--dir", folder)
    assert "SHA-256" in shown.output
    assert "127.0.0.1" in shown.output


def test_certs_alone_makes_one_in_the_configured_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("certs").exit_code == 0
    assert (tmp_path / "certs" / "server.key").exists()


def test_keys_are_made_listed_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = run("keys", "add", "phone", "--file", str(file), "--comment", "mine")
    key = made.stdout.strip()
    assert key.startswith("sk_")
    assert "only time" in made.stderr
    listed = run("keys", "list", "--file", str(file))
    assert "phone" in listed.output
    assert "mine" in listed.output
    assert key not in listed.output
    assert key not in file.read_text()
    (row,) = json.loads(run("keys", "list", "--file", str(file), "--json").output)
    assert row["name"] == "phone"
    assert run("keys", "remove", "phone", "--file", str(file)).exit_code == 0
    assert json.loads(run("keys", "list", "--file", str(file), "--json").output) == []


def test_a_webhook_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    made = run("sip", "secret", str(file))
    assert made.exit_code == 0, made.output
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text(encoding="ascii")
    assert len(parse_secrets(text)) == 1
    assert made.stdout == text
    again = run_program("sip", "secret", str(file))
    assert again.returncode == 2
    assert "exists already" in again.stderr
    assert file.read_text(encoding="ascii") == text


def test_keys_go_into_the_configured_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("keys", "add", "phone").exit_code == 0
    assert (tmp_path / "config" / "keys").exists()
    done = run_program("keys", "remove", "tablet")
    assert done.returncode == 2
    assert "There is no key 'tablet'" in done.stderr
    done = run_program("keys", "list", RTC_SERVER__AUTH__KEYS_FILE="")
    assert done.returncode == 2
    assert "auth.keys_file" in done.stderr


def test_keys_of_the_settings_are_never_printed() -> None:
    key = "sk_0123456789abcdefghij"
    for arguments in (("config",), ("config", "--json")):
        done = run_program(*arguments, RTC_SERVER__AUTH__API_KEYS=key)
        assert "(1 hidden)" in done.stdout
        assert key not in done.stdout + done.stderr
        assert "sha256:" not in done.stdout
    for value in ("sk_short", "sha256:abc", '["sk_short", 3]', '{"sk_short": 1}'):
        done = run_program("config", RTC_SERVER__AUTH__API_KEYS=value)
        assert done.returncode == 2
        assert "sk_short" not in done.stderr
        assert "auth.api_keys = (hidden)" in done.stderr


def test_a_network_address_without_a_key_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    done = run_program(
        *("serve", "--backend", "echo", "--host", "0.0.0.0"),
        RTC_SERVER__AUTH__KEYS_FILE=str(tmp_path / "keys"),
        RTC_SERVER__TURNS__VAD="webrtcvad",
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: --host 0.0.0.0 would let everybody")
    assert "rtc-server keys add NAME" in done.stderr
    assert "--insecure-no-auth" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_fails_with_advice_when_models_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RTC_SERVER__WEBRTC__HOST_ADDRESSES", "127.0.0.1")
    monkeypatch.setenv("RTC_SERVER__ENGINE__BACKEND", "echo")
    result = run("doctor", "--models-dir", str(tmp_path), "--json")
    findings = {finding["name"]: finding for finding in json.loads(result.stdout)}
    assert result.exit_code == 1
    assert findings["models"]["status"] == "fail"
    assert findings["opus"]["status"] == "ok"
    assert "→ Run `rtc-server models fetch`." in run("doctor", "--models-dir", str(tmp_path)).output


# --- serve


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_one_line_when_ready_and_stops_on_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "rtc_server", "serve", "--backend", "echo", "--no-tls"]
    command += ["--host", "127.0.0.1", "--http-port", str(port), "--realtime-port", "0"]
    server = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "RTC_SERVER__TURNS__VAD": "webrtcvad"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if line:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as reply:
                assert reply.status == 200
        server.send_signal(number)
        rest, problems = server.communicate(timeout=START_TIMEOUT_SECONDS)
    finally:
        server.kill()
        server.wait()
    assert f"http://127.0.0.1:{port}" in line, problems
    assert (rest, server.returncode) == ("", 0), problems


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run_program(
            *("serve", "--backend", "echo", "--no-tls", "--host", "127.0.0.1", "--http-port", str(port)),
            RTC_SERVER__TURNS__VAD="webrtcvad",
        )
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
