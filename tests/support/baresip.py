"""A software telephone (baresip) that says a recording and records what it hears, steered over its control socket.

What version 1.0 wants: the recording at the rate of `ausrc_srate`; the transmit mode "poll" or nothing is sent from
files; a call whose recording ends is hung up, so recordings are followed by silence.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import wave
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.interface import Pcm16
from rtc_server.audio.resample import StreamResampler

from .namespaces import Namespace

MODULES = Path("/usr/lib/baresip/modules")
CONTROL_PORT = 4444
START_SECONDS = 15.0
SILENCE_SECONDS = 120.0
RATES = {"PCMU": 8_000, "PCMA": 8_000, "G722": 16_000, "opus": 48_000}
"""Rate in Hz of each codec."""

_CONFIG = """\
sip_listen {host}:{port}
sip_cafile {ca}
sip_verify_server no
call_local_timeout 120
call_max_calls 4
snd_path {folder}
audio_path /usr/share/baresip
audio_player aubridge,nobody
audio_source aufile,{folder}/said.wav
audio_alert aufile,/dev/null
ausrc_srate {rate}
auplay_srate {rate}
ausrc_channels 1
auplay_channels 1
audio_txmode poll
audio_level no
audio_jitter_buffer_type fixed
audio_jitter_buffer_delay 1-5
jitter_buffer_delay 1-5
rtp_ports {rtp_port}-{last_rtp_port}
rtp_stats yes
rtp_timeout 0
opus_bitrate 28000
opus_stereo no
opus_sprop_stereo no
opus_inbandfec yes
ctrl_tcp_listen 127.0.0.1:{control}
module_path {modules}
module stdio.so
module g711.so
module g722.so
module opus.so
module aufile.so
module aubridge.so
module sndfile.so
module srtp.so
module_tmp uuid.so
module_tmp account.so
module_app contact.so
module_app menu.so
module ctrl_tcp.so
"""


@dataclass(frozen=True, slots=True)
class Phone:
    """How a telephone is set up."""

    host: str
    """Its own address."""
    edge: str
    """Address of the edge, with its port where that is not the usual one."""
    user: str
    password: str
    codec: str = "PCMU"
    transport: str = "udp"
    encryption: str = ""
    """"" or "srtp-mand" (SDES)."""
    registers: bool = False
    says: Pcm16 | None = None
    """48 kHz mono; said once from the start of each call on. None = silence."""
    ports: int = 0
    """Ports of telephones on one machine must differ: 0, 1, 2, ..."""


class Baresip:
    """A running one; made by `baresip`. Every wait raises AssertionError with its log when it takes too long."""

    def __init__(self, phone: Phone, folder: Path, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self.folder, self.phone = folder, phone
        self.events: list[dict[str, Any]] = []
        """Of its control socket, such as {"type": "CALL_ESTABLISHED"}."""
        self._process, self._control = process, control
        self._buffer = b""

    def dial(self, target: str) -> None:
        """Call somebody."""
        self.command("dial", target)

    def command(self, name: str, parameters: str = "") -> None:
        """One of baresip's commands: "hangup", "accept", "hold", "resume", "sndcode"."""
        body = json.dumps({"command": name, "params": parameters})
        self._control.sendall(f"{len(body)}:{body},".encode())

    def wait_for(self, kind: str, timeout_seconds: float = 15.0, count: int = 1) -> dict[str, Any]:
        """The `count`-th event of a kind, such as "CALL_RINGING", "CALL_ESTABLISHED" or "CALL_CLOSED"."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            found = [event for event in self.events if event.get("type") == kind]
            if len(found) >= count:
                return found[count - 1]
            assert time.monotonic() < deadline, f"no {kind} within {timeout_seconds} s: {self.events}\n{self.log}"
            assert self._process.poll() is None, f"baresip ended:\n{self.log}"
            self._read(0.1)

    def wait_a_while(self, seconds: float) -> None:
        """Go on reading events."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._read(0.1)

    def wait_until_registered(self, timeout_seconds: float = 15.0) -> None:
        """It says so while it starts, before anybody can listen to its events."""
        deadline = time.monotonic() + timeout_seconds
        while "registered successfully" not in self.log:
            assert time.monotonic() < deadline, f"not registered within {timeout_seconds} s:\n{self.log}"
            time.sleep(0.05)

    def press(self, digits: str) -> None:
        """Keys, one after the other."""
        for digit in digits:
            self.command("sndcode", digit)
            time.sleep(0.3)

    def heard(self) -> tuple[Pcm16, int]:
        """What was heard in the latest call, int16 mono, and its rate in Hz. Complete after the call."""
        data = max(self.folder.glob("dump-*-dec.wav")).read_bytes()
        start = data.find(b"data") + 8
        return np.frombuffer(data[start : start + (len(data) - start) // 2 * 2], np.int16), int.from_bytes(
            data[24:28], "little"
        )

    @property
    def log(self) -> str:
        """What it printed."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")[-5_000:]

    def _read(self, seconds: float) -> None:
        self._control.settimeout(seconds)
        with suppress(TimeoutError):
            self._buffer += self._control.recv(65_536)
        while b":" in self._buffer:
            size, _, rest = self._buffer.partition(b":")
            length = int(size)
            if len(rest) < length + 1:
                return
            self._buffer = rest[length + 1 :]
            message = json.loads(rest[:length])
            if message.get("event"):
                self.events.append(message)


@contextmanager
def baresip(phone: Phone, machine: Namespace, folder: Path) -> Iterator[Baresip]:
    """`with baresip(Phone(...), stand.phone, tmp_path) as phone: phone.dial("sip:agent@10.99.0.1")`."""
    folder.mkdir(parents=True, exist_ok=True)
    rate, control = RATES[phone.codec], CONTROL_PORT + phone.ports
    speech = np.zeros(0, np.int16) if phone.says is None else _at_rate(phone.says, rate)
    with wave.open(str(folder / "said.wav"), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(speech.tobytes() + bytes(2 * int(rate * SILENCE_SECONDS)))
    config = _CONFIG.format(
        host=phone.host,
        port=5062 + 2 * phone.ports,
        folder=folder,
        ca="/etc/ssl/certs/ca-certificates.crt",
        rate=rate,
        rtp_port=20_000 + 200 * phone.ports,
        last_rtp_port=20_100 + 200 * phone.ports,
        control=control,
        modules=MODULES,
    )
    (folder / "config").write_text(config)
    encryption = f";mediaenc={phone.encryption}" if phone.encryption else ""
    codecs = {"PCMU": "pcmu", "PCMA": "pcma", "G722": "g722", "opus": "opus/48000/2"}
    (folder / "accounts").write_text(
        f"<sip:{phone.user}@{phone.edge};transport={phone.transport}>;auth_user={phone.user};auth_pass={phone.password}"
        f";regint={300 if phone.registers else 0};audio_codecs={codecs[phone.codec]}{encryption}\n"
    )
    (folder / "contacts").write_text("")
    with machine.entered(), (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["baresip", "-f", str(folder)], stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            connection = _connect(process, control, folder / "log")
            with connection:
                yield Baresip(phone, folder, process, connection)
        finally:
            process.terminate()  # hangs up and unregisters
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdin is not None
            process.stdin.close()


def _at_rate(pcm: Pcm16, rate: int) -> Pcm16:
    resampler = StreamResampler(48_000, rate)
    return np.concatenate([resampler.resample(pcm), resampler.flush()])


def _connect(process: subprocess.Popen[bytes], port: int, log: Path) -> socket.socket:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, f"baresip ended:\n{log.read_text(errors='replace')}"
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1.0)
        except OSError:
            assert time.monotonic() < deadline, f"baresip does not start:\n{log.read_text(errors='replace')}"
            time.sleep(0.05)
