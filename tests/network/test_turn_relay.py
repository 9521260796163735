"""A browser that can reach nothing but a TURN server holds its conversation through it.

    browser (10.98.1.2) ---- edge (10.98.1.1, 10.98.2.1: coturn, and the page by TCP) ---- server (10.98.2.2)

There is no route between browser and server. coturn runs with the configuration that we ship.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aioice.turn
import pytest
from aioice.stun import TransactionFailed
from playwright.sync_api import Browser, expect

from rtc_server.certs import ensure_certificates
from rtc_server.config import load_settings
from rtc_server.relays.ice_servers import IceServers
from tests.browser.caller import REPLY_MS, Caller
from tests.browser.chromium import FLAGS, LEAD_SECONDS, SPEECH, allow_microphone, chromium, write_microphone
from tests.support.faults import TURNSERVER
from tests.support.forwarding import forwarded
from tests.support.namespaces import Namespace, network, require_namespaces
from tests.support.server_process import ServerProcess, Value, server_process

SECRET = "0123456789abcdef0123456789abcdef"
SERVER, EDGE_INSIDE, EDGE, BROWSER = "10.98.2.2", "10.98.2.1", "10.98.1.1", "10.98.1.2"
STRANGER = "10.98.2.77"
PAGE_PORT, TLS_PORT = 8000, 443
START_SECONDS = 10.0
TURN_CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "turn" / "turnserver.conf"
WAYS = {
    "udp": f"turn:{EDGE}:3478?transport=udp",
    "tcp": f"turn:{EDGE}:3478?transport=tcp",
    "tls": f"turns:{EDGE}:{TLS_PORT}?transport=tcp",
}

KEEP_CONNECTIONS = """
    window.calls = [];
    window.RTCPeerConnection = class extends RTCPeerConnection {
        constructor(...args) { super(...args); window.calls.push(this); }
    };
"""


@dataclass(frozen=True, slots=True)
class Stand:
    """See the module's docstring."""

    server: ServerProcess
    at_server: Namespace
    browser: Browser
    at_browser: Namespace
    page: str


@contextmanager
def coturn(folder: Path) -> Iterator[None]:
    """On the machine that this thread is on."""
    certificate = ensure_certificates(folder / "certs", [EDGE])
    lines = [
        *(f"listening-ip={EDGE}", f"relay-ip={EDGE_INSIDE}", f"allowed-peer-ip={SERVER}"),
        *(f"static-auth-secret={SECRET}", f"cert={certificate.certificate}", f"pkey={certificate.private_key}"),
        *(f"tls-listening-port={TLS_PORT}", f"pidfile={folder / 'turn.pid'}", f"userdb={folder / 'turn.db'}"),
    ]
    ours = ("tls-listening-port=", "pidfile=", "userdb=")
    shipped = [line for line in TURN_CONFIG.read_text().splitlines() if not line.startswith(ours)]
    (folder / "turnserver.conf").write_text("\n".join([*shipped, *lines]), encoding="ascii")
    with (folder / "coturn.log").open("wb") as log:
        process = subprocess.Popen([TURNSERVER, "-c", folder / "turnserver.conf"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_SECONDS
        for port in (3478, TLS_PORT):
            while True:
                assert process.poll() is None, (folder / "coturn.log").read_text()
                with socket.socket() as probe:
                    if probe.connect_ex((EDGE, port)) == 0:
                        break
                assert time.monotonic() < deadline, (folder / "coturn.log").read_text()
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


def trust(home: Path, authority: Path) -> None:
    """Chromium with this home takes certificates of `authority`."""
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    for command in (["-N", "--empty-password"], ["-A", "-t", "C,,", "-n", "ours", "-i", str(authority)]):
        subprocess.run(["certutil", "-d", f"sql:{database}", *command], check=True)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    require_namespaces("turnserver", "certutil")
    if not shutil.which("chromium"):
        pytest.skip("not installed: chromium")
    folder = tmp_path_factory.mktemp("turn")
    secret = folder / "secret"
    secret.write_text(SECRET, encoding="ascii")
    microphone = folder / "question.wav"
    write_microphone(microphone, [SPEECH / "f0_rms.wav"], LEAD_SECONDS, 60.0)
    page = f"http://{EDGE}:{PAGE_PORT}"
    values: dict[str, Value] = {
        "webrtc.host_addresses": [SERVER],
        "turn.urls": list(WAYS.values()),
        "turn.secret_file": str(secret),
    }
    flags = [flag for flag in FLAGS if not flag.startswith("--host-resolver-rules")]
    flags.append(f"--unsafely-treat-insecure-origin-as-secure={page}")
    with network() as net:
        at_server, edge, at_browser = net.machine("server"), net.machine("edge"), net.machine("browser")
        net.link(at_browser, f"{BROWSER}/24", edge, f"{EDGE}/24")
        net.link(edge, f"{EDGE_INSIDE}/24", at_server, f"{SERVER}/24")
        with at_server.entered(), server_process("cascade", values) as server:
            port = int(server.url.rpartition(":")[2])
            with (
                forwarded((SERVER, PAGE_PORT), ("127.0.0.1", port)),
                edge.entered(),
                coturn(folder),
                forwarded((EDGE, PAGE_PORT), (SERVER, PAGE_PORT)),
            ):
                trust(folder / "home", folder / "certs" / "ca.pem")
                with at_browser.entered(), chromium(microphone, flags=flags, home=folder / "home") as browser:
                    yield Stand(server, at_server, browser, at_browser, page)


@pytest.fixture(autouse=True)
def no_leaked_threads(no_leaked_processes_and_sockets: None, stand: Stand, no_leaked_threads: None) -> None:
    """The check of every test, begun after the stand, whose threads live as long as it does."""


@contextmanager
def caller(stand: Stand, servers: Any = None) -> Iterator[Caller]:
    """At the page, forced to use a relay; `servers` takes the place of what the server says."""
    context = stand.browser.new_context()
    try:
        page = context.new_page()
        page.add_init_script(KEEP_CONNECTIONS)
        if servers is not None:
            page.route("**/ice-servers", lambda route: route.fulfill(json={"iceServers": servers}))
        allow_microphone(page, stand.page)
        person = Caller(page, f"{stand.page}/?relay=1")
        person.url = stand.page  # what the page may ask for
        page.goto(f"{stand.page}/?relay=1")
        yield person
    finally:
        context.close()


def credentials(tmp_path: Path, ways: list[str], age_seconds: float = 0.0) -> dict[str, Any]:
    """As the server gives them out, so many seconds ago."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET, encoding="ascii")
    settings = load_settings(None, {"turn.urls": ways, "turn.secret_file": str(secret)})
    (server,) = IceServers(settings).for_caller(("test",), time.time() - age_seconds)
    return server


def relay_in_use(caller: Caller) -> str:
    """How the browser reaches its relay, from its own statistics."""
    return str(
        caller.page.evaluate(
            """async () => {
                const stats = [...(await window.calls.at(-1).getStats()).values()];
                const pair = stats.find((s) => s.type === "candidate-pair" && s.nominated && s.state === "succeeded");
                const local = stats.find((s) => s.id === pair.localCandidateId);
                return `${local.candidateType} ${local.relayProtocol}`;
            }"""
        )
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_conversation_through_a_relay_alone(stand: Stand, tmp_path: Path, way: str) -> None:
    with caller(stand, [credentials(tmp_path, [WAYS[way]])]) as person:
        person.calls()
        assert relay_in_use(person) == f"relay {way}"
        expect(person.said()).to_have_text(re.compile("capital of france", re.IGNORECASE), timeout=REPLY_MS)
        person.hears_sound()
        person.hangs_up()


def test_the_page_asks_the_server_for_its_relays(stand: Stand) -> None:
    with caller(stand) as person:
        person.calls()
        person.hangs_up()


def test_without_a_relay_there_is_no_way(stand: Stand) -> None:
    with stand.at_browser.entered(), socket.socket() as probe:
        probe.settimeout(2.0)
        with pytest.raises(OSError, match="unreachable"):
            probe.connect((SERVER, 80))


async def allocate(way: str, server: dict[str, Any], peer: str) -> None:
    """One allocation and one permission, as a client asks for them. Raises TransactionFailed."""
    url = re.match(r"(turns?):([\d.]+):(\d+)\?transport=(\w+)", WAYS[way])
    assert url is not None
    transport, _ = await aioice.turn.create_turn_endpoint(
        asyncio.DatagramProtocol,
        server_addr=(url[2], int(url[3])),
        username=server["username"],
        password=server["credential"],
        ssl=url[1] == "turns",
        transport=url[4],
    )
    inner: Any = vars(transport)["_TurnTransport__inner_protocol"]
    try:
        await inner.channel_bind(0x4000, (peer, 9))
    finally:
        await inner.delete()


def ask(stand: Stand, server: dict[str, Any], peer: str) -> int | None:
    """The relay's refusal of an allocation towards `peer`; None = it was made. A thread, beside the browser's loop."""

    def run() -> int | None:
        with stand.at_browser.entered():
            try:
                asyncio.run(allocate("udp", server, peer))
            except TransactionFailed as refused:
                return int(refused.response.attributes["ERROR-CODE"][0])
        return None

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


@pytest.mark.parametrize(("peer", "code"), [(SERVER, None), (STRANGER, 403), ("127.0.0.1", 403), ("10.98.1.2", 403)])
def test_a_relay_to_anybody_but_the_server_is_refused(
    stand: Stand, tmp_path: Path, peer: str, code: int | None
) -> None:
    assert ask(stand, credentials(tmp_path, [WAYS["udp"]]), peer) == code


def test_an_expired_credential_gets_no_allocation(stand: Stand, tmp_path: Path) -> None:
    assert ask(stand, credentials(tmp_path, [WAYS["udp"]], age_seconds=4_000.0), SERVER) == 401


def test_a_browser_with_an_expired_credential_is_told_that_there_is_no_way(stand: Stand, tmp_path: Path) -> None:
    with caller(stand, [credentials(tmp_path, list(WAYS.values()), age_seconds=4_000.0)]) as person:
        person.page.get_by_role("button", name=re.compile("start|call|talk", re.IGNORECASE)).first.click()
        expect(person.page.get_by_role("alert")).to_be_visible(timeout=30_000)
