"""compose.yml: what Docker Compose makes of it, and how each service is confined."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from rtc_server.config import load_settings
from tests.support.deployment import DEPLOY, ROOT, drain_seconds, program, read_yaml, run, tool
from tests.support.running_server import free_port

ADDRESS = "203.0.113.5"
SECONDS = {"s": 1, "m": 60}


def render(*files: str, address: str = ADDRESS) -> subprocess.CompletedProcess[str]:
    named = chain.from_iterable(("-f", DEPLOY / file) for file in files)
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PUBLIC_ADDRESS": address}
    return run(tool("docker-compose"), *named, "config", "--format", "json", env=env)


def rendered(*files: str) -> dict[str, Any]:
    done = render(*files)
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


@pytest.mark.parametrize(
    "more", [[], ["compose.bridge.yml"], ["compose.cuda.yml"], ["compose.bridge.yml", "compose.cuda.yml"]]
)
def test_compose_accepts_it(more: list[str]) -> None:
    assert set(rendered("compose.yml", *more)) == {"server", "coturn", "prometheus", "grafana"}


def test_the_address_of_the_machine_must_be_given() -> None:
    done = render("compose.yml", address="")
    assert done.returncode != 0
    assert "PUBLIC_ADDRESS" in done.stderr


def test_every_service_is_confined() -> None:
    for name, service in rendered("compose.yml").items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert name == "server" or service["healthcheck"]["test"], name  # the server's is in its image
        assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), f"{name} is not pinned: {service['image']}"
        secrets = [secret["source"] for secret in service.get("secrets", [])]
        assert secrets, name
        variables = service.get("environment", {})
        assert not [v for v in variables if re.search("SECRET|PASSWORD|KEY", v) and not v.endswith("_FILE")], name


def test_only_signaling_media_and_turn_can_be_reached_from_outside() -> None:
    services = rendered("compose.yml", "compose.bridge.yml")
    ports = {(port.get("host_ip"), port["published"], port["protocol"]) for port in services["server"]["ports"]}
    assert ports == {("127.0.0.1", "8000", "tcp"), (None, "8443", "tcp"), (None, "50000", "udp")}
    assert "network_mode" not in services["server"]
    assert "--web.listen-address=127.0.0.1:9090" in services["prometheus"]["command"]
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"


def test_the_server_takes_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    server = rendered("compose.yml", "compose.cuda.yml")["server"]
    drain_seconds(load_settings())
    for name, value in server["environment"].items():
        monkeypatch.setenv(name, value)
    settings = load_settings(DEPLOY / "docker" / "server.toml")
    assert settings.webrtc.external_addresses == (ADDRESS,)
    assert settings.engine.backend == "opens2s"
    assert settings.turn.urls == (f"turn:{ADDRESS}:3478?transport=udp", f"turn:{ADDRESS}:3478?transport=tcp")
    assert settings.turn.secret_file in [f"/run/secrets/{secret['source']}" for secret in server["secrets"]]
    grace = sum(int(n) * SECONDS[unit] for n, unit in re.findall(r"(\d+)([ms])", server["stop_grace_period"]))
    assert grace > drain_seconds(settings)


def test_every_mounted_file_exists() -> None:
    for name, service in read_yaml(DEPLOY / "compose.yml")["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("../monitoring") and not (ROOT / "monitoring").is_dir():
                continue
            assert not source.startswith(".") or (DEPLOY / source).exists(), f"{name}: {source}"


class Turn:
    """coturn's starter with its paths moved into a folder, and a turnserver of choice."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "turnserver.conf"
        text = (DEPLOY / "turn" / "start.sh").read_text()
        text = text.replace("/etc/coturn/turnserver.conf", str(DEPLOY / "turn" / "turnserver.conf"))
        (folder / "start.sh").write_text(text.replace("/tmp/turnserver.conf", str(self.config)))
        (folder / "secret").write_text("s" * 40 + "\n")

    def start(self, turnserver: str, **variables: str) -> subprocess.CompletedProcess[str]:
        (self.folder / "turnserver").write_text(turnserver)
        (self.folder / "turnserver").chmod(0o755)
        ours = {"TURN_SECRET_FILE": str(self.folder / "secret"), "TURN_TLS_DIR": str(self.folder)}
        env = {"PATH": f"{self.folder}:/usr/bin:/bin", **ours, **variables}
        return run("/bin/sh", self.folder / "start.sh", env=env)


@pytest.fixture
def turn(tmp_path: Path) -> Turn:
    return Turn(tmp_path)


def test_turn_gets_its_secret_by_a_file_that_only_it_can_read(turn: Turn) -> None:
    done = turn.start('#!/bin/sh\necho "$*"\n', PUBLIC_ADDRESS=ADDRESS)
    assert done.returncode == 0, done.stderr
    assert "s" * 40 not in done.stdout
    assert f"static-auth-secret={'s' * 40}\n" in turn.config.read_text()
    assert turn.config.stat().st_mode & 0o077 == 0


def test_turn_relays_to_the_server_and_to_nobody_else(turn: Turn) -> None:
    turn.start("#!/bin/sh\n", PUBLIC_ADDRESS=ADDRESS)
    lines = turn.config.read_text().splitlines()
    assert "denied-peer-ip=0.0.0.0-255.255.255.255" in lines
    assert [line for line in lines if line.startswith("allowed-peer-ip")] == [f"allowed-peer-ip={ADDRESS}"]


def test_turn_relays_to_several_servers(turn: Turn) -> None:
    turn.start("#!/bin/sh\n", PUBLIC_ADDRESS=ADDRESS, MEDIA_ADDRESSES="10.0.0.1 10.0.1.0-10.0.1.7")
    lines = turn.config.read_text().splitlines()
    allowed = [line.partition("=")[2] for line in lines if line.startswith("allowed-peer-ip")]
    assert allowed == ["10.0.0.1", "10.0.1.0-10.0.1.7"]


def test_turn_takes_several_secrets(turn: Turn) -> None:
    (turn.folder / "secret").write_text("s" * 40 + "\n\n" + "t" * 32)
    turn.start("#!/bin/sh\n", PUBLIC_ADDRESS=ADDRESS)
    assert f"static-auth-secret={'s' * 40}\nstatic-auth-secret={'t' * 32}\n" in turn.config.read_text()


def test_turn_serves_tls_on_443_when_there_is_a_certificate(turn: Turn) -> None:
    done = turn.start("#!/bin/sh\n", PUBLIC_ADDRESS=ADDRESS)
    lines = turn.config.read_text().splitlines()
    assert "no-tls" in lines
    assert "no TURN over TLS" in done.stderr
    for name in ("certificate.pem", "key.pem"):
        (turn.folder / name).write_text("here")
    turn.start("#!/bin/sh\n", PUBLIC_ADDRESS=ADDRESS)
    lines = turn.config.read_text().splitlines()
    assert {f"cert={turn.folder}/certificate.pem", f"pkey={turn.folder}/key.pem", "tls-listening-port=443"} < {*lines}
    assert "no-tls" not in lines


@pytest.mark.parametrize(
    ("variables", "secret"),
    [
        ({}, "s" * 40),
        ({"PUBLIC_ADDRESS": ADDRESS}, "short"),
        ({"PUBLIC_ADDRESS": ADDRESS}, "s" * 40 + "\nshort"),
        ({"PUBLIC_ADDRESS": ADDRESS}, "\n"),
    ],
)
def test_turn_does_not_start_open(turn: Turn, variables: dict[str, str], secret: str) -> None:
    (turn.folder / "secret").write_text(secret)
    done = turn.start("#!/bin/sh\necho started\n", **variables)
    assert done.returncode != 0
    assert "started" not in done.stdout


def test_coturn_accepts_the_configuration(turn: Turn) -> None:
    turnserver, client = program("turnserver"), program("turnutils_stunclient")
    turn.start("#!/bin/sh\n", PUBLIC_ADDRESS=ADDRESS)
    port = free_port()
    text = turn.config.read_text().replace("listening-port=3478", f"listening-port={port}")
    text = text.replace("/tmp/", f"{turn.folder}/") + "listening-ip=127.0.0.1\nrelay-ip=127.0.0.1\n"
    turn.config.write_text(text)
    with (turn.folder / "log").open("w") as log:
        process = subprocess.Popen([turnserver, "-c", str(turn.config)], stdout=log, stderr=subprocess.STDOUT)
    try:
        ask = ["timeout", "1", client, "-p", str(port), "127.0.0.1"]  # the health check; alone it waits for ever
        answered = any(run(*ask).returncode == 0 for _ in range(20))
        log_text = (turn.folder / "log").read_text()
        assert answered, log_text
        assert f"White listing: {ADDRESS}" in log_text
        assert "Unknown" not in log_text
        assert "Bad configuration" not in log_text
    finally:
        process.terminate()
        process.wait(10)


def test_the_telephone_edge_is_confined_and_takes_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    services = rendered("compose.yml", "compose.sip.yml")
    assert set(services) >= {"server", "sip-proxy", "sip-relay"}
    assert services["server"]["build"]["args"]["EXTRAS"] == "sip,cleaning"
    assert services["server"]["environment"]["RTC_SERVER__SIP__ENABLED"] == "true"
    for name in ("sip-proxy", "sip-relay"):
        service = services[name]
        assert service["image"] == services["server"]["image"]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["network_mode"] == "host"
        assert service["command"][:3] == ["sip", "run", name.removeprefix("sip-")]
        assert service["healthcheck"]["test"]
        with monkeypatch.context() as patched:
            for variable, value in service["environment"].items():
                patched.setenv(variable, value)
            settings = load_settings(DEPLOY / "docker" / "server.toml")
        assert settings.sip_edge.external_address == ADDRESS
        assert settings.sip_edge.users_file == "/var/lib/rtc-server/sip/users"
