"""A telephone edge in a box: server, proxy and relay on one machine, telephones on another, a cable between them.

    phone (10.99.0.2, .9 is a trunk) ---- server (10.99.0.1): Kamailio, rtpengine, rtc-server

With `ipv6`, telephones reach it over [fd00:99::1] from fd00:99::2 (a stranger is fd00:99::66) instead.

The phone's machine also owns two networks whose addresses serve once each: STRANGERS, and TRUNKS, which call without a
password.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.support.sip_words import Account
from rtc_server.certs import ensure_certificates
from rtc_server.config import Settings, load_settings
from rtc_server.sip.edge.render import EdgePaths, render
from rtc_server.sip.edge.run import PING, Part, ask, options_request, running_edge, start_part
from rtc_server.sip.edge.users import UsersFile

from .namespaces import Namespace, network
from .server_process import ServerProcess, Value, server_process

SERVER_ADDRESS, PHONE_ADDRESS, TRUNK_ADDRESS = "10.99.0.1", "10.99.0.2", "10.99.0.9"
SERVER_IPV6, PHONE_IPV6, STRANGER_IPV6 = "fd00:99::1", "fd00:99::2", "fd00:99::66"
STRANGERS, TRUNKS = "10.50.0.0/16", "10.60.0.0/16"
USER, PASSWORD = "alice", "correct-horse-battery"
OTHER_USER = "bob"
NG_PORT = 2223
READY_SECONDS = 60.0  # a busy machine took 20 s to start Kamailio


@dataclass(frozen=True, slots=True)
class Stand:
    """See the module's docstring."""

    server: ServerProcess
    machine: Namespace
    """Of the server and its edge; `with stand.machine.entered()` reaches `server.url`."""
    phone: Namespace
    edge: tuple[str, int]
    """Address and port of the proxy, as telephones reach it."""
    tls_port: int
    phone_address: str
    account: Account
    realm: str
    folder: Path
    """Of the edge's files and logs: kamailio.log, rtpengine.log, users, certs/ca.pem."""
    relay: Part
    proxy: Part

    @property
    def authority(self) -> Path:
        """Who signed the edge's certificate."""
        return self.folder / "certs" / "ca.pem"

    def processes(self) -> dict[str, list[psutil.Process]]:
        """All of "kamailio", "rtpengine" and "server", children too."""
        roots = {
            "kamailio": self.proxy.process.pid,
            "rtpengine": self.relay.process.pid,
            "server": self.server.process.pid,
        }
        return {name: _with_children(pid) for name, pid in roots.items()}

    def answered_call(self, number: int = 1, timeout_seconds: float = 20.0) -> str:
        """Id of the `number`-th telephone call that this server answered."""
        deadline = time.monotonic() + timeout_seconds
        while len(found := re.findall(r"telephone call answered call_id=(\S+)", self.server.log)) < number:
            assert time.monotonic() < deadline, f"{len(found)} calls were answered:\n{self.logs}"
            time.sleep(0.05)
        return found[number - 1]

    def post(self, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Ask the server over HTTP, as an application on its machine; status and JSON body, {} without one."""
        status, text, _ = self._post(path, body)
        return status, json.loads(text) if text.startswith(b"{") else {}

    def dial(self, target: str) -> str:
        """Have the server call somebody; the id of the call. Raises AssertionError."""
        status, text, location = self._post(
            "/v1/realtime/calls", {"target_uri": target, "session": {"type": "realtime"}}
        )
        assert status == 201, text
        return location.rsplit("/", 1)[1]

    def _post(self, path: str, body: object) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection("127.0.0.1", int(self.server.url.rsplit(":", 1)[1]), timeout=30.0)
        with self.machine.entered(), closing(connection):
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request("POST", path, None if body is None else json.dumps(body), headers)
            reply = connection.getresponse()
            return reply.status, reply.read(), reply.getheader("Location", "")

    def restart(self, part: Part) -> None:
        """Start `relay` or `proxy` again after its end, as whatever looks after services does."""
        part.stop()
        command = part.process.args
        assert isinstance(command, list)
        with self.machine.entered():
            again = start_part(part.name, command, part.log_path)
        part.process, part.is_swept = again.process, False

    def wait_until_ready(self) -> None:
        """Relay, proxy and server say that they take calls. Raises AssertionError."""
        deadline = time.monotonic() + READY_SECONDS
        with self.machine.entered():
            while not ask(("127.0.0.1", NG_PORT), PING).endswith(b"ponge"):
                assert time.monotonic() < deadline, f"the relay does not answer:\n{self.logs}"
                time.sleep(0.05)
            _wait_for_calls(self.server)

    @property
    def num_answered(self) -> int:
        """Telephone calls that were answered so far."""
        return self.server.log.count("telephone call answered")

    def pids(self) -> dict[str, list[int]]:
        """Of `processes`: none of them may change while strangers play."""
        return {name: sorted(process.pid for process in found) for name, found in self.processes().items()}

    def num_calls(self) -> int:
        """Calls that the server holds now, asked from any machine."""
        with self.machine.entered():
            return self.server.num_calls

    def num_relayed(self) -> int:
        """Calls that the relay holds now."""
        with self.machine.entered():
            answer = ask(("127.0.0.1", NG_PORT), os.urandom(4).hex().encode() + b" d7:command10:statisticse")
        found = re.search(rb"13:sessionstotali(\d+)e", answer)
        assert found, answer
        return int(found[1])

    def wait_for_calls(self, num: int, timeout_seconds: float = 20.0) -> None:
        """As of the server, asked from any machine."""
        with self.machine.entered():
            self.server.wait_for_calls(num, timeout_seconds)

    @property
    def logs(self) -> str:
        """What all parts said, for the message of a test that fails."""
        parts = [f"--- {name}\n" + (self.folder / name).read_text(errors="replace")[-4000:] for name in LOGS]
        return "\n".join([*parts, "--- server", self.server.log[-4000:]])


LOGS = ("kamailio.log", "rtpengine.log")


@dataclass(frozen=True, slots=True)
class EdgeAlone:
    """Proxy and relay without a server behind them."""

    machine: Namespace
    phone: Namespace
    edge: tuple[str, int]
    folder: Path
    """Of their files and logs: kamailio.log, rtpengine.log, users, certs/ca.pem."""
    relay: Part
    proxy: Part
    realm: str
    tls_port: int


@contextmanager
def edge_alone(settings: Mapping[str, Value] | None = None, *, ipv6: bool = False) -> Iterator[EdgeAlone]:
    """What is in front of a server. `settings` have dotted keys; those of [sip] and [sip_edge] are looked at."""
    address = SERVER_IPV6 if ipv6 else SERVER_ADDRESS
    values: dict[str, Value] = {
        "sip_edge.address": address,
        "sip_edge.allowed_addresses": [TRUNK_ADDRESS, TRUNKS],
        **(settings or {}),
    }
    with tempfile.TemporaryDirectory(prefix="sip-stand-") as name, network() as net:
        folder = Path(name)
        machine, phone = net.machine("server"), net.machine("phone")
        server_side, phone_side = net.link(machine, f"{SERVER_ADDRESS}/24", phone, f"{PHONE_ADDRESS}/24")
        phone.ip("addr", "add", f"{TRUNK_ADDRESS}/24", "dev", phone_side)
        machine.ip("addr", "add", f"{SERVER_IPV6}/64", "dev", server_side, "nodad")
        for host in (PHONE_IPV6, STRANGER_IPV6):
            phone.ip("addr", "add", f"{host}/64", "dev", phone_side, "nodad")
        for addresses in (STRANGERS, TRUNKS):
            phone.ip("route", "add", "local", addresses, "dev", "lo")
            machine.ip("route", "add", addresses, "via", PHONE_ADDRESS)
        loaded = load_settings(None, values)
        users = UsersFile(folder / "users")
        for user in (USER, OTHER_USER):
            users.add(user, loaded.sip_edge.realm, PASSWORD)
        certificate = ensure_certificates(folder / "certs", [address])
        paths = EdgePaths(folder, users.path, certificate.certificate, certificate.private_key, NG_PORT)
        rendered = render(loaded, address, paths, _registrar_password(loaded))
        with machine.entered(), running_edge(rendered, folder, NG_PORT, loaded.sip.proxy) as (relay, proxy):
            edge = (address, loaded.sip_edge.port)
            yield EdgeAlone(machine, phone, edge, folder, relay, proxy, loaded.sip_edge.realm, loaded.sip_edge.tls_port)
            relay.check()
            proxy.check()


@contextmanager
def sip_stand(
    settings: Mapping[str, Value] | None = None,
    edge_settings: Mapping[str, Value] | None = None,
    *,
    backend: str = "echo",
    ipv6: bool = False,
) -> Iterator[Stand]:
    """`with sip_stand({"server.echo_test": True}, {"max_failed_logins": 3}) as stand:`; both edge and server are up.
    `edge_settings` are keys of [sip_edge]."""
    of_edge = {f"sip_edge.{key}": value for key, value in (edge_settings or {}).items()}
    with (
        edge_alone({**(settings or {}), **of_edge}, ipv6=ipv6) as alone,
        stand_behind(alone, settings, backend) as stand,
    ):
        yield stand


@contextmanager
def stand_behind(
    alone: EdgeAlone, settings: Mapping[str, Value] | None = None, backend: str = "echo"
) -> Iterator[Stand]:
    """The server behind that edge."""
    of_server: dict[str, Value] = {"webrtc.host_addresses": [alone.edge[0]], "sip.enabled": True, **(settings or {})}
    with alone.machine.entered(), server_process(backend, of_server) as server:
        _wait_for_calls(server)
        yield Stand(
            server,
            alone.machine,
            alone.phone,
            alone.edge,
            alone.tls_port,
            PHONE_IPV6 if alone.edge[0] == SERVER_IPV6 else PHONE_ADDRESS,
            Account(USER, PASSWORD),
            alone.realm,
            alone.folder,
            alone.relay,
            alone.proxy,
        )


def _wait_for_calls(server: ServerProcess) -> None:
    """Who asks on this machine hears from the server itself."""
    deadline = time.monotonic() + READY_SECONDS
    proxy = ("127.0.0.1", 5060)
    while not ask(proxy, options_request(proxy)).startswith(b"SIP/2.0 200"):
        assert time.monotonic() < deadline, f"no telephone calls are taken:\n{server.log}"
        time.sleep(0.1)


def _with_children(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _registrar_password(settings: Settings) -> str:
    file = settings.sip_edge.registrar_password_file
    return Path(file).read_text().strip() if file else ""
