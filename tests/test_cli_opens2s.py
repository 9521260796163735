"""The command line for OpenS2S: fetching after the licences are accepted, and serving it by its flags."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rtc_server import doctor
from rtc_server.cli import models as models_command
from rtc_server.cli.app import app
from rtc_server.cli.models import check_opens2s, needed_weights
from rtc_server.config import Settings
from tests.support.fake_hub import FakeHub, FakeRepository, running_hub
from tests.support.opens2s_fixtures import BUNDLED

FLAGS = ("--checkpoint", "--decoder", "--load-format", "--device", "--dtype", "--quantization")
TIMEOUT_SECONDS = 60.0


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    repositories = {
        "CASIA-LM/OpenS2S": FakeRepository.of_folder(BUNDLED / "checkpoint"),
        "THUDM/glm-4-voice-decoder": FakeRepository.of_folder(BUNDLED / "decoder", LICENSE=b"glm-4-voice"),
    }
    with running_hub(repositories) as hub:
        yield hub


def variables(hub: FakeHub | None, **more: str) -> dict[str, str]:
    """A user's environment: this hub, no token, no proxy in between, and the network not switched off."""
    kept = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    endpoint = {"HF_ENDPOINT": hub.endpoint} if hub else {}
    return {**kept, **endpoint, "NO_PROXY": "127.0.0.1,localhost", "HF_HOME": "/nowhere", **more}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rtc_server", *arguments]


def run_program(hub: FakeHub | None, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Without a terminal."""
    return subprocess.run(
        command(*arguments),
        env=variables(hub, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def run_answering(hub: FakeHub, answer: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """At a terminal, by somebody who types `answer`."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer.encode() + b"\n")
        return subprocess.run(
            command(*arguments),
            env=variables(hub),
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)


def assert_one_sentence(done: subprocess.CompletedProcess[str], exit_code: int, *words: str) -> None:
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr[done.stderr.index("Error: ") :]
    assert last.count("\n") == 1
    for word in words:
        assert word in last


# --- fetch


def test_yes_accepts_the_licences_after_showing_them_and_a_second_run_asks_nothing(
    hub: FakeHub, tmp_path: Path
) -> None:
    done = run_program(hub, "models", "fetch", "opens2s", "--yes", "--models-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "The glm-4-voice License" in done.stderr
    assert done.stdout.count("fetched, verified, in") == 2
    assert (tmp_path / "OpenS2S" / "config.json").is_file()
    assert (tmp_path / "glm-4-voice-decoder" / "LICENSE").read_bytes() == b"glm-4-voice"
    hub.asked.clear()
    done = run_program(hub, "models", "fetch", "opens2s", "--models-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "all files are here" in done.stdout
    assert "License" not in done.stderr
    assert hub.asked == []


def test_without_a_terminal_nobody_is_asked_and_nothing_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    done = run_program(hub, "models", "fetch", "opens2s", "--models-dir", str(tmp_path))
    assert_one_sentence(done, 1, "no terminal", "rtc-server models fetch opens2s --yes")
    assert "Apache-2.0" in done.stderr
    assert hub.asked == []
    assert list(tmp_path.iterdir()) == []


def test_the_answer_at_the_terminal_counts(hub: FakeHub, tmp_path: Path) -> None:
    arguments = ("models", "fetch", "opens2s", "--models-dir", str(tmp_path))
    refused = run_answering(hub, "n", *arguments)
    assert "Do you accept both licences?" in refused.stderr
    assert refused.returncode == 1
    assert "not accepted; nothing was fetched" in refused.stderr
    assert hub.asked == []
    accepted = run_answering(hub, "y", *arguments)
    assert accepted.returncode == 0, accepted.stderr
    assert (tmp_path / "OpenS2S" / "model.safetensors").is_file()


def test_an_interrupted_fetch_says_how_to_go_on_and_goes_on(hub: FakeHub, tmp_path: Path) -> None:
    hub.held = threading.Event()
    arguments = ("models", "fetch", "opens2s", "--yes", "--models-dir", str(tmp_path))
    process = subprocess.Popen(
        command(*arguments), env=variables(hub), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert hub.half_way.wait(TIMEOUT_SECONDS)
        process.send_signal(signal.SIGINT)
        _, problems = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
        process.wait()
    hub.held.set()
    hub.held = None
    assert process.returncode == 130, problems
    assert "Interrupted; what arrived is kept. Run `rtc-server models fetch opens2s` again" in problems
    assert "Traceback" not in problems
    done = run_program(hub, *arguments)
    assert done.returncode == 0, done.stderr
    assert "License" not in done.stderr  # accepted once


def test_the_revisions_are_those_that_were_named(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["CASIA-LM/OpenS2S"].revisions = ("v1",)
    hub.repositories["THUDM/glm-4-voice-decoder"].revisions = ("v2",)
    arguments = ("models", "fetch", "opens2s", "--yes", "--models-dir", str(tmp_path))
    assert_one_sentence(run_program(hub, *arguments), 1, "no revision 'main'")
    done = run_program(hub, *arguments, "--revision", "v1", "--decoder-revision", "v2")
    assert done.returncode == 0, done.stderr


def test_when_offline_the_licences_are_not_even_shown(hub: FakeHub, tmp_path: Path) -> None:
    arguments = ("models", "fetch", "opens2s", "--yes", "--models-dir", str(tmp_path))
    done = run_program(hub, *arguments, RTC_SERVER__MODELS__OFFLINE="true")
    assert_one_sentence(done, 1, "models.offline")
    assert "License" not in done.stderr
    assert_one_sentence(run_program(hub, *arguments, HF_HUB_OFFLINE="1"), 1, "HF_HUB_OFFLINE")
    assert hub.asked == []


def test_only_opens2s_can_be_named() -> None:
    assert CliRunner().invoke(app, ["models", "fetch", "opens3s"]).exit_code == 2
    assert CliRunner().invoke(app, ["models", "fetch", "--revision", "main"]).exit_code == 2


def test_verify_reports_on_a_folder_that_is_named(tmp_path: Path) -> None:
    done = run_program(None, "models", "verify", str(BUNDLED / "checkpoint"))
    assert done.returncode == 0, done.stderr
    assert "llm_config.hidden_size                       64   expected 4096" in done.stdout
    assert "interleave_strategy                          1:2\n" in done.stdout
    assert done.stdout.endswith("Everything fits together.\n")
    done = run_program(None, "models", "verify", str(BUNDLED / "decoder"))
    assert "flow.vocab_size                              96   expected 16384" in done.stdout
    assert done.returncode == 0
    assert CliRunner().invoke(app, ["models", "verify", str(tmp_path / "none")]).exit_code == 2


def test_verify_says_what_is_wrong_with_a_folder(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUNDLED / "checkpoint", tmp_path / "checkpoint"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = run_program(None, "models", "verify", str(folder))
    assert done.returncode == 1
    assert f"{weights} is damaged or cut short" in done.stdout
    folder = Path(shutil.copytree(BUNDLED / "decoder", tmp_path / "decoder"))
    (folder / "hift.pt").unlink()
    done = run_program(None, "models", "verify", str(folder))
    assert done.returncode == 1
    assert "hift.pt" in done.stdout


# --- serve


def test_serve_shows_its_flags_as_those_of_the_backend() -> None:
    text = CliRunner().invoke(app, ["serve", "--help"]).output
    assert "Only with --backend opens2s" in text
    assert all(flag in text.split("Only with --backend opens2s")[1] for flag in FLAGS)


@pytest.mark.parametrize("flag", FLAGS)
def test_its_flags_are_refused_with_another_backend(flag: str, tmp_path: Path) -> None:
    value = {"--load-format": "dummy", "--device": "cpu", "--dtype": "float32", "--quantization": "int8"}.get(flag, "x")
    done = run_program(None, "serve", "--backend", "echo", flag, value)
    assert_one_sentence(done, 2, f"{flag} is for the backend opens2s", "'echo'")


def test_serve_refuses_to_start_without_the_checkpoint(tmp_path: Path) -> None:
    done = run_program(None, "serve", "--backend", "opens2s", "--models-dir", str(tmp_path))
    assert_one_sentence(done, 1, f"no config.json in {tmp_path / 'OpenS2S'};", "run `rtc-server models fetch opens2s`")
    done = run_program(None, "serve", "--backend", "opens2s", "--checkpoint", str(tmp_path))
    assert_one_sentence(done, 1, f"no config.json in {tmp_path};", "name the right folder, or leave --checkpoint out")


def settings(tmp_path: Path, **opens2s: object) -> Settings:
    sections = {"engine": {"backend": "opens2s"}, "models": {"cache_dir": str(tmp_path)}, "opens2s": opens2s}
    return Settings.model_validate(sections)


def test_serve_wants_both_folders_unless_the_weights_are_random(tmp_path: Path) -> None:
    from model.weights import WeightsError

    checkpoint, decoder = str(BUNDLED / "checkpoint"), str(BUNDLED / "decoder")
    check_opens2s(settings(tmp_path, checkpoint=checkpoint, decoder=decoder))
    check_opens2s(settings(tmp_path, load_format="dummy"))
    with pytest.raises(WeightsError, match=r"no config\.yaml in .*glm-4-voice-decoder; run"):
        check_opens2s(settings(tmp_path, checkpoint=checkpoint))


def test_serve_wants_the_files_of_all_voices(tmp_path: Path) -> None:
    from model.weights import WeightsError

    given = settings(tmp_path, load_format="dummy", voices={"anna": str(tmp_path / "anna.npy")})
    with pytest.raises(WeightsError, match=r"no file .*anna\.npy for the voice 'anna'"):
        check_opens2s(given)
    (tmp_path / "anna.npy").touch()
    check_opens2s(given)


def test_without_the_extra_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model.weights import WeightsError

    monkeypatch.setattr(models_command.importlib.util, "find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(WeightsError, match=r"needs torch; install its extra: `make setup-opens2s`, or `pip"):
        check_opens2s(settings(tmp_path, load_format="dummy"))


def test_it_needs_no_file_of_the_cascade() -> None:
    sections = {"engine": {"backend": "opens2s"}}
    assert [weight.name for weight in needed_weights(Settings.model_validate(sections))] == ["silero_vad.onnx"]
    assert needed_weights(Settings.model_validate({**sections, "turns": {"vad": "webrtcvad"}})) == ()


# --- doctor


def test_the_doctor_looks_for_the_checkpoint(tmp_path: Path) -> None:
    (finding,) = doctor.check_opens2s(settings(tmp_path), tmp_path)
    assert (finding.status, "OpenS2S/config.json" in finding.detail) == ("fail", True)
    assert "rtc-server models fetch opens2s" in finding.advice
    here = settings(tmp_path, checkpoint=str(BUNDLED / "checkpoint"), decoder=str(BUNDLED / "decoder"))
    assert [finding.status for finding in doctor.check_opens2s(here, tmp_path)] == ["ok"]
    (finding,) = doctor.check_opens2s(settings(tmp_path, load_format="dummy"), tmp_path)
    assert (finding.status, "noise" in finding.detail) == ("warn", True)
    assert list(doctor.check_opens2s(Settings(), tmp_path)) == []


@pytest.mark.parametrize(
    ("gpus", "device", "status", "words"),
    [
        (["H100 with 80 GB"], "auto", "ok", "cuda:0, H100 with 80 GB"),
        (["H100 with 80 GB"], "cpu", "warn", "The processor"),
        (["H100 with 80 GB"], "cuda:1", "fail", "There is no GPU 1 (torch sees 1)"),
        (["A with 1 GB", "B with 2 GB"], "cuda:1", "ok", "cuda:1, B with 2 GB"),
        ([], "cuda", "fail", "torch sees none"),
        ([], "auto", "warn", "The processor"),
        (None, "auto", "fail", "torch cannot be asked"),
    ],
)
def test_the_doctor_names_the_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpus: list[str] | None, device: str, status: str, words: str
) -> None:
    probe = f"print({str(gpus).replace(chr(39), chr(34))!r})" if gpus is not None else "raise SystemExit(1)"
    monkeypatch.setattr(doctor, "DEVICE_PROBE", probe)
    (finding,) = doctor.check_device(settings(tmp_path, device=device))
    assert (finding.status, words in finding.detail) == (status, True), finding
    assert finding.status == "ok" or finding.advice


def test_the_doctor_asks_torch_itself(tmp_path: Path) -> None:
    (finding,) = doctor.check_device(settings(tmp_path, device="cpu"))
    assert finding.detail == "The processor."
    assert list(doctor.check_device(Settings())) == []


def test_serve_says_in_one_sentence_what_is_wrong_with_the_weights(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUNDLED / "checkpoint", tmp_path / "checkpoint"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    arguments = ["--backend", "opens2s", "--checkpoint", str(folder), "--decoder", str(BUNDLED / "decoder")]
    ports = ["--http-port", "0", "--realtime-port", "0", "--no-tls"]
    done = run_program(None, "serve", *arguments, *ports)
    assert_one_sentence(done, 1, f"Error: {weights} is damaged or cut short", "Run `rtc-server models fetch opens2s`")
