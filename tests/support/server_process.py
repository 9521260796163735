"""The server as its users start it: a process of its own, found by its port, stopped by SIGTERM.

For tests that have to see the whole program (a browser, a load test, an engine that is killed). Tests of the HTTP
surface alone are quicker with `running_server`, which stays inside the test's process.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.running_server import free_port

READY_SECONDS = 120.0  # the embedded models warm up in about 5 s on an idle machine
STOP_SECONDS = 30.0
POLL_SECONDS = 0.05

Value = bool | int | float | str | list[str] | list[int]

DEFAULTS: Mapping[str, Value] = {
    "webrtc.host_addresses": ["127.0.0.1"],  # tests send nothing to any other address
    "server.drain_timeout_seconds": 0.0,  # a test that leaves calls behind does not wait for them
    "server.shutdown_timeout_seconds": 3.0,
    "auth.keys_file": "",  # not the developer's own
    "server.realtime_port": 0,  # a fixed port belongs to one server of the machine
}


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """One running server."""

    url: str
    """`http://127.0.0.1:<port>`, without a slash at the end."""
    process: subprocess.Popen[bytes]
    log_path: Path
    """Standard output and error of the server, together."""
    https_url: str = ""
    """The same server over TLS; "" without."""
    ca_path: Path | None = None
    """The authority that signed its certificate."""

    @property
    def log(self) -> str:
        """What the server has printed so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def get_json(self, path: str) -> tuple[int, dict[str, object]]:
        """GET `path`; status and JSON body. Raises OSError when nobody listens."""
        port = int(self.url.rsplit(":", 1)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    @property
    def num_calls(self) -> int:
        """Calls that the server holds now."""
        status, told = self.get_json("/v1/info")
        calls = told.get("calls")
        assert isinstance(calls, int), f"the server told {status} instead: {told}"
        return calls

    def wait_until_ready(self, timeout_seconds: float = READY_SECONDS) -> None:
        """Wait for `/readyz`. Raises AssertionError with the log when the server ends or stays red."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.log}"
            try:
                if self.get_json("/readyz")[0] == 200:
                    return
            except OSError:
                pass  # does not listen yet
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"the server was not ready after {timeout_seconds} s:\n{self.log}")

    def wait_for_calls(self, num: int, timeout_seconds: float = 10.0) -> None:
        """Wait until the server holds `num` calls. Raises AssertionError."""
        deadline = time.monotonic() + timeout_seconds
        while (held := self.num_calls) != num:
            assert time.monotonic() < deadline, f"the server holds {held} calls, expected {num}"
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """SIGTERM, and wait. Raises AssertionError when the server does not end, or not with exit code 0."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server ignored SIGTERM for {STOP_SECONDS} s:\n{self.log}") from None
        assert code == 0, f"the server ended with exit code {code}:\n{self.log}"


@contextmanager
def server_process(
    backend: str = "echo",
    settings: Mapping[str, Value] | None = None,
    *,
    port: int | None = None,
    wait: bool = True,
    tls: bool = False,
    environment: Mapping[str, str] | None = None,
    log_to: Path | None = None,
) -> Iterator[ServerProcess]:
    """`with server_process("cascade", {"server.max_calls": 1}) as server:` is a warm server on loopback.

    `settings` are dotted keys as in config/server.toml. `wait=False` yields at once, before the models are loaded; with
    `tls` it listens for HTTPS too; `environment` adds variables, and `log_to` takes its output. Leaving the block stops
    it and checks the exit code; after an exception in the block it only stops it."""
    port = free_port() if port is None else port
    with tempfile.TemporaryDirectory(prefix="rtc-server-test-") as folder:
        config, log_path = Path(folder) / "server.toml", Path(folder) / "server.log"
        certs = Path(folder) / "certs"
        https_port = free_port() if tls else 0
        values = {**DEFAULTS, "server.https_port": https_port, "server.certs_dir": str(certs), **(settings or {})}
        config.write_text(as_toml(values), encoding="utf-8")
        arguments = ["serve", "--host", "127.0.0.1", "--http-port", str(port), "--tls" if tls else "--no-tls"]
        command = [sys.executable, "-m", "rtc_server", *arguments, "--backend", backend, "--config", str(config)]
        log_path = log_to or log_path
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**_env(), **(environment or {})},
            )
        secure = (f"https://127.0.0.1:{https_port}", certs / "ca.pem") if tls else ("", None)
        server = ServerProcess(f"http://127.0.0.1:{port}", process, log_path, *secure)
        try:
            if wait:
                server.wait_until_ready()
            yield server
        except BaseException:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
        server.stop()


def as_toml(settings: Mapping[str, Value]) -> str:
    """Dotted keys and their values as a TOML file; every section once."""
    sections: dict[str, list[str]] = {}
    for key, value in settings.items():
        section, name = key.split(".", 1)
        # JSON writes these kinds of values exactly as TOML does.
        sections.setdefault(section, []).append(f"{name} = {json.dumps(value)}")
    return "\n".join(f"[{section}]\n" + "\n".join(lines) + "\n" for section, lines in sections.items())


def _env() -> dict[str, str]:
    """The environment without settings of the developer's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RTC_SERVER__")}
