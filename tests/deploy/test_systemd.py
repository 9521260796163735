"""The units for systemd: known directives, little exposure, and time to drain."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from rtc_server.config import load_settings
from tests.support.deployment import DEPLOY, drain_seconds, program, run

UNIT = DEPLOY / "systemd" / "rtc-server.service"
EDGE = {part: DEPLOY / "systemd" / f"rtc-server-sip-{part}.service" for part in ("proxy", "relay")}
MOST_EXPOSED = 2.0  # systemd's own scale: below 2 is "OK", an unconfined service has 9.6
MINUTES = 60.0


@pytest.fixture(params=[UNIT, *EDGE.values()], ids=lambda path: path.stem)
def unit(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A unit with a program that exists on this machine."""
    copy = tmp_path / request.param.name
    copy.write_text(request.param.read_text().replace("/opt/rtc-server/bin/rtc-server", "/bin/true"))
    return copy


def service(unit: Path = UNIT) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    return parser["Service"]


def test_systemd_knows_every_directive(unit: Path) -> None:
    done = run(program("systemd-analyze"), "verify", unit)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_service_can_do_little(unit: Path) -> None:
    done = run(program("systemd-analyze"), "security", "--offline=true", "--no-pager", unit)
    level = re.search(r"Overall exposure level .*: ([0-9.]+)", done.stdout)
    assert level is not None, done.stdout + done.stderr
    assert float(level[1]) <= MOST_EXPOSED, done.stdout


def test_systemd_waits_for_the_drain() -> None:
    found = service()
    assert found["KillSignal"] == "SIGTERM"
    assert found["KillMode"] == "mixed"  # the engine must live as long as calls do
    assert float(found["TimeoutStopSec"]) > drain_seconds(load_settings())


def test_systemd_is_told_and_watches() -> None:
    found = service()
    assert found["Type"] == "notify"
    assert float(found["WatchdogSec"]) > 0
    assert found["Restart"] == "on-failure"
    assert float(found["TimeoutStartSec"]) >= 5 * MINUTES


@pytest.mark.parametrize("part", EDGE)
def test_a_part_of_the_telephone_edge_is_always_started_again(part: str) -> None:
    found = service(EDGE[part])
    assert found["Restart"] == "always"
    assert "StartLimitIntervalSec=0" in EDGE[part].read_text()
    command = found["ExecStart"].split()[1:]
    assert command[:3] == ["sip", "run", part]
    assert command[command.index("--folder") + 1] == f"/run/{found['RuntimeDirectory']}"
    assert found["RuntimeDirectoryMode"] == "0700"  # passwords of trunks are written there
