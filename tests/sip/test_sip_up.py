"""`rtc-server sip up`: one command for the whole edge, and what becomes of it when a part ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.support.sip_words import Account
from benchmarks.support.telephone import Line, telephone_call
from benchmarks.support.tone_bursts import bursts, share_returned
from tests.support.namespaces import Namespace, network, require_namespaces

ADDRESS, PHONE_ADDRESS = "10.99.0.1", "10.99.0.2"
START_SECONDS, STOP_SECONDS = 60.0, 40.0


@dataclass(frozen=True, slots=True)
class Up:
    """The command as it runs."""

    process: subprocess.Popen[bytes]
    output: Path
    machine: Namespace
    phone: Namespace

    def wait_for(self, text: str) -> str:
        """Until it has printed that; all that it printed."""
        deadline = time.monotonic() + START_SECONDS
        while text not in (printed := self.output.read_text(errors="replace")):
            assert self.process.poll() is None, printed
            assert time.monotonic() < deadline, printed
            time.sleep(0.1)
        return printed

    def end(self) -> tuple[int, str]:
        """Its exit code and what it printed."""
        return self.process.wait(STOP_SECONDS), self.output.read_text(errors="replace")


@contextmanager
def sip_up(folder: Path) -> Iterator[Up]:
    require_namespaces("kamailio", "rtpengine")
    options = ("--backend", "echo", "--http-port", "0", "--realtime-port", "0", "--no-tls")
    with network() as net:
        machine, phone = net.machine("server"), net.machine("phone")
        net.link(machine, f"{ADDRESS}/24", phone, f"{PHONE_ADDRESS}/24")
        with machine.entered(), (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "rtc_server", "sip", "up", *options],
                cwd=folder,
                env={**os.environ, "RTC_SERVER__SERVER__ECHO_TEST": "true"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield Up(process, folder / "output", machine, phone)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(STOP_SECONDS)


def test_a_telephone_calls_with_what_was_printed_and_ctrl_c_ends_all(tmp_path: Path) -> None:
    async def call(password: str) -> float:
        payloads, _ = bursts(2)
        line = Line(PHONE_ADDRESS, (ADDRESS, 5060), Account("phone", password))
        async with telephone_call(line, f"sip:echo@{ADDRESS}") as held:
            await asyncio.sleep(0.3)
            await held.say(payloads)
            await asyncio.sleep(0.3)
            return share_returned(payloads, held.heard)

    with sip_up(tmp_path) as up:
        printed = up.wait_for("Ctrl-C ends all of it.")
        assert f"sip:agent@{ADDRESS}" in printed
        found = re.search(r"user phone, password (\S+) ", printed)
        assert found
        assert found[1] not in (tmp_path / "config" / "sip-users").read_text()
        with up.phone.entered():
            assert asyncio.run(call(found[1])) > 0.9
        parts = psutil.Process(up.process.pid).children(recursive=True)
        assert {"kamailio", "rtpengine"} <= {part.name() for part in parts}
        up.process.send_signal(signal.SIGINT)
        code, printed = up.end()
        assert code == 0, printed
        assert not psutil.wait_procs(parts, timeout=5)[1]
        assert "Traceback" not in printed


def test_when_a_part_ends_the_others_do_and_it_is_said(tmp_path: Path) -> None:
    with sip_up(tmp_path) as up:
        up.wait_for("Ctrl-C ends all of it.")
        parts = psutil.Process(up.process.pid).children(recursive=True)
        next(part for part in parts if part.name() == "rtpengine").kill()
        code, printed = up.end()
        assert code == 1, printed
        assert "rtpengine ended" in printed
        assert not psutil.wait_procs(parts, timeout=5)[1]
