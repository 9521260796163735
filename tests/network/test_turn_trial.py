"""`doctor --turn` against a real TURN server, each failure provoked."""

from __future__ import annotations

import asyncio
import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from aioice import turn
from typer.testing import CliRunner, Result

from rtc_server.cli.app import app
from rtc_server.config import load_settings
from rtc_server.errors import ConfigError
from rtc_server.relays import trial
from rtc_server.relays.address import RelayAddress, Way
from rtc_server.relays.checks import check_turn, try_turn
from rtc_server.relays.credentials import Credentials, TurnSecret
from rtc_server.relays.trial import Outcome, Peer, try_relay
from tests.support.relay import SECRET, coturn, require_coturn, shipped_lines
from tests.support.running_server import free_port

HERE = Peer("127.0.0.1", "127.0.0.1")
LOOPBACK = ("listening-ip=127.0.0.1", "relay-ip=127.0.0.1", "allow-loopback-peers")


@dataclass(frozen=True, slots=True)
class Relay:
    """A coturn on loopback."""

    port: int
    tls_port: int
    authority: trustme.CA
    log: Path

    async def tried(
        self,
        way: Way = "udp",
        *,
        credentials: Credentials | None = None,
        peers: tuple[Peer, ...] = (HERE,),
        host: str = "localhost",
        trusted: bool = True,
    ) -> Outcome:
        tls = ssl.create_default_context()
        if trusted:
            self.authority.configure_trust(tls)
        address = RelayAddress(host, self.tls_port if way == "tls" else self.port, way)
        return await try_relay(address, credentials or fresh(self.log.parent), peers, tls)


def fresh(folder: Path, *, secret: str = SECRET, seconds: int = 600) -> Credentials:
    file = folder / "secret"
    file.write_text(secret, encoding="ascii")
    return TurnSecret(file).credentials(("doctor",), int(time.time()) + seconds)


@contextmanager
def relay(
    folder: Path,
    *lines: str,
    without: tuple[str, ...] = (),
    names: tuple[str, ...] = ("localhost", "127.0.0.1"),
    expires: datetime | None = None,
) -> Iterator[Relay]:
    """With the shipped configuration, but for options `without`, and with `lines`."""
    authority = trustme.CA()
    issued = authority.issue_cert(*names, not_after=expires)
    folder.mkdir(parents=True, exist_ok=True)
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "certificate.pem")
    port, tls_port = free_port(), free_port()
    places = [f"listening-port={port}", f"tls-listening-port={tls_port}"]
    keys = [f"cert={folder / 'certificate.pem'}", f"pkey={folder / 'certificate.pem'}"]
    shipped = shipped_lines(without=(*without, "listening-port", "tls-listening-port"))
    listening = [("127.0.0.1", port), ("127.0.0.1", tls_port)]
    with coturn(folder, [*shipped, *LOOPBACK, *places, *keys, *lines], listening) as log:
        yield Relay(port, tls_port, authority, log)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    require_coturn()
    folder = tmp_path_factory.mktemp("turn")
    other = "f" * 32
    with relay(
        folder, f"static-auth-secret={SECRET}", f"static-auth-secret={other}", "allowed-peer-ip=127.0.0.1"
    ) as it:
        yield it


@pytest.fixture(autouse=True)
def no_leaked_threads(no_leaked_processes_and_sockets: None, good: Relay, no_leaked_threads: None) -> None:
    """The check of every test, begun after the relay, which lives as long as this file's tests."""


@pytest.mark.parametrize("way", ["udp", "tcp", "tls"])
async def test_a_packet_goes_to_the_media_server_and_back(good: Relay, way: Way) -> None:
    outcome = await good.tried(way)
    assert outcome.fault is None, outcome
    assert "An allocation on 127.0.0.1" in outcome.detail
    assert "A packet to 127.0.0.1 and back took" in outcome.detail
    assert outcome.advice == ""


async def test_each_of_several_secrets_is_taken(good: Relay, tmp_path: Path) -> None:
    for secret in (SECRET, "f" * 32):
        assert (await good.tried(credentials=fresh(tmp_path, secret=secret))).fault is None


async def test_one_address_of_the_media_server_is_enough(good: Relay) -> None:
    outcome = await good.tried(peers=(Peer("192.0.2.7", "192.0.2.7"), HERE, Peer("::1", "::1")))
    assert outcome.fault is None
    assert "It does not relay to the media server, 192.0.2.7" in outcome.detail


# --- faults


async def test_a_wrong_secret_is_named(good: Relay, tmp_path: Path) -> None:
    outcome = await good.tried(credentials=fresh(tmp_path, secret="wrong" * 8))
    assert (outcome.fault, "401" in outcome.detail) == ("credential", True)
    assert "static-auth-secret" in outcome.advice


async def test_a_clock_that_is_wrong_is_a_credential_that_has_expired(good: Relay, tmp_path: Path) -> None:
    outcome = await good.tried(credentials=fresh(tmp_path, seconds=-60))
    assert (outcome.fault, "clocks" in outcome.advice) == ("credential", True)


async def test_a_name_that_leads_nowhere(good: Relay) -> None:
    outcome = await good.tried(host="turn.invalid")
    assert (outcome.fault, "turn.invalid" in outcome.detail) == ("name", True)
    assert "DNS" in outcome.advice


@pytest.mark.parametrize("way", ["udp", "tcp", "tls"])
async def test_nothing_listens(tmp_path: Path, way: Way) -> None:
    outcome = await try_relay(RelayAddress("127.0.0.1", free_port(), way), fresh(tmp_path), [HERE])
    assert (outcome.fault, "refused" in outcome.detail) == ("refused", True)


async def test_a_firewall_that_drops_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "STEP_SECONDS", 0.3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        outcome = await try_relay(RelayAddress("127.0.0.1", silent.getsockname()[1], "udp"), fresh(tmp_path), [HERE])
    assert (outcome.fault, "firewall" in outcome.advice) == ("timeout", True)


async def test_a_firewall_that_drops_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "STEP_SECONDS", 0.3)
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # nobody takes them, so the kernel answers no more
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        outcome = await try_relay(RelayAddress("127.0.0.1", full.getsockname()[1], "tcp"), fresh(tmp_path), [HERE])
    assert (outcome.fault, "drops TCP" in outcome.advice) == ("timeout", True)


@pytest.mark.parametrize(("way", "fault"), [("tcp", "not turn"), ("tls", "tls")])
async def test_a_web_server_is_no_turn_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Way, fault: str
) -> None:
    monkeypatch.setattr(trial, "STEP_SECONDS", 0.5)
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *args: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        relay_address = RelayAddress("127.0.0.1", server.server_address[1], way)
        outcome = await asyncio.wait_for(try_relay(relay_address, fresh(tmp_path), [HERE]), 10.0)
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()
    assert outcome.fault == fault, outcome


async def test_a_certificate_that_nobody_trusts(good: Relay) -> None:
    outcome = await good.tried("tls", trusted=False)
    assert (outcome.fault, "not trusted" in outcome.detail) == ("certificate", True)
    assert "--ca" in outcome.advice


async def test_a_certificate_for_another_name(good: Relay, tmp_path: Path) -> None:
    with relay(tmp_path, f"static-auth-secret={SECRET}", names=("turn.example.org",)) as it:
        for host in ("localhost", "127.0.0.1"):
            outcome = await it.tried("tls", host=host)
            assert (outcome.fault, f"is not for {host}" in outcome.detail) == ("certificate", True)


async def test_a_certificate_that_has_expired(good: Relay, tmp_path: Path) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    with relay(tmp_path, f"static-auth-secret={SECRET}", expires=yesterday) as it:
        outcome = await it.tried("tls")
    assert (outcome.fault, "has expired" in outcome.detail) == ("certificate", True)
    assert "SIGUSR2" in outcome.advice


async def test_a_relay_that_does_not_know_the_media_server(good: Relay, tmp_path: Path) -> None:
    with relay(tmp_path, f"static-auth-secret={SECRET}") as it:
        outcome = await it.tried()
    assert (outcome.fault, "403" in outcome.detail) == ("forbidden", True)
    assert "allowed-peer-ip=127.0.0.1" in outcome.advice


async def test_a_quota_that_is_used_up(good: Relay, tmp_path: Path) -> None:
    with relay(tmp_path, f"static-auth-secret={SECRET}", "user-quota=1", without=("user-quota",)) as it:
        held, _ = await turn.create_turn_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", it.port), *fresh(tmp_path))
        try:
            outcome = await it.tried()
        finally:
            held.close()
            await asyncio.sleep(0.1)
    assert (outcome.fault, "486" in outcome.detail) == ("quota", True)
    assert "user-quota" in outcome.advice


async def test_a_relay_to_everybody_is_a_fault(good: Relay, tmp_path: Path) -> None:
    with relay(tmp_path, f"static-auth-secret={SECRET}", without=("denied-peer-ip",)) as it:
        outcome = await it.tried()
    assert (outcome.fault, "any other address" in outcome.detail) == ("open", True)
    assert "denied-peer-ip" in outcome.advice


async def test_a_relay_for_everybody_is_a_fault(good: Relay, tmp_path: Path) -> None:
    with relay(tmp_path, "no-auth", without=("use-auth-secret",)) as it:
        outcome = await it.tried()
    assert (outcome.fault, "without a credential" in outcome.detail) == ("open", True)


async def test_packets_that_do_not_come_through(good: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "DATA_SECONDS", 0.3)
    with (
        relay(tmp_path, f"static-auth-secret={SECRET}", "allowed-peer-ip=127.0.0.2") as it,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as media,
    ):
        media.bind(("127.0.0.1", 0))
        outcome = await it.tried(peers=(Peer("127.0.0.2", "127.0.0.1"),))
        assert (outcome.fault, "does not come through" in outcome.detail) == ("data", True)
        used = Peer("127.0.0.2", "127.0.0.1", (media.getsockname()[1],))
        outcome = await it.tried(peers=(used,))
        assert (outcome.fault, "could not be tried" in outcome.detail) == (None, True)


async def test_a_media_server_elsewhere_gets_no_packet(good: Relay) -> None:
    outcome = await good.tried(peers=(Peer("127.0.0.1", None),))
    assert (outcome.fault, "that is not this machine" in outcome.detail) == (None, True)


# --- the command


def doctor(tmp_path: Path, *arguments: str, **sections: dict[str, object]) -> Result:
    config = tmp_path / "server.toml"
    lines = []
    for section, values in sections.items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    config.write_text("\n".join(lines), encoding="utf-8")
    return CliRunner().invoke(app, ["doctor", "--config", str(config), *arguments])


def test_the_command_tries_all_of_them(good: Relay, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET, encoding="ascii")
    good.authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    values: dict[str, dict[str, object]] = {
        "turn": {"secret_file": str(secret)},
        "webrtc": {"host_addresses": ["127.0.0.1"]},
    }
    urls = [f"turn:localhost:{good.port}", f"turns:localhost:{good.tls_port}?transport=tcp"]
    done = doctor(tmp_path, "--turn", "--json", "--ca", str(tmp_path / "ca.pem"), *urls, **values)
    found = [(finding["name"], finding["status"]) for finding in json.loads(done.stdout)]
    assert (done.exit_code, found) == (0, [("turn udp", "ok"), ("turn tls", "ok")])
    done = doctor(tmp_path, "--turn", *urls, **values)
    assert done.exit_code == 1
    assert "not trusted" in done.output
    assert "→" in done.output


def test_the_command_says_what_it_needs(good: Relay, tmp_path: Path) -> None:
    settings = load_settings(None)
    with pytest.raises(ConfigError, match=r"turn\.secret_file"):
        list(try_turn(settings, ["turn:localhost"]))
    for arguments in (["--turn"], ["--turn", "--turn-peer", "there", "turn:localhost"], ["turn:localhost"]):
        assert doctor(tmp_path, *arguments).exit_code != 0
    missing = load_settings(None, {"turn.urls": ["turn:localhost"], "turn.secret_file": str(tmp_path / "none")})
    assert [finding.status for finding in check_turn(missing)] == ["fail"]
    assert list(check_turn(settings)) == []
