"""What the machine and the network do to a server: clock, disk, packet loss, a TURN server lost (docs/faults.md)."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest
from aiortc import RTCSessionDescription

from tests.support.faults import FAKETIME, TURNSERVER, small_disk, turn_server
from tests.support.live_call import LiveCall, live_call
from tests.support.running_server import free_port
from tests.support.server_process import server_process
from tests.support.udp_relay import UdpRelay

SETTINGS = {"turns.vad": "webrtcvad"}
SHORT = "f0_rms.wav"
CONSENT_SECONDS = 60.0  # RFC 7675: a peer that does not answer for 30 s is gone; and as much again for a busy machine


@pytest.mark.skipif(not FAKETIME.exists(), reason="libfaketime is not installed (Debian package faketime)")
@pytest.mark.parametrize("step", ["+2d", "-2d"])
async def test_a_step_of_the_wall_clock_is_not_noticed(tmp_path: Path, step: str) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0\n", encoding="ascii")
    environment = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with server_process("echo", settings=SETTINGS, environment=environment) as server:
        async with live_call(server.url) as call:
            assert (await call.answered(SHORT))["response"]["status"] == "completed"
            before = server.log.count("\n")
            clock.write_text(f"{step}\n", encoding="ascii")
            assert (await call.answered(SHORT))["response"]["status"] == "completed"
            async with live_call(server.url) as later:
                assert (await later.answered(SHORT))["response"]["status"] == "completed"
        days = {line[:10] for line in server.log.splitlines() if line[:2] == "20"}
        assert len(days) >= 2, f"the clock did not step: {days}, {before} lines before it"


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk of its own can only be mounted by root")
async def test_a_full_disk_of_the_log_does_not_stop_a_call(tmp_path: Path) -> None:
    with small_disk(tmp_path):
        settings = {**SETTINGS, "logging.level": "debug"}
        with server_process("echo", settings=settings, log_to=tmp_path / "server.log") as server:
            with suppress(OSError), (tmp_path / "ballast").open("wb", buffering=0) as ballast:
                while True:
                    ballast.write(bytes(4096))
            full = (tmp_path / "server.log").stat().st_size
            async with live_call(server.url) as call:
                assert (await call.answered(SHORT))["response"]["status"] == "completed"
            assert (tmp_path / "server.log").stat().st_size <= full + 4096, "the disk was not full"


class RelayedCall(LiveCall):
    """A call whose packets go through a bad network."""

    relay: UdpRelay | None = None

    def __init__(self, url: str, loss: float) -> None:
        super().__init__(url)
        self._loss = loss
        self.peer._accept = self._accept  # type: ignore[method-assign]

    async def _accept(self, answer: str) -> None:
        lines = []
        for line in answer.splitlines():
            fields = line.split()
            if line.startswith("a=candidate:"):
                if self.relay is None:
                    self.relay = UdpRelay((fields[4], int(fields[5])), loss=self._loss)
                fields[5] = str(self.relay.port)
                line = " ".join(fields)
            lines.append(line)
        await self.peer.pc.setRemoteDescription(RTCSessionDescription("\r\n".join(lines) + "\r\n", "answer"))

    async def close(self) -> None:
        await super().close()
        if self.relay is not None:
            await asyncio.to_thread(self.relay.close)


async def test_with_a_fifth_of_the_packets_lost_both_ways_turns_are_answered() -> None:
    with server_process("echo", settings=SETTINGS) as server:
        call = RelayedCall(server.url, loss=0.0)
        try:
            await call.peer.connect(15)
            await call.event("session.created")
            assert call.relay is not None
            call.relay.loss = 0.2  # of datagrams in either direction, events and their acknowledgements included
            for _ in range(2):
                assert (await call.answered(SHORT, 60.0))["response"]["status"] == "completed"
        finally:
            await call.close()
        await asyncio.to_thread(server.wait_for_calls, 0)


@pytest.mark.skipif(not TURNSERVER.exists(), reason="coturn is not installed (Debian package coturn)")
async def test_callers_that_vanish_or_lose_their_turn_server_give_their_lines_back(tmp_path: Path) -> None:
    port = free_port()
    with server_process("echo", settings=SETTINGS) as server, turn_server(port, tmp_path) as (turn, configuration):
        vanishing = RelayedCall(server.url, loss=0.0)
        relayed = LiveCall(server.url, configuration=configuration)
        async with live_call(server.url) as untouched:
            try:
                for call in (vanishing, relayed):
                    await call.peer.connect(15)
                    await call.event("session.created")
                assert (await relayed.answered(SHORT))["response"]["status"] == "completed"
                assert vanishing.relay is not None
                vanishing.relay.loss = 1.0
                turn.kill()
                await asyncio.to_thread(server.wait_for_calls, 1, CONSENT_SECONDS)
                assert (await untouched.answered(SHORT))["response"]["status"] == "completed"
            finally:
                turn.kill()
                await asyncio.to_thread(turn.wait)
                with turn_server(port, tmp_path):  # or the caller's TURN client would ask nobody for a minute
                    await asyncio.gather(vanishing.close(), relayed.close())
