"""The edge as processes of this machine: written into a private folder, started in order, watched, ended in order."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rtc_server.errors import ConfigError, EdgeError
from rtc_server.paths import sip_dir

from .render import Rendered

PACKAGES = ("kamailio", "kamailio-tls-modules", "kamailio-extra-modules", "rtpengine-daemon")
INSTALL_COMMAND = f"sudo apt-get install --no-install-recommends {' '.join(PACKAGES)}"
STOP_SERVICES_COMMAND = "sudo systemctl disable --now kamailio rtpengine-daemon"
"""Debian starts what it installs, with a configuration that nobody asked for."""

START_SECONDS = 60.0  # a busy machine took more than 20 s to start Kamailio
STOP_SECONDS = 5.0
POLL_SECONDS = 0.05
ASK_SECONDS = 0.3
LAST_LINES = 12


def find_program(name: str) -> str | None:
    """Its path. System programs are not on every user's PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


def missing_programs() -> list[str]:
    """Of those that the edge consists of."""
    return [name for name in ("kamailio", "rtpengine") if find_program(name) is None]


def require_programs() -> None:
    """Raises ConfigError that says how to install them."""
    if missing := missing_programs():
        raise ConfigError(
            f"Not installed: {' and '.join(missing)}. On Debian and Ubuntu:\n  {INSTALL_COMMAND}\n"
            f"  {STOP_SERVICES_COMMAND}"
        )


def free_udp_port() -> int:
    """One on loopback that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_port(address: str, port: int) -> None:
    """Raises EdgeError when somebody else has it, over UDP or TCP."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(family, kind) as probe:
            if kind is socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                raise EdgeError(
                    f"{address} port {port} cannot be used: {error.strerror}. Debian starts proxy and relay when "
                    f"it installs them; if it is that:\n  {STOP_SERVICES_COMMAND}"
                ) from error


def write(rendered: Rendered, folder: Path) -> None:
    """Write what was rendered into a folder that only its owner reads. Raises ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        for name, text in rendered.files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.unlink(missing_ok=True)  # and with it the mode that it had
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
        shutil.copyfile(sip_dir() / "kamailio.cfg", folder / "kamailio.cfg")
    except OSError as error:
        raise ConfigError(f"The folder {folder} cannot be written: {error.strerror or error}.") from error


@dataclass(slots=True)
class Part:
    """One running program of the edge."""

    name: str
    process: subprocess.Popen[bytes]
    log_path: Path | None
    """None: it writes to our own output."""
    is_swept: bool = False
    """Nothing that it started is left either."""

    def check(self) -> None:
        """Raises EdgeError with its last words when it has ended."""
        code = self.process.poll()
        if code is None:
            return
        self._sweep()
        raise EdgeError(f"{self.name} ended with exit code {code}{self.last_words()}")

    def last_words(self) -> str:
        """The end of its log, for a message."""
        if self.log_path is None:
            return "; its last lines are above."
        with suppress(OSError):
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
            if lines:
                return f". Its last lines ({self.log_path}):\n  " + "\n  ".join(lines)
        return f"; see {self.log_path}."

    def stop(self, seconds: float = STOP_SECONDS, number: signal.Signals = signal.SIGTERM) -> None:
        """`number`, then SIGKILL. Idempotent."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        self._sweep()

    def _sweep(self) -> None:
        """Processes of a Kamailio that was killed go on without it, and keep its ports. They are in its group; once
        only, as its number may be somebody else's later."""
        if not self.is_swept:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.is_swept = True


def start_part(
    name: str, command: Sequence[str], log_path: Path | None, environment: Mapping[str, str] | None = None
) -> Part:
    """Start a program in a process group of its own: Ctrl-C is for us, who end the parts in order. It gets SIGTERM when
    the thread that started it is gone, killed for example. Raises EdgeError."""
    program = find_program(command[0])
    setpriv = shutil.which("setpriv")  # of util-linux, which is everywhere but in the smallest containers
    bound = (setpriv, "--pdeathsig", "TERM") if setpriv and program else ()
    try:
        log = log_path.open("wb") if log_path is not None else None
        try:
            process = subprocess.Popen(
                [*bound, program or command[0], *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT if log is not None else None,
                env=None if environment is None else {**os.environ, **environment},
                process_group=0,
            )
        finally:
            if log is not None:
                log.close()
    except OSError as error:
        raise EdgeError(f"{name} cannot be started: {error.strerror or error}.") from error
    return Part(name, process, log_path)


@contextmanager
def running_edge(rendered: Rendered, folder: Path, ng_port: int, proxy: str) -> Iterator[tuple[Part, Part]]:
    """`write` and start relay and proxy, which answer when the block begins; both end with it. Yields both. Raises
    EdgeError when one does not come up, with its last words."""
    write(rendered, folder)
    check_configuration(rendered)
    relay = start_part("rtpengine", rendered.relay, folder / "rtpengine.log")
    try:
        _wait(relay, lambda: ask(("127.0.0.1", ng_port), PING).endswith(b"6:result4:ponge"))
        server = start_part("kamailio", rendered.proxy, folder / "kamailio.log")
        try:
            host, _, port = proxy.rpartition(":")
            address = (host.strip("[]"), int(port))
            _wait(server, lambda: ask(address, options_request(address, max_forwards=0)).startswith(b"SIP/2.0 483"))
            yield relay, server
        finally:
            server.stop()
    finally:
        relay.stop()


def check_configuration(rendered: Rendered) -> None:
    """Let Kamailio read its configuration. Raises EdgeError with what it says."""
    program = find_program("kamailio") or "kamailio"
    config = rendered.proxy[rendered.proxy.index("-f") + 1]
    try:
        done = subprocess.run(
            [program, "-c", "-A", "CHECKING", "-f", config],
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EdgeError(f"Kamailio cannot be started: {error}.") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line or "CRITICAL" in line]
        raise EdgeError("Kamailio does not take its configuration:\n  " + "\n  ".join(lines[:LAST_LINES]))


PING = b"1 d7:command4:pinge"
"""rtpengine's `ng` protocol: a cookie and a bencoded dictionary."""


def options_request(to: tuple[str, int], max_forwards: int = 5) -> bytes:
    """SIP for "are you there?". The proxy itself answers with 483 where `max_forwards` is 0, the server otherwise."""
    host = f"[{to[0]}]" if ":" in to[0] else to[0]
    mark = os.urandom(8).hex()
    return (
        f"OPTIONS sip:{host}:{to[1]} SIP/2.0\r\nVia: SIP/2.0/UDP {host};branch=z9hG4bK{mark};rport\r\n"
        f"Max-Forwards: {max_forwards}\r\nFrom: <sip:check@{host}>;tag={mark}\r\nTo: <sip:{host}:{to[1]}>\r\n"
        f"Call-ID: {mark}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    ).encode()


def ask(to: tuple[str, int], message: bytes, seconds: float = ASK_SECONDS, source: str = "") -> bytes:
    """Send one datagram, from the address `source` if it matters, and return the answer; b"" without one."""
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(seconds)
        try:
            if source:
                sock.bind((source, 0))
            sock.connect(to)
            sock.send(message)
            return sock.recv(65_536)
        except OSError:
            return b""


def _wait(part: Part, is_up: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_up():
        part.check()
        if time.monotonic() > deadline:
            part.stop()
            raise EdgeError(f"{part.name} did not answer within {START_SECONDS:.0f} s{part.last_words()}")
        time.sleep(POLL_SECONDS)
