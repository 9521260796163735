"""sipp, which follows a scenario to the letter, and what its telephones are sent meanwhile (a capture of its RTP port).

What version 3.6 wants: recordings as bare PCMU without a header, and the credentials in the second field of a CSV file.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from benchmarks.support.sip_words import Account
from benchmarks.support.tone_bursts import Heard
from model.interface import Pcm16
from rtc_server.audio.resample import StreamResampler
from rtc_server.codecs.g711 import decode, encode

from .namespaces import Namespace

SCENARIOS = Path(__file__).resolve().parents[1] / "sip" / "scenarios"
RTP_PORT = 21_000
ETH_P_ALL = 3

Packet: TypeAlias = tuple[int, Heard]
"""The port that it came from, and what it holds."""


class Sipp:
    """One run; made by `sipp`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, packets: list[Packet]) -> None:
        self._process, self._log, self._packets = process, log, packets

    def wait(self, timeout_seconds: float = 60.0) -> None:
        """Until its scenario is over, in all calls. Raises AssertionError where something else came than it says."""
        code = self._process.wait(timeout_seconds)
        assert code == 0, self._log.read_text(errors="replace")[-4_000:]

    def heard(self) -> Pcm16:
        """int16 mono at 8 kHz: all packets that came to its one telephone, in their order."""
        (heard,) = self.heard_by_call()
        return decode("PCMU", b"".join(packet.payload for packet in heard))

    def heard_by_call(self) -> list[list[Heard]]:
        """What came to each telephone that heard anything. sipp 3.6 takes one RTP port for all: they are told apart by
        the relay's port, each call's own."""
        by_port: dict[int, list[Heard]] = {}
        for port, heard in self._packets:
            by_port.setdefault(port, []).append(heard)
        return list(by_port.values())


def as_pcmu(pcm: Pcm16) -> bytes:
    """What a telephone says, from 48 kHz mono."""
    return encode("PCMU", StreamResampler(48_000, 8_000).resample(pcm))


@contextmanager
def sipp(
    scenario: str,
    says: bytes,
    machine: Namespace,
    host: str,
    edge: tuple[str, int],
    account: Account,
    folder: Path,
    *,
    talk_seconds: float,
    target: str = "agent",
    num_calls: int = 1,
) -> Iterator[Sipp]:
    """Run a scenario of tests/sip/scenarios, `num_calls` times at once. `says`: PCMU."""
    audio, users, text = folder / "said.ul", folder / "users.csv", folder / "scenario.xml"
    audio.write_bytes(says)
    users.write_text(
        f"SEQUENTIAL\n{account.user};[authentication username={account.user} password={account.password}]\n"
    )
    filled = (SCENARIOS / f"{scenario}.xml").read_text().replace("@AUDIO@", str(audio))
    text.write_text(filled.replace("@TALK@", str(int(1000 * talk_seconds))))
    command = [
        *("sipp", f"{edge[0]}:{edge[1]}", "-sf", str(text), "-inf", str(users), "-s", target, "-i", host),
        *(
            "-m",
            str(num_calls),
            "-l",
            str(num_calls),
            "-r",
            str(num_calls),
            "-mi",
            host,
            "-mp",
            str(RTP_PORT),
            "-nostdin",
            "-timeout",
            "60",
        ),
    ]
    packets: list[Packet] = []
    over = threading.Event()
    with machine.entered(), (folder / "log").open("wb") as log:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        tap.settimeout(0.2)
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    listening = threading.Thread(target=_listen, args=(tap, packets, over), name="tap")
    listening.start()
    try:
        yield Sipp(process, folder / "log", packets)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(10)
        over.set()
        listening.join()
        tap.close()


def _listen(tap: socket.socket, packets: list[Packet], over: threading.Event) -> None:
    while not over.is_set():
        try:
            packet, (_, _, direction, *_) = tap.recvfrom(65_536)
        except TimeoutError:
            continue
        if direction == socket.PACKET_OUTGOING or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_UDP:
            continue
        start = 4 * (packet[0] & 15)
        source, port, length = struct.unpack_from(">HHH", packet, start)
        payload = packet[start + 8 : start + length]
        is_rtp = len(payload) > 12 and payload[0] >> 6 == 2 and payload[1] & 127 == 0
        if is_rtp and RTP_PORT <= port <= RTP_PORT + 10:
            packets.append((source, Heard(time.monotonic(), int.from_bytes(payload[2:4], "big"), payload[12:])))
