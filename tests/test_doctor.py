"""The doctor finds what is wrong, says what to do, and passes a good machine."""

from __future__ import annotations

import os
import resource
import socket
import sys
from pathlib import Path

import pytest
import trustme

from model.weights import CATALOGUE, SILERO_VAD
from rtc_server import certs, doctor
from rtc_server.config import Settings, load_settings
from rtc_server.findings import Finding
from rtc_server.scheduling import Outcome, Refusal
from rtc_server.sip.edge.users import UsersFile
from tests.support.running_server import free_port

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


# --- how the system runs it


def scheduling_findings(**sections: dict[str, object]) -> dict[str, Finding]:
    given = settings(**sections)
    return {finding.name: finding for finding in (*doctor.check_scheduling(given), *doctor.check_shared_cpus(given))}


def test_what_would_be_applied_is_told_for_each_kind_of_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "backend:native")
    monkeypatch.setattr(doctor, "AUTOGROUP", Path("/nowhere"))
    system = {"engine_cuda_expandable_segments": True, "engine_returns_memory": True, "engine_huge_pages": False}
    cpu = min(os.sched_getaffinity(0))
    before = (os.sched_getaffinity(0), os.nice(0))
    found = scheduling_findings(
        system={**system, "executor_cpu_affinity": [cpu], "media_nice": 2}, engine={"nice": 6, "cpu_affinity": [cpu]}
    )
    assert {finding.status for finding in found.values()} == {"ok"}
    assert found["media scheduling"].detail == f"Nice {os.nice(0) + 2}."
    assert found["thread scheduling"].detail == f"CPUs {cpu}."
    engine = found["engine scheduling"].detail
    assert engine.startswith(f"CPUs {cpu}; nice {os.nice(0) + 6}; no huge pages; MALLOC_TRIM_THRESHOLD_=131072;")
    assert "your environment decides PYTORCH_ALLOC_CONF" in engine
    assert (os.sched_getaffinity(0), os.nice(0)) == before  # looking changes nothing


def test_the_mode_of_huge_pages_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "HUGE_PAGES", tmp_path / "enabled")
    assert "the system's huge pages: none" in scheduling_findings()["engine scheduling"].detail
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    assert "the system's huge pages: madvise" in scheduling_findings()["engine scheduling"].detail


def test_where_a_nice_counts_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "AUTOGROUP", tmp_path / "enabled")
    (tmp_path / "enabled").write_text("1\n")
    assert (
        "within the server's session only" in scheduling_findings(system={"media_nice": 1})["media scheduling"].detail
    )
    assert "session" not in scheduling_findings()["media scheduling"].detail


def test_what_cannot_be_applied_is_a_warning_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Refusal("SCHED_FIFO 10", "not permitted (RLIMIT_RTPRIO)", "Give it CAP_SYS_NICE.")
    monkeypatch.setattr(doctor, "AUTOGROUP", Path("/nowhere"))
    monkeypatch.setattr(doctor, "try_out", lambda request: Outcome(("nice -5",), (refusal,)))
    finding = scheduling_findings(system={"media_nice": -5, "media_realtime_priority": 10})["media scheduling"]
    assert finding.status == "warn"
    assert finding.detail == "Nice -5; SCHED_FIFO 10 refused: not permitted (RLIMIT_RTPRIO)."
    assert finding.advice == "Give it CAP_SYS_NICE."


def test_cpus_that_are_not_there_are_a_warning() -> None:
    found = scheduling_findings(
        server={"media_workers": 2, "media_cpu_affinity": [4000, 4001, 4002]},
        system={"executor_cpu_affinity": [4000]},
        engine={"cpu_affinity": [4000]},
    )
    assert "CPUs 4000-4001 are not there" in found["media scheduling"].detail  # what two workers use
    for name in ("media scheduling", "engine scheduling", "thread scheduling"):
        assert found[name].status == "warn", name


def test_settings_of_media_workers_do_nothing_without_any() -> None:
    finding = scheduling_findings(server={"media_workers": 0}, system={"media_nice": -5})["media scheduling"]
    assert finding.status == "warn"
    assert "system.media_nice" in finding.detail


@pytest.mark.parametrize(
    ("sections", "status", "said"),
    [
        ({}, "ok", "Media goes before the engine on CPUs 0-3"),
        ({"engine": {"nice": 0}}, "warn", "share CPUs 0-3 with equal rights"),
        ({"engine": {"nice": 0}, "system": {"media_nice": -5}}, "ok", "before the engine"),
        ({"server": {"media_cpu_affinity": [0, 1, 2, 3], "media_workers": 2}}, "ok", "on CPUs 0-1"),
        (
            {"server": {"media_cpu_affinity": [0]}, "engine": {"cpu_affinity": [1, 2, 3], "nice": 0}},
            "ok",
            "CPUs of their own",
        ),
        (
            {"server": {"media_workers": 4}, "system": {"media_realtime_priority": 10}},
            "warn",
            "only while real-time media workers sleep",
        ),
        ({"server": {"media_workers": 3}, "system": {"media_realtime_priority": 10}}, "ok", "before the engine"),
    ],
)
def test_who_shares_cpus_is_told(
    sections: dict[str, dict[str, object]], status: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    (finding, *_) = doctor.check_shared_cpus(settings(**sections))
    assert finding.status == status
    assert said in finding.detail


def test_real_time_without_the_kernels_limit_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "REALTIME_RUNTIME", tmp_path / "runtime")
    (tmp_path / "runtime").write_text("-1\n")
    assert "real time" not in scheduling_findings()
    finding = scheduling_findings(system={"media_realtime_priority": 1})["real time"]
    assert (finding.status, "sched_rt_runtime_us" in finding.advice) == ("warn", True)


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


def test_the_telephone_edge_is_looked_for_where_calls_are_taken(tmp_path: Path) -> None:
    assert list(doctor.check_sip_edge(load_settings(None))) == []
    users = UsersFile(tmp_path / "users")
    values = {"sip.enabled": True, "sip_edge.users_file": str(users.path), "sip.proxy": f"127.0.0.1:{free_port()}"}

    def found(**more: object) -> dict[str, Finding]:
        return {finding.name: finding for finding in doctor.check_sip_edge(load_settings(None, {**values, **more}))}

    assert found()["telephone users"].status == "warn"
    assert found()["telephone proxy"].status == "warn"
    users.add("desk", "rtc-server")
    assert found()["telephone users"].status == "ok"
    assert "another realm" in found(**{"sip_edge.realm": "example.org"})["telephone users"].detail
    users.path.write_text("nonsense")
    assert found()["telephone users"].status == "fail"
