"""The load benchmark's own arithmetic on made-up reports; the measurements themselves are run by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.media_load import LINKS, carries
from benchmarks.support.cpu_quota import NoQuotaError, cpu_quotas
from benchmarks.support.media_acceptance import Figure, acceptance
from benchmarks.support.media_plots import plot_media_load
from benchmarks.support.media_tables import print_acceptance, print_loads
from benchmarks.support.media_targets import PEER_SERVERS
from benchmarks.support.peer_environments import PEERS, environment_folder


def report(calls: int = 40, server: str = "ours", label: str = "", p50: float = 10.0, **more: Any) -> dict[str, Any]:
    return {
        "server_name": server,
        "label": label,
        "calls": calls,
        "connected": calls,
        "delivered": 1.0,
        "gap_ms": {"p99": 21.0},
        "echo_ms": {"p50": p50, "p95": p50, "p99": 2 * p50},
        "echo_growth_ms": 0.0,
        "setup_ms": {"p50": 50.0, "max": 60.0},
        "clock_error_ms": 0.5,
        "client_late_share": 0.0,
        "server": {"cpu_share": 0.3, "cpu_ms_per_call_second": 7.5, "rss_mb_per_call": 0.2},
        **more,
    }


def figures(tables: dict[str, list[dict[str, Any]]], **more: Any) -> dict[str, Figure]:
    return {figure.name: figure for figure in acceptance({"tables": tables, **more})}


def test_what_was_not_measured_has_no_row() -> None:
    assert figures({}) == {}
    assert figures({"load": [report(calls=8)]}) == {}
    assert figures({"load": [report(server="aiortc")]}) == {}


def test_every_limit_is_checked_once_everything_was_measured() -> None:
    tables = {
        "load": [report()],
        "idle": [report(delivered=None, gap_ms={}, echo_ms={})],
        "links": [report(6, label=label) for label in LINKS],
        "recovery": [report(6)],
        "setup": [report(1), report(10)],
        "hog": [report(20)],
        "long": [report()],
    }
    found = figures(tables, capacity={"ours": 160, "aiortc": 28}, workers={"ratio": 1.9})
    assert len(found) == 16
    assert [figure.name for figure in found.values() if not figure.holds] == ["CPU per second of call, nothing to say"]


def test_the_limit_at_one_percent_loss_moves_with_the_clean_link() -> None:
    links = [report(6, label="clean", p50=12.0), report(6, label="1 % loss", p50=58.0, delivered=0.997)]
    found = figures({"links": links})
    assert found["echo p50, 1 % loss"].limit == 57.0
    assert not found["echo p50, 1 % loss"].holds
    assert not found["delivered, 1 % loss"].holds
    assert found["echo p50, clean link"].holds


def test_a_core_must_carry_four_times_what_it_carries_with_aiortc() -> None:
    found = figures({}, capacity={"ours": 100, "aiortc": 28})
    assert found["calls that one core carries"].holds
    assert not found["calls per core, multiple of plain aiortc's"].holds
    assert len(figures({}, capacity={"ours": 100})) == 1


def test_of_repeated_runs_the_median_counts() -> None:
    runs = [report(1, setup_ms={"p50": value}) for value in (300.0, 60.0, 65.0)]
    assert figures({"setup": runs})["offer to first sound p50, 1 at once"].value == 65.0


@pytest.mark.parametrize(
    "change",
    [{"connected": 39}, {"delivered": 0.98}, {"gap_ms": {"p99": 41.0}}, {"echo_growth_ms": 26.0}],
)
def test_a_load_is_carried_when_all_of_it_is_punctual(change: dict[str, Any]) -> None:
    assert carries(report())
    assert not carries(report(**change))


def test_tables_and_the_plot_bear_missing_values(tmp_path: Path) -> None:
    console = Console(width=160, record=True)
    saturated = report(20, "aiortc", echo_ms={}, setup_ms={})
    silent = report(delivered=None, gap_ms={}, echo_ms={})
    print_loads(console, "Load", [report(), saturated, silent])
    print_acceptance(console, [Figure("delivered", 0.97, 0.99, is_at_least=True)])
    text = console.export_text()
    assert "does not hold" in text
    assert "at least 0.990" in text
    plot_media_load({"load": [report(), saturated], "links": [report(6, label="clean")]}, tmp_path / "a.png", "load")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_a_peer_has_a_program_and_its_environment_follows_its_packages(tmp_path: Path) -> None:
    for name, peer in PEER_SERVERS.items():
        assert (PEERS / peer.program).is_file()
        assert (PEERS / f"{name}.txt").is_file() == peer.has_environment
    requirements = tmp_path / "other.txt"
    requirements.write_text("aiortc==1.16.0\n")
    one = environment_folder(requirements)
    requirements.write_text("aiortc==1.15.0\n")
    assert one != environment_folder(requirements)
    assert one.name.startswith("other-")


def test_a_machine_without_a_cpu_controller_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoQuotaError, match="no CPU controller"), cpu_quotas(tmp_path):
        pass
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "cgroup.subtree_control").write_text("memory\n")
    with pytest.raises(NoQuotaError, match="no CPU controller"), cpu_quotas(tmp_path):
        pass


def test_a_control_group_is_gone_after_its_process_whatever_happened() -> None:
    wait = [sys.executable, "-c", "import sys; print(open('/proc/self/cgroup').read() if sys.stdin.readline() else '')"]

    def fail_under_quota() -> str:
        with cpu_quotas() as limit:
            with subprocess.Popen(wait, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
                limit(process.pid, 0.5)
                said, _ = process.communicate("go\n")
            names.append(said)
            raise RuntimeError("the benchmark failed")

    names: list[str] = []
    try:
        with pytest.raises(RuntimeError, match="the benchmark failed"):
            fail_under_quota()
    except NoQuotaError as error:
        pytest.skip(str(error))
    assert "rtc-server-benchmark-" in names[0]
    assert not list(Path("/sys/fs/cgroup").glob(f"**/rtc-server-benchmark-{os.getpid()}-*"))
