"""sipp, which follows a scenario to the letter, and what its telephone is sent meanwhile (a capture of its RTP port).

What version 3.6 wants: recordings as bare PCMU without a header, and the credentials in the second field of a CSV file.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.support.sip_words import Account
from model.interface import Pcm16
from rtc_server.audio.resample import StreamResampler
from rtc_server.codecs.g711 import decode, encode

from .namespaces import Namespace

SCENARIOS = Path(__file__).resolve().parents[1] / "sip" / "scenarios"
RTP_PORT = 21_000
ETH_P_ALL = 3


class Sipp:
    """One run; made by `sipp`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, heard: list[bytes]) -> None:
        self._process, self._log, self._heard = process, log, heard

    def wait(self, timeout_seconds: float = 60.0) -> None:
        """Until its scenario is over. Raises AssertionError where something else came than it says."""
        code = self._process.wait(timeout_seconds)
        assert code == 0, self._log.read_text(errors="replace")[-4_000:]

    def heard(self) -> Pcm16:
        """int16 mono at 8 kHz: all packets that came, in their order."""
        return decode("PCMU", b"".join(self._heard))


@contextmanager
def sipp(
    scenario: str,
    says: Pcm16,
    machine: Namespace,
    host: str,
    edge: tuple[str, int],
    account: Account,
    folder: Path,
    *,
    talk_seconds: float,
    target: str = "agent",
) -> Iterator[Sipp]:
    """Run a scenario of tests/sip/scenarios once. `says`: 48 kHz mono."""
    audio, users, text = folder / "said.ul", folder / "users.csv", folder / "scenario.xml"
    audio.write_bytes(encode("PCMU", StreamResampler(48_000, 8_000).resample(says)))
    users.write_text(
        f"SEQUENTIAL\n{account.user};[authentication username={account.user} password={account.password}]\n"
    )
    filled = (SCENARIOS / f"{scenario}.xml").read_text().replace("@AUDIO@", str(audio))
    text.write_text(filled.replace("@TALK@", str(int(1000 * talk_seconds))))
    command = [
        *("sipp", f"{edge[0]}:{edge[1]}", "-sf", str(text), "-inf", str(users), "-s", target, "-i", host, "-m", "1"),
        *("-mi", host, "-mp", str(RTP_PORT), "-nostdin", "-timeout", "60"),
    ]
    heard: list[bytes] = []
    over = threading.Event()
    with machine.entered(), (folder / "log").open("wb") as log:
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        tap.settimeout(0.2)
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    listening = threading.Thread(target=_listen, args=(tap, heard, over), name="tap")
    listening.start()
    try:
        yield Sipp(process, folder / "log", heard)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(10)
        over.set()
        listening.join()
        tap.close()


def _listen(tap: socket.socket, heard: list[bytes], over: threading.Event) -> None:
    while not over.is_set():
        try:
            packet, (_, _, direction, *_) = tap.recvfrom(65_536)
        except TimeoutError:
            continue
        if direction == socket.PACKET_OUTGOING or packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_UDP:
            continue
        start = 4 * (packet[0] & 15)
        port, length = struct.unpack_from(">2xHH", packet, start)
        payload = packet[start + 8 : start + length]
        if RTP_PORT <= port <= RTP_PORT + 10 and len(payload) > 12 and payload[0] >> 6 == 2 and payload[1] & 127 == 0:
            heard.append(payload[12:])
