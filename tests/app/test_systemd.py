"""What systemd hears: a real datagram socket in its place, in the file system and in the abstract namespace."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rtc_server.app.systemd import Notifier
from tests.support.faults import paused
from tests.support.server_process import server_process

HEARING_SECONDS = 20.0


@pytest.fixture(params=["file", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The manager's end, and NOTIFY_SOCKET."""
    name = str(tmp_path / "notify") if request.param == "file" else f"@rtc-server-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if name[0] == "@" else name)
        manager.settimeout(HEARING_SECONDS)
        yield manager, name


def hear(manager: socket.socket) -> str:
    return manager.recv(4096).decode()


def hear_until(manager: socket.socket, start: str) -> list[str]:
    """Everything up to the first message that begins like this."""
    heard = [hear(manager)]
    while not heard[-1].startswith(start):
        heard.append(hear(manager))
    return heard


def test_each_message_is_one_datagram(systemd: tuple[socket.socket, str]) -> None:
    manager, name = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.status("3 of 10 calls")
    notifier.status("3 of 10 calls")  # nothing new
    notifier.reloading()  # of no interest before the start is over: READY=1 would end it
    notifier.reloaded()
    notifier.ready()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    notifier.reloaded()
    notifier.stopping()
    notifier.reloaded()
    notifier.close()
    assert [hear(manager), hear(manager)] == ["STATUS=3 of 10 calls", "READY=1"]
    kind, clock = hear(manager).split("\n")
    assert kind == "RELOADING=1"
    assert clock.startswith("MONOTONIC_USEC=")
    assert before <= int(clock.split("=")[1]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert [hear(manager), hear(manager)] == ["READY=1", "STOPPING=1"]
    manager.settimeout(0)
    with pytest.raises(BlockingIOError):
        hear(manager)


async def test_without_systemd_nothing_is_sent_and_nothing_fails(caplog: pytest.LogCaptureFixture) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1000"}):
        notifier = Notifier(environment)
        notifier.ready()
        await notifier.watchdog()
        notifier.close()
    assert caplog.messages == ["NOTIFY_SOCKET is not a Unix socket; systemd is told nothing"]


async def test_a_manager_that_is_gone_does_not_end_the_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    notifier.ready()
    notifier.close()
    assert caplog.messages == ["systemd cannot be told"]


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", None, 30.0),
        ("30000000", str(os.getpid()), 30.0),
        ("30000000", "1", None),  # meant for another process
        ("0", None, None),
        ("soon", None, None),
        ("", None, None),
    ],
)
def test_the_watchdogs_time_is_systemds(
    systemd: tuple[socket.socket, str], usec: str, pid: str | None, seconds: float | None
) -> None:
    environment = {"NOTIFY_SOCKET": systemd[1], "WATCHDOG_USEC": usec}
    notifier = Notifier(environment if pid is None else {**environment, "WATCHDOG_PID": pid})
    assert notifier.watchdog_seconds == seconds
    notifier.close()


def test_a_server_tells_of_its_start_its_life_and_its_end(systemd: tuple[socket.socket, str]) -> None:
    manager, name = systemd
    environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "400000"}
    settings = {"server.media_workers": 0, "turns.vad": "webrtcvad", "server.max_calls": 7}
    with server_process("echo", settings, environment=environment) as server:
        heard = hear_until(manager, "READY=1")
        assert "WATCHDOG=1" in heard, "a long start is no hang"
        assert "STATUS=0 of 7 calls" in [*heard, *hear_until(manager, "STATUS=0 of 7 calls")]
        begun = time.monotonic()
        for _ in range(3):
            hear_until(manager, "WATCHDOG=1")
        assert time.monotonic() - begun < 3 * 0.4, "twice in the time that systemd allows"
        with paused(psutil.Process(server.process.pid)):
            manager.settimeout(0)
            with pytest.raises(BlockingIOError):
                hear_until(manager, "never")  # what was sent before
            manager.settimeout(1.0)
            with pytest.raises(TimeoutError):
                hear(manager)
        manager.settimeout(HEARING_SECONDS)
        hear_until(manager, "WATCHDOG=1")
        server.process.send_signal(signal.SIGTERM)
        hear_until(manager, "STOPPING=1")


async def test_the_watchdog_is_silent_while_the_event_loop_is_held(systemd: tuple[socket.socket, str]) -> None:
    manager, name = systemd
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000"})
    task = asyncio.create_task(notifier.watchdog(), name="watchdog")
    await asyncio.sleep(0)
    assert hear(manager) == "WATCHDOG=1"
    manager.settimeout(0.1)
    with pytest.raises(TimeoutError):  # the loop stands still in `recv` for ten times as long as it may
        hear(manager)
    manager.settimeout(HEARING_SECONDS)
    assert await asyncio.to_thread(hear, manager) == "WATCHDOG=1"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    notifier.close()
