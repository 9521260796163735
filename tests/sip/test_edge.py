"""The edge's own rules, on the wire: who may call and register, by which means, and what a call can do."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.support.sip_words import Account, body_of, credentials, header, in_dialog, response, status_of
from benchmarks.support.telephone import CallRefusedError, Line, TelephoneCall, telephone_call
from benchmarks.support.tone_bursts import bursts, share_returned
from tests.sip.single_messages import ECHO, exchange, invite, register
from tests.sip.torture.encrypted import EncryptedCall
from tests.support.baresip import Phone, baresip
from tests.support.namespaces import require_namespaces
from tests.support.server_process import Value
from tests.support.sideband import sideband
from tests.support.sip_stand import (
    OTHER_USER,
    PASSWORD,
    PHONE_ADDRESS,
    SERVER_ADDRESS,
    TRUNK_ADDRESS,
    USER,
    Stand,
    sip_stand,
)

AGENT = f"sip:agent@{SERVER_ADDRESS}"
MAX_FAILED_LOGINS = 5


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    require_namespaces("kamailio", "rtpengine", "baresip")
    settings: dict[str, Value] = {"server.echo_test": True, "server.max_calls": 8, "sip.keepalive_seconds": 1.0}
    with sip_stand(settings, {"max_failed_logins": MAX_FAILED_LOGINS, "ban_seconds": 3}) as made:
        yield made
        assert "Traceback" not in made.server.log


def line(stand: Stand, host: str = PHONE_ADDRESS, account: Account | None = None) -> Line:
    return Line(host, stand.edge, account)


def wait_for_log(stand: Stand, line: str, timeout_seconds: float = 20.0) -> None:
    """Until the server has logged it."""
    deadline = time.monotonic() + timeout_seconds
    while line not in stand.server.log:
        assert time.monotonic() < deadline, stand.logs
        time.sleep(0.05)


async def hold_a_call(where: Line, target: str = ECHO) -> float:
    """Call; the share of tones that came back."""
    payloads, _ = bursts(2)
    async with telephone_call(where, target) as call:
        await asyncio.sleep(0.3)
        await call.say(payloads)
        await asyncio.sleep(0.3)
        return share_returned(payloads, call.heard)


def refused(stand: Stand, where: Line) -> int:
    """Call and be refused; the status, 0 for silence."""
    with stand.phone.entered(), pytest.raises(CallRefusedError) as caught:
        asyncio.run(hold_a_call(where))
    return caught.value.status


class TlsTelephone:
    """Messages over one connection."""

    def __init__(self, secure: ssl.SSLSocket) -> None:
        self._socket = secure
        self._unread = b""

    def send(self, message: bytes) -> None:
        self._socket.sendall(message.replace(b"SIP/2.0/UDP", b"SIP/2.0/TLS", 1))

    def until(self, condition: Callable[[bytes], bool]) -> bytes:
        """The next message for which it holds; others are passed over. Raises TimeoutError."""
        while True:
            head, separator, rest = self._unread.partition(b"\r\n\r\n")
            size = int(header(head + separator, b"Content-Length") or 0)
            if separator and len(rest) >= size:
                self._unread = rest[size:]
                if condition(message := head + separator + rest[:size]):
                    return message
                continue
            data = self._socket.recv(65_536)
            assert data, "closed"
            self._unread += data


# --- who may call


def test_a_user_calls_with_a_password(stand: Stand) -> None:
    with stand.phone.entered():
        assert asyncio.run(hold_a_call(line(stand, account=stand.account))) > 0.9


def test_a_trunk_calls_without(stand: Stand) -> None:
    with stand.phone.entered():
        assert asyncio.run(hold_a_call(line(stand, TRUNK_ADDRESS))) > 0.9


def test_an_address_that_is_not_listed_needs_a_password(stand: Stand) -> None:
    assert refused(stand, line(stand)) == 407


@pytest.mark.parametrize("account", [Account(USER, "wrong-wrong-wrong"), Account("nobody", PASSWORD)])
def test_a_wrong_password_or_name_is_refused(stand: Stand, account: Account) -> None:
    assert refused(stand, line(stand, "10.50.1.1", account)) == 407


def test_nobody_calls_under_the_name_of_another_user(stand: Stand) -> None:
    class Disguised(Line):
        @property
        def user(self) -> str:
            return OTHER_USER

    assert refused(stand, Disguised("10.50.1.2", stand.edge, stand.account)) == 407


def test_who_guesses_passwords_is_banned_for_a_while(stand: Stand) -> None:
    where, right = "10.50.1.3", Account(USER, PASSWORD)
    statuses = [refused(stand, line(stand, where, Account(USER, f"guess-{n}"))) for n in range(MAX_FAILED_LOGINS)]
    assert statuses == [407] * MAX_FAILED_LOGINS
    assert refused(stand, Line(where, stand.edge, Account(USER, "guess-more"), patience_seconds=1.0)) == 0
    assert exchange(stand, invite(where), where) == []
    deadline = time.monotonic() + 15
    while not exchange(stand, invite(where), where):
        assert time.monotonic() < deadline, "the ban does not end"
    with stand.phone.entered():
        assert asyncio.run(hold_a_call(line(stand, where, right))) > 0.9


# --- what goes through


def test_a_message_that_is_too_long_is_refused(stand: Stand) -> None:
    padding = b"".join(b"Subject: %s\r\n" % (b"a" * 200) for _ in range(45))
    where = "10.50.2.1"
    assert status_of(exchange(stand, invite(where, extra=padding), where)[-1]) == 513


def test_a_request_that_came_a_long_way_is_refused(stand: Stand) -> None:
    where = "10.50.2.2"
    message = invite(where).replace(b"Max-Forwards: 70", b"Max-Forwards: 0")
    assert status_of(exchange(stand, message, where)[-1]) == 483


@pytest.mark.parametrize("method", [b"SUBSCRIBE", b"MESSAGE", b"PUBLISH", b"REFER", b"NOTIFY"])
def test_other_requests_of_strangers_are_refused(stand: Stand, method: bytes) -> None:
    where = "10.50.2.3"
    message = invite(where).replace(b"INVITE", method)
    assert status_of(exchange(stand, message, where)[-1]) == 405


def test_the_edge_is_no_relay(stand: Stand) -> None:
    """Neither with a request URI of somebody else, nor with a Route within what looks like a dialog."""
    victim = ("10.50.9.9", 5080)
    with stand.phone.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(victim)
        listening.settimeout(1.0)
        within = (
            b"INFO sip:x@10.50.9.9:5080 SIP/2.0\r\nVia: SIP/2.0/UDP 10.99.0.9:5090;branch=z9hG4bK%s;rport\r\n"
            b"Route: <sip:10.99.0.1;lr>%s\r\nMax-Forwards: 70\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\n"
            b"Call-ID: %s\r\nCSeq: 9 INFO\r\nContent-Length: 0\r\n\r\n"
        )
        for more in (b"", b", <sip:10.50.9.9:5080;lr>"):
            mark = uuid.uuid4().hex.encode()
            replies = exchange(stand, within % (mark, more, mark), TRUNK_ADDRESS, port=5090)
            assert status_of(replies[-1]) == 403
        outside = invite(TRUNK_ADDRESS).replace(b"INVITE sip:echo@10.99.0.1", b"INVITE sip:x@10.50.9.9:5080")
        exchange(stand, outside, TRUNK_ADDRESS, wait=1.0)
        with pytest.raises(TimeoutError):
            listening.recv(65_536)


def test_a_description_that_is_none_is_refused_and_the_next_call_works(stand: Stand) -> None:
    message = invite(TRUNK_ADDRESS, body=b"v=0\r\nthis is no session description\r\n")
    assert status_of(exchange(stand, message, TRUNK_ADDRESS, wait=2.0)[-1]) == 488
    with stand.phone.entered():
        assert asyncio.run(hold_a_call(line(stand, TRUNK_ADDRESS))) > 0.9


def test_a_trunk_that_asks_hears_whether_calls_are_taken(stand: Stand) -> None:
    message = invite(TRUNK_ADDRESS, body=b"").replace(b"INVITE", b"OPTIONS")
    reply = exchange(stand, message, TRUNK_ADDRESS)[-1]
    assert status_of(reply) == 200
    assert b"INVITE" in header(reply, b"Allow")


def test_nothing_tells_what_runs_here(stand: Stand) -> None:
    where = "10.50.2.5"
    replies = exchange(stand, invite(where), where) + exchange(stand, invite(TRUNK_ADDRESS), TRUNK_ADDRESS, wait=1.0)
    for reply in replies:
        assert not header(reply, b"Server") + header(reply, b"User-Agent"), reply
        assert not [name for name in (b"kamailio", b"sippy") if name in reply.lower()]


# --- encryption


def test_over_tls_the_voice_is_encrypted_or_the_call_refused(stand: Stand, tmp_path: Path) -> None:
    edge = f"{SERVER_ADDRESS}:5061"
    plain = Phone(PHONE_ADDRESS, edge, USER, PASSWORD, transport="tls")
    with baresip(plain, stand.phone, tmp_path / "plain") as telephone:
        telephone.dial(f"sip:echo@{edge};transport=tls")
        assert telephone.wait_for("CALL_CLOSED")["param"].startswith("488")


def test_the_certificate_is_the_one_of_the_settings_and_old_tls_is_refused(stand: Stand) -> None:
    context = ssl.create_default_context(cafile=str(stand.authority))
    with stand.phone.entered():
        with (
            socket.create_connection((SERVER_ADDRESS, 5061), 5) as raw,
            context.wrap_socket(raw, server_hostname=SERVER_ADDRESS) as secure,
        ):
            assert secure.version() in ("TLSv1.2", "TLSv1.3")
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        old.set_ciphers("AES128-SHA")  # no forward secrecy
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_connection((SERVER_ADDRESS, 5061), 5) as raw, pytest.raises(ssl.SSLError):
            old.wrap_socket(raw)


def test_a_call_that_was_encrypted_stays_so(stand: Stand) -> None:
    """Not on TLS only: whoever offers SRTP gets SRTP, for all of the call."""

    async def talk() -> tuple[list[bytes], list[int], float]:
        payloads, _ = bursts(2)
        async with telephone_call(line(stand, account=stand.account), ECHO, EncryptedCall) as call:
            answers = [call.answer]
            statuses = [await call.reinvite("sendonly"), await call.reinvite()]
            answers.append(call.answer)
            in_clear = TelephoneCall.description(call)
            statuses.append(await call.reinvite(sdp=in_clear))
            await call.say(payloads)
            await asyncio.sleep(0.3)
            return answers, statuses, share_returned(payloads, call.heard)

    with stand.phone.entered():
        answers, statuses, share = asyncio.run(talk())
    assert statuses == [200, 200, 488]
    for answer in answers:
        assert b" RTP/SAVP 0" in answer
        assert b"a=crypto:" in answer
    assert share > 0.9, "the call goes on as it was"


@pytest.mark.parametrize("profile", [b"RTP/SAVP", b"RTP/AVP"], ids=["encrypted", "in clear"])
def test_our_offer_over_tls_is_encrypted_and_so_is_its_answer(stand: Stand, profile: bytes) -> None:
    context = ssl.create_default_context(cafile=str(stand.authority))
    host, key = TRUNK_ADDRESS.encode(), base64.b64encode(bytes(30))
    answer = b"v=0\r\no=- 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio 4000 %s 0\r\n" % (host, host, profile)
    before = stand.num_answered
    if profile == b"RTP/SAVP":
        answer += b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:%s\r\n" % key
    with (
        stand.phone.entered(),
        socket.create_connection((SERVER_ADDRESS, 5061), 5, (TRUNK_ADDRESS, 0)) as raw,
        context.wrap_socket(raw, server_hostname=SERVER_ADDRESS) as secure,
    ):
        wire = TlsTelephone(secure)
        wire.send(invite(TRUNK_ADDRESS, body=b""))
        ok = wire.until(lambda m: status_of(m) == 200)
        assert b" RTP/SAVP " in body_of(ok)
        assert b"a=crypto:" in body_of(ok)
        assert b"fingerprint" not in body_of(ok)
        wire.send(in_dialog(ok, b"ACK", TRUNK_ADDRESS, 5080, "ack", answer))
        if profile == b"RTP/AVP":
            wire.send(response(wire.until(lambda m: m.startswith(b"BYE ")), b"200 OK"))
        else:
            wait_for_log(stand, f"call started call_id={stand.answered_call(before + 1)}")
            wire.send(in_dialog(ok, b"BYE", TRUNK_ADDRESS, 5080, "bye"))
            wire.until(lambda m: status_of(m) == 200 and header(m, b"CSeq").endswith(b"BYE"))


# --- calls


def test_keys_are_heard(stand: Stand, tmp_path: Path) -> None:
    before = stand.num_answered
    with baresip(Phone(PHONE_ADDRESS, SERVER_ADDRESS, USER, PASSWORD), stand.phone, tmp_path) as telephone:
        telephone.dial(AGENT)
        telephone.wait_for("CALL_ESTABLISHED")
        with sideband(stand.machine, stand.server.url, stand.answered_call(before + 1)) as watched:
            telephone.press("159#")
            watched.wait_for("input_audio_buffer.dtmf_event_received", 4)
            keys = [event["event"] for event in watched.of("input_audio_buffer.dtmf_event_received")]
            telephone.command("hangup")
            telephone.wait_for("CALL_CLOSED")
    assert keys == ["1", "5", "9", "#"]


async def held_and_resumed(where: Line, way: str = "sendonly") -> tuple[int, float]:
    """Call, hold in that way and resume: packets while held, and the share of tones that came back afterwards."""
    payloads, _ = bursts(2)
    async with telephone_call(where, ECHO) as call:
        await call.say(payloads[:25])
        await asyncio.sleep(0.1)
        assert share_returned(payloads[:25], call.heard) > 0.9, "no media before"
        hold = call.description("sendrecv" if way == "no address" else way)
        if way == "no address":
            hold = hold.replace(b"c=IN IP4 " + where.host.encode(), b"c=IN IP4 0.0.0.0")
        assert await call.reinvite(sdp=hold) == 200
        if not where.hears_first:  # that it is held is known to the server, and not to the relay alone
            assert b"a=recvonly" in call.answer
        await asyncio.sleep(0.1)
        call.heard.clear()
        await call.say(payloads[:25])
        held = len(call.heard)
        assert await call.reinvite("sendrecv") == 200
        await asyncio.sleep(0.1)
        call.heard.clear()
        await call.say(payloads)
        await asyncio.sleep(0.3)
        return held, share_returned(payloads, call.heard)


@pytest.mark.parametrize("way", ["sendonly", "no address"])
def test_a_call_is_held_and_resumed(stand: Stand, way: str) -> None:
    """No address: as telephones did before RFC 3264, and some exchanges still do."""
    with stand.phone.entered():
        num_while_held, share = asyncio.run(held_and_resumed(line(stand, account=stand.account), way))
    assert num_while_held == 0
    assert share > 0.9


@pytest.mark.parametrize("host", [PHONE_ADDRESS, TRUNK_ADDRESS], ids=["a user", "a trunk"])
def test_a_telephone_that_wants_to_hear_our_offer_first(stand: Stand, host: str) -> None:
    where = Line(host, stand.edge, stand.account if host == PHONE_ADDRESS else None, hears_first=True)
    with stand.phone.entered():
        num_while_held, share = asyncio.run(held_and_resumed(where))
    assert num_while_held == 0
    assert share > 0.9


def test_the_server_hangs_up(stand: Stand, tmp_path: Path) -> None:
    before = stand.num_answered
    with baresip(Phone(PHONE_ADDRESS, SERVER_ADDRESS, USER, PASSWORD), stand.phone, tmp_path) as telephone:
        telephone.dial(AGENT)
        telephone.wait_for("CALL_ESTABLISHED")
        call_id = stand.answered_call(before + 1)
        assert stand.post(f"/v1/realtime/calls/{call_id}/hangup")[0] == 200
        assert telephone.wait_for("CALL_CLOSED")


def test_a_telephone_that_vanishes_is_missed(stand: Stand, tmp_path: Path) -> None:
    """Its media relay goes on answering for it, so only the telephone itself can tell."""
    before = stand.num_answered
    with baresip(Phone(PHONE_ADDRESS, SERVER_ADDRESS, USER, PASSWORD), stand.phone, tmp_path) as telephone:
        telephone.dial(AGENT)
        telephone.wait_for("CALL_ESTABLISHED")
        call_id = stand.answered_call(before + 1)
        telephone.wait_a_while(3.0)  # asked, it says that it is there
        assert f"call ended call_id={call_id}" not in stand.server.log
        telephone.freeze()
        wait_for_log(stand, f"call ended call_id={call_id}", 40.0)
        assert f"telephone call over call_id={call_id} reason=session_expired" in stand.server.log


# --- registration


def test_a_telephone_registers(stand: Stand, tmp_path: Path) -> None:
    phone = Phone(PHONE_ADDRESS, SERVER_ADDRESS, OTHER_USER, PASSWORD, registers=True)
    with baresip(phone, stand.phone, tmp_path) as telephone:
        telephone.wait_until_registered()


def test_registering_needs_the_password_and_the_own_name(stand: Stand) -> None:
    where = "10.50.3.1"
    challenge = exchange(stand, register(where, USER), where)[-1]
    assert status_of(challenge) == 401
    offered = header(challenge, b"WWW-Authenticate")
    for user, account in ((USER, Account(USER, "wrong-wrong")), (OTHER_USER, Account(USER, PASSWORD))):
        value = credentials(offered, account, "REGISTER", f"sip:{SERVER_ADDRESS}")
        again = register(where, user, b"Authorization: " + value + b"\r\n")
        assert status_of(exchange(stand, again, where)[-1]) == 401
