"""Where the proxy sends things, with a plain socket in the place of the server's adapter."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from benchmarks.support.sip_words import Account, body_of, credentials, header, headers, in_dialog, response, status_of
from rtc_server.certs import ensure_certificates
from tests.sip.single_messages import ECHO, exchange, invite, register
from tests.support.baresip import Phone, baresip
from tests.support.namespaces import require_namespaces
from tests.support.sip_stand import (
    OTHER_USER,
    PASSWORD,
    PHONE_ADDRESS,
    SERVER_ADDRESS,
    TRUNK_ADDRESS,
    USER,
    EdgeAlone,
    edge_alone,
)

ADAPTER, PROXY = ("127.0.0.1", 5070), ("127.0.0.1", 5060)
OFFER = (
    b"v=0\r\no=- 1 1 IN IP4 10.99.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n"
    b"m=audio 9 UDP/TLS/RTP/SAVPF 111 0 8\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=rtcp-mux\r\na=sendrecv\r\n"
    b"a=rtpmap:111 opus/48000/2\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n"
    b"a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=setup:actpass\r\n"
    b"a=fingerprint:sha-256 " + b":".join([b"AB"] * 32) + b"\r\n"
    b"a=candidate:1 1 udp 2130706431 10.99.0.1 40000 typ host\r\n"
)


@pytest.fixture(scope="module")
def edge() -> Iterator[EdgeAlone]:
    require_namespaces("kamailio", "rtpengine", "baresip")
    with edge_alone() as made:
        yield made


class Adapter:
    """The socket that the proxy takes for the server."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.settimeout(5.0)

    def receive(self, start: bytes) -> bytes:
        """The next message that begins so; others are left out."""
        while True:
            message = self._sock.recv(65_536)
            if message.startswith(start):
                return message

    def send(self, message: bytes) -> None:
        """To the proxy."""
        self._sock.sendto(message, PROXY)

    def call(self, target: str, mark: str) -> None:
        """An INVITE with the offer of a WebRTC peer."""
        self.send(
            f"INVITE {target} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK{mark}\r\nMax-Forwards: 70\r\n"
            f"From: <sip:rtc-server@{SERVER_ADDRESS}>;tag={mark}\r\nTo: <{target}>\r\nCall-ID: {mark}\r\n"
            f"CSeq: 1 INVITE\r\nContact: <sip:127.0.0.1:5070>\r\nUser-Agent: something 1.2\r\n"
            f"Content-Type: application/sdp\r\nContent-Length: {len(OFFER)}\r\n\r\n".encode()
            + OFFER
        )


@pytest.fixture
def adapter(edge: EdgeAlone) -> Iterator[Adapter]:
    with edge.machine.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(ADAPTER)
        yield Adapter(sock)


@contextmanager
def phone_socket(edge: EdgeAlone, host: str, port: int) -> Iterator[socket.socket]:
    with edge.phone.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, port))
        sock.settimeout(5.0)
        yield sock


def busy(request: bytes) -> bytes:
    return response(request, b"486 Busy Here")


def test_the_server_hears_who_calls_from_the_proxy_alone(edge: EdgeAlone, adapter: Adapter) -> None:
    lies = b"X-RTC-User: root\r\nx-rtc-source: 1.2.3.4;tls\r\nP-Asserted-Identity: <sip:chief@example.org>\r\n"
    exchange(edge, invite(TRUNK_ADDRESS, extra=lies), TRUNK_ADDRESS, wait=0.5)
    request = adapter.receive(b"INVITE")
    adapter.send(busy(request))
    assert [line for line in request.split(b"\r\n") if line.lower().startswith((b"x-", b"p-"))] == [
        f"X-RTC-Source: {TRUNK_ADDRESS};udp".encode()
    ]


def test_a_user_is_named_and_its_credentials_are_not_passed_on(edge: EdgeAlone, adapter: Adapter) -> None:
    host, account = "10.50.1.1", Account(USER, PASSWORD)
    offered = header(exchange(edge, invite(host), host)[-1], b"Proxy-Authenticate")
    answer = b"Proxy-Authorization: " + credentials(offered, account, "INVITE", ECHO) + b"\r\n"
    exchange(edge, invite(host, extra=answer), host, wait=0.5)
    request = adapter.receive(b"INVITE")
    adapter.send(busy(request))
    assert header(request, b"X-RTC-User") == USER.encode()
    assert header(request, b"X-RTC-Source") == f"{host};udp".encode()
    assert b"Authorization" not in request
    # Who overheard it sends it again, as another call, and from elsewhere.
    assert status_of(exchange(edge, invite(host, extra=answer), host)[-1]) == 407
    assert status_of(exchange(edge, invite("10.50.1.2", extra=answer), "10.50.1.2")[-1]) == 407


def test_the_server_gets_what_a_browser_would_offer(edge: EdgeAlone, adapter: Adapter) -> None:
    exchange(edge, invite(TRUNK_ADDRESS), TRUNK_ADDRESS, wait=0.5)
    request = adapter.receive(b"INVITE")
    adapter.send(busy(request))
    sdp = body_of(request).decode()
    assert re.search(r"m=audio \d+ UDP/TLS/RTP/SAVPF 0\r\n", sdp)
    assert f"c=IN IP4 {SERVER_ADDRESS}" in sdp
    for needed in ("a=fingerprint:sha-256", "a=ice-ufrag:", "a=candidate:", "a=rtcp-mux", "a=mid:"):
        assert needed in sdp, needed
    assert PHONE_ADDRESS not in sdp


def test_a_call_that_is_full_is_told_so(edge: EdgeAlone, adapter: Adapter) -> None:
    host = "10.60.0.5"
    with phone_socket(edge, host, 5080) as trunk:
        trunk.sendto(invite(host), edge.edge)
        adapter.send(response(adapter.receive(b"INVITE"), b"503 Service Unavailable"))
        while (status_of(reply := trunk.recv(65_536)) or 0) < 200:
            pass
    assert status_of(reply) == 503  # and not 500, which a proxy makes of it
    assert header(reply, b"Retry-After")


def test_a_registered_telephone_rings_where_it_registered_from(
    edge: EdgeAlone, adapter: Adapter, tmp_path: Path
) -> None:
    phone = Phone(PHONE_ADDRESS, SERVER_ADDRESS, OTHER_USER, PASSWORD, registers=True)
    with baresip(phone, edge.phone, tmp_path) as telephone:
        telephone.wait_until_registered()
        adapter.call(f"sip:{OTHER_USER}@{edge.realm}", "rings1")
        assert adapter.receive(b"SIP/2.0 180")
        telephone.wait_for("CALL_INCOMING")
        telephone.command("accept")
        answer = adapter.receive(b"SIP/2.0 200")
        sdp = body_of(answer).decode()
        assert re.search(r"m=audio \d+ UDP/TLS/RTP/SAVPF", sdp)
        assert "a=fingerprint:" in sdp
        assert b"alias=" in header(answer, b"Contact")
        assert not header(answer, b"Server") + header(answer, b"User-Agent")


@pytest.mark.parametrize(("transport", "encryption"), [("tcp", ""), ("tls", "srtp-mand")])
def test_a_registered_telephone_rings_and_is_hung_up_over_its_connection(
    edge: EdgeAlone, adapter: Adapter, tmp_path: Path, transport: str, encryption: str
) -> None:
    host = f"{SERVER_ADDRESS}:5061" if transport == "tls" else SERVER_ADDRESS
    phone = Phone(PHONE_ADDRESS, host, OTHER_USER, PASSWORD, "PCMU", transport, encryption, registers=True)
    with baresip(phone, edge.phone, tmp_path) as telephone:
        telephone.wait_until_registered()
        adapter.call(f"sip:{OTHER_USER}@{edge.realm}", f"over-{transport}")
        telephone.wait_for("CALL_INCOMING")  # with "srtp-mand" a plain offer would be refused
        telephone.command("accept")
        answer = adapter.receive(b"SIP/2.0 200")
        assert b"fingerprint" in body_of(answer)
        adapter.send(in_dialog(answer, b"ACK", "127.0.0.1", 5070, f"ack-{transport}"))
        telephone.wait_for("CALL_ESTABLISHED")
        adapter.send(in_dialog(answer, b"BYE", "127.0.0.1", 5070, f"bye-{transport}"))
        telephone.wait_for("CALL_CLOSED")
        assert adapter.receive(b"SIP/2.0 200")


def test_a_contact_of_somebody_else_is_not_called(edge: EdgeAlone, adapter: Adapter) -> None:
    """Behind a router the Contact says a private address, and an evil telephone says ours or anybody's."""
    host, account = "10.50.1.5", Account(USER, PASSWORD)
    with phone_socket(edge, host, 5080) as sock:
        message = register(host, USER).replace(f"@{host}:5080>\r\nExpires".encode(), b"@127.0.0.1:5070>\r\nExpires")
        sock.sendto(message, edge.edge)
        offered = header(sock.recv(65_536), b"WWW-Authenticate")
        value = credentials(offered, account, "REGISTER", f"sip:{SERVER_ADDRESS}")
        again = message.replace(b"Content-Length", b"Authorization: " + value + b"\r\nContent-Length")
        again = again.replace(b"branch=z9hG4bK", b"branch=z9hG4bKx")
        sock.sendto(again, edge.edge)
        assert status_of(sock.recv(65_536)) == 200
        adapter.call(f"sip:{USER}@{edge.realm}", "contact1")
        request = sock.recv(65_536)
        assert request.startswith(b"INVITE")
        assert b"something 1.2" not in request
        sock.sendto(busy(request), edge.edge)
        assert adapter.receive(b"SIP/2.0 486")


def test_a_telephone_that_is_not_registered_cannot_be_called(edge: EdgeAlone, adapter: Adapter) -> None:
    adapter.call(f"sip:nobody@{edge.realm}", "nobody1")
    assert adapter.receive(b"SIP/2.0 480")


def test_a_trunk_is_offered_plain_narrow_band(edge: EdgeAlone, adapter: Adapter) -> None:
    with phone_socket(edge, TRUNK_ADDRESS, 5080) as trunk:
        adapter.call(f"sip:+49301234@{TRUNK_ADDRESS}:5080", "trunk1")
        request = trunk.recv(65_536)
        sdp = body_of(request).decode()
        assert re.search(r"m=audio \d+ RTP/AVP 0 8", sdp)
        assert not re.search("opus|fingerprint|candidate|ice-", sdp)
        trunk.sendto(busy(request), edge.edge)
        assert adapter.receive(b"SIP/2.0 486")


def test_only_the_adapter_is_the_adapter(edge: EdgeAlone, adapter: Adapter) -> None:
    """Another program of this machine gets no further than a stranger."""
    with edge.machine.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 5099))
        sock.settimeout(3.0)
        message = invite("127.0.0.1").replace(ECHO.encode(), f"sip:+491@{TRUNK_ADDRESS}:5080".encode())
        sock.sendto(message.replace(b"127.0.0.1:5080", b"127.0.0.1:5099"), PROXY)
        assert status_of(sock.recv(65_536)) == 407


def test_what_cannot_be_read_is_not_quoted_in_a_log(edge: EdgeAlone) -> None:
    number = b"+4930123456"
    good = invite("10.60.0.8")
    for place, bad in (
        (b"From: <sip:alice@10.60.0.8>", b"From: <sip:" + number + b"@@;;<>"),
        (b"CSeq: 1 INVITE", b"CSeq: " + number + b" x"),
        (b"Contact: <", b"Contact: <<" + number),
        (b"To: <", b'To: "' + number + b" <"),
        (good, b"INVITE sip:" + number + b" \r\n\r\n"),
    ):
        assert place in good
        exchange(edge, good.replace(place, bad), "10.60.0.8", wait=0.3)
    logs = b"".join((edge.folder / name).read_bytes() for name in ("kamailio.log", "rtpengine.log"))
    assert b"Listening on" in logs
    assert number not in logs


def test_behind_address_translation_telephones_are_told_the_outer_address() -> None:
    require_namespaces("kamailio", "rtpengine")
    outer = "10.99.0.77"
    with (
        edge_alone({"sip_edge.external_address": outer}) as edge,
        edge.machine.entered(),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.bind(ADAPTER)
        adapter = Adapter(sock)
        with phone_socket(edge, TRUNK_ADDRESS, 5080) as trunk:
            trunk.sendto(invite(TRUNK_ADDRESS), edge.edge)
            request = adapter.receive(b"INVITE")
            assert "a=candidate:" in body_of(request).decode()
            assert outer not in body_of(request).decode()  # the server is on this side
            mid = re.search(rb"a=mid:(\S+)", body_of(request))
            assert mid
            answer = OFFER.replace(b"a=mid:0", b"a=mid:" + mid[1]).replace(b"a=group:BUNDLE 0\r\n", b"")
            answer = (
                answer.replace(b"IP4 0.0.0.0", b"IP4 10.99.0.1")
                .replace(b" 111 0 8", b" 0")
                .replace(b"a=rtpmap:111 opus/48000/2\r\n", b"")
            )
            answer = answer.replace(b"a=rtpmap:8 PCMA/8000\r\n", b"").replace(b"actpass", b"active")
            ok = response(request, b"200 OK", answer).replace(b"To: <" + ECHO.encode() + b">", b"To: <sip:echo>;tag=1")
            more = b"Contact: <sip:127.0.0.1:5070>\r\nContent-Type: application/sdp\r\nContent-Length"
            adapter.send(ok.replace(b"Content-Length", more))
            while (status_of(reply := trunk.recv(65_536)) or 0) < 200:
                pass
        assert f"c=IN IP4 {outer}" in body_of(reply).decode()
        assert SERVER_ADDRESS not in body_of(reply).decode()
        assert any(outer.encode() in line for line in headers(reply, b"Record-Route"))


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
def test_a_trunk_over_tls_is_called_when_its_authority_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    require_namespaces("kamailio", "rtpengine", "openssl")
    certificate = ensure_certificates(tmp_path / "trunk", [TRUNK_ADDRESS])
    known = tmp_path / "authorities"
    known.mkdir()
    if is_known:
        assert certificate.ca is not None
        shutil.copy(certificate.ca, known / "authority.pem")
    subprocess.run(["openssl", "rehash", known], check=True, timeout=30)
    monkeypatch.setattr("rtc_server.sip.edge.render.SYSTEM_AUTHORITIES", str(known))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.private_key)
    with ExitStack() as stack:
        alone = stack.enter_context(edge_alone())
        with alone.phone.entered():
            trunk = stack.enter_context(socket.create_server((TRUNK_ADDRESS, 5071)))
        with alone.machine.entered():
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind(ADAPTER)
        Adapter(sock).call(f"sip:bob@{TRUNK_ADDRESS}:5071;transport=tls", "trunk1")
        trunk.settimeout(10.0)
        raw, _ = trunk.accept()
        stack.enter_context(raw)
        raw.settimeout(10.0)
        if is_known:
            message = stack.enter_context(context.wrap_socket(raw, server_side=True)).recv(65_536)
            assert message.startswith(b"INVITE")
            assert b"m=audio" in message
            assert b"RTP/SAVP" in message
        else:
            with pytest.raises(ssl.SSLError, match="unknown ca"):
                context.wrap_socket(raw, server_side=True).recv(65_536)
