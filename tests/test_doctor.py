"""The doctor finds what is wrong, says what to do, and passes a good machine."""

from __future__ import annotations

import resource
import socket
import sys
from pathlib import Path

import pytest
import trustme

from model.weights import CATALOGUE, SILERO_VAD
from rtc_server import certs, doctor
from rtc_server.config import Settings
from rtc_server.doctor import Finding

NEEDED = tuple(weight for weight in CATALOGUE if weight.name == SILERO_VAD)


def settings(**sections: dict[str, object]) -> Settings:
    defaults: dict[str, dict[str, object]] = {
        "server": {"host": "127.0.0.1", "http_port": 0, "https_port": 0, "realtime_port": 0},
        "webrtc": {"host_addresses": ["127.0.0.1"]},
    }
    merged = {name: {**defaults.get(name, {}), **sections.get(name, {})} for name in {*defaults, *sections}}
    return Settings.model_validate(merged)


def only(findings: object) -> Finding:
    (finding,) = list(findings)  # type: ignore[call-overload]
    return finding


def test_a_good_machine_has_no_failure_but_the_missing_models(tmp_path: Path) -> None:
    given = settings(server={"certs_dir": str(tmp_path / "certs")}, engine={"backend": "echo"})
    findings = list(doctor.run_checks(given, tmp_path, NEEDED))
    failed = {finding.name: finding for finding in findings if finding.status == "fail"}
    assert set(failed) == {"models"}
    assert SILERO_VAD in failed["models"].detail
    assert "rtc-server models fetch" in failed["models"].advice
    assert not (tmp_path / "certs").exists()  # looking changes nothing
    assert {"python", "http port", "certificate", "opus", "libraries", "gpu", "udp", "clock"} <= {
        finding.name for finding in findings
    }


def test_every_failure_says_what_to_do(tmp_path: Path) -> None:
    for finding in doctor.run_checks(settings(), tmp_path, NEEDED):
        assert finding.status == "ok" or finding.advice, finding


def test_a_port_in_use_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        finding = only(doctor.check_ports(settings(server={"http_port": port, "tls": False})))
    assert (finding.status, "in use" in finding.detail) == ("fail", True)
    assert "--http-port" in finding.advice


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    finding = only(doctor.check_ports(settings(server={"host": "192.0.2.1", "tls": False, "http_port": 0})))
    assert finding.status == "fail"


def test_an_own_certificate_is_recognised(tmp_path: Path) -> None:
    certs.ensure_certificates(tmp_path / "certs")
    finding = only(doctor.check_tls(settings(server={"certs_dir": str(tmp_path / "certs")})))
    assert (finding.status, "valid until" in finding.detail) == ("ok", True)


def test_a_key_that_does_not_fit_is_found(tmp_path: Path) -> None:
    paths = certs.ensure_certificates(tmp_path / "certs")
    paths.private_key.write_bytes(trustme.CA().private_key_pem.bytes())
    assert only(doctor.check_tls(settings(server={"certs_dir": str(tmp_path / "certs")}))).status == "fail"


def test_without_https_there_is_a_warning() -> None:
    finding = only(doctor.check_tls(settings(server={"tls": False})))
    assert (finding.status, "microphone" in finding.advice) == ("warn", True)


def test_an_address_that_is_not_ours_fails_the_udp_check() -> None:
    finding = only(doctor.check_udp(settings(webrtc={"host_addresses": ["192.0.2.1"]})))
    assert (finding.status, "firewall" in finding.advice) == ("fail", True)


def test_udp_passes_on_loopback() -> None:
    assert doctor.udp_echo_problem("127.0.0.1") is None


def test_a_library_that_crashes_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad_library.py").write_text("import os; os.abort()")
    (tmp_path / "absent_part.py").write_text("import nothing_like_this")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "NATIVE_MODULES", {"echo": ("bad_library", "absent_part")})
    finding = only(doctor.check_native(settings(engine={"backend": "echo"})))
    assert finding.status == "fail"
    assert "bad_library crashes when it is loaded (signal 6)" in finding.detail
    assert "absent_part does not load: ModuleNotFoundError" in finding.detail


def test_a_codec_that_changes_the_sound_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_opus_round_trip", lambda tone_hz: 1234.0)
    finding = only(doctor.check_opus())
    assert (finding.status, "1234 Hz" in finding.detail) == ("fail", True)


def test_too_few_open_files_are_a_warning_with_the_command() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 300), hard))
    try:
        finding = only(doctor.check_limits(max_calls=1000))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert finding.status == "warn"


def test_a_gpu_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert only(doctor.check_gpu()) == Finding("gpu", "ok", "NVIDIA H100, 81559 MiB")


def test_a_driver_that_does_not_answer_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert only(doctor.check_gpu()).status == "warn"


def test_a_python_that_is_not_supported_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 0, "final", 0))
    assert only(doctor.check_python()).status == "fail"


# --- who may use it


@pytest.mark.parametrize(
    ("sections", "status", "said"),
    [
        ({"server": {"host": "127.0.0.1"}}, "ok", "open to this machine only"),
        ({"server": {"host": "0.0.0.0"}}, "fail", "there is no key yet"),
        ({"server": {"host": "0.0.0.0"}, "auth": {"insecure_no_auth": True}}, "warn", "open to everybody"),
        ({"server": {"host": "0.0.0.0"}, "auth": {"api_keys": ["sk_0123456789abcdefghij"]}}, "ok", "needs a key"),
    ],
)
def test_who_may_use_the_server_is_told(sections: dict[str, dict[str, object]], status: str, said: str) -> None:
    auth = {"keys_file": "", **sections.get("auth", {})}
    finding = only(doctor.check_access(settings(server=sections["server"], auth=auth)))
    assert finding.status == status
    assert said in finding.detail
