"""What a stranger can throw at the edge, while a call goes on beside it and others want to call.

Nothing here waits without end: an attack sends what it has, and whoever waits for an answer has a patience.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import pytest

from benchmarks.support.telephone import CallRefusedError, Line, TelephoneCall, telephone_call
from benchmarks.support.tone_bursts import FRAME_SECONDS, bursts, share_returned
from tests.sip.torture import attacks
from tests.sip.torture.build import fill, invite
from tests.sip.torture.encrypted import EncryptedCall
from tests.sip.torture.live import SILENCE, LiveCall, live_call
from tests.sip.torture.wire import addresses
from tests.support.namespaces import require_namespaces
from tests.support.sip_stand import STRANGERS, Stand, sip_stand

MAX_GROWTH_MB = 120.0  # of all processes of the edge and the server together
MAX_FAILED_LOGINS = 4
TARGET = "echo"
LEARNING_SECONDS = 4.2  # until the relay has settled on whose packets are the telephone's
DRAIN_SECONDS = 1.0  # what the server had buffered of the stranger has been played by then
ROUTER, BEHIND_IT = "198.51.100.7", "192.168.1.5"
hosts = addresses(STRANGERS)


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    require_namespaces("kamailio", "rtpengine")
    settings = {"server.echo_test": True, "server.max_calls": 64}
    with sip_stand(settings, {"max_failed_logins": MAX_FAILED_LOGINS}) as made:
        yield made


def line(stand: Stand, host: str = "", patience_seconds: float = 10.0) -> Line:
    return Line(host or stand.phone_address, stand.edge, stand.account, patience_seconds)


async def hold_a_call(where: Line) -> float:
    payloads, _ = bursts(1)
    async with telephone_call(where, f"sip:{TARGET}@{where.edge[0]}") as call:
        await asyncio.sleep(0.1)
        await call.say(payloads)
        await asyncio.sleep(0.2)
        return share_returned(payloads, call.heard)


def memory_mb(stand: Stand) -> float:
    return sum(p.memory_info().rss for processes in stand.processes().values() for p in processes) / 1e6


@contextmanager
def under_attack(stand: Stand) -> Iterator[LiveCall]:
    """The block attacks. A call goes on all the while, and afterwards the same processes take the next call."""
    before = stand.pids()
    used = memory_mb(stand)
    with live_call(stand.phone, line(stand), f"sip:{TARGET}@{stand.edge[0]}") as live:
        live.wait_for_echoes(1)
        with stand.phone.entered():
            yield live
        live.wait_for_echoes(2)
        assert live.is_up
    assert stand.pids() == before
    assert memory_mb(stand) - used < MAX_GROWTH_MB
    with stand.phone.entered():
        assert asyncio.run(hold_a_call(line(stand))) == 1.0
    stand.wait_for_calls(0)


def is_answered(stand: Stand, host: str) -> bool:
    """Somebody there is told at least that a password is wanted."""
    return attacks.guess_passwords(stand.edge, host, "nobody", b"REGISTER", 1) != [0]


def test_floods_of_invites_and_strays_from_one_stranger_and_from_many(stand: Stand) -> None:
    with under_attack(stand):
        one, many = next(hosts), list(islice(hosts, 200))
        attacks.flood_of_invites(stand.edge, [one], 1_000)
        assert not is_answered(stand, one)
        attacks.flood_of_invites(stand.edge, many, 1_000)
        attacks.flood_of_strays(stand.edge, list(islice(hosts, 100)), 1_500)
        assert is_answered(stand, many[0])  # five messages are no flood
        # Nothing was kept for anybody: one place and one pair of descriptions are those of the call that goes on.
        assert stand.num_calls() == 1
        assert stand.num_relayed() == 1


def test_who_guesses_passwords_is_not_listened_to_any_more(stand: Stand) -> None:
    with under_attack(stand):
        for method in (b"REGISTER", b"INVITE"):
            host = next(hosts)
            statuses = attacks.guess_passwords(stand.edge, host, stand.account.user, method, MAX_FAILED_LOGINS + 3)
            assert set(statuses[:MAX_FAILED_LOGINS]) <= {401, 407}, statuses
            assert statuses[MAX_FAILED_LOGINS:] == [0, 0, 0], statuses
            # Not even with the right password, from there; from elsewhere its owner calls, as `under_attack` checks.
            with pytest.raises(CallRefusedError):
                asyncio.run(hold_a_call(line(stand, host, patience_seconds=0.5)))


def test_connections_that_say_nothing(stand: Stand) -> None:
    started = b"INVITE sip:agent@x SIP/2.0\r\nVia: "
    with under_attack(stand) as live, attacks.half_open(stand.edge, "10.50.128.0/17", 700, started) as held:
        assert held
        live.wait_for_echoes(1)
        assert asyncio.run(hold_a_call(line(stand))) == 1.0


def over_tcp(message: bytes, host: str, edge: attacks.Edge) -> bytes:
    """As it goes over TCP. Its port is left open (%PORT%); that is in no part that is counted."""
    filled = fill(message.replace(b"%PORT%", b"#"), host, 0, edge[0], uuid.uuid4().hex[:16])
    return filled.replace(b"SIP/2.0/UDP", b"SIP/2.0/TCP").replace(b"#", b"%PORT%")


def test_messages_over_tcp_in_pieces_in_halves_and_too_large(stand: Stand) -> None:
    host = stand.phone_address
    with under_attack(stand):
        whole = over_tcp(invite(), host, stand.edge)
        head, _, body = whole.partition(b"\r\n\r\n")
        cuts = [whole[start : start + 40] for start in range(0, len(whole), 40)]
        assert b"SIP/2.0 40" in attacks.send_over_tcp(stand.edge, host, cuts)
        for pieces in (
            [whole[: len(whole) // 2]],
            [whole.replace(b"Content-Length: ", b"Content-Length: 99999999")],
            [whole.replace(b"Content-Length: ", b"Content-Length: -")],
            [head.replace(b"Content-Length:", b"X-Nothing:") + b"\r\n\r\n" + body],
            [head + b"\r\nX: " + b"y" * 70_000 + b"\r\n\r\n" + body],
            [b"\r\n" * 20_000],
            [b"\x16\x03\x01" + bytes(range(256)) * 20],
            [random.Random(3).randbytes(70_000)],
        ):
            assert b"SIP/2.0 2" not in attacks.send_over_tcp(stand.edge, next(hosts), pieces, 0.2)


def test_rubbish_and_half_handshakes_on_the_tls_port(stand: Stand) -> None:
    edge = (stand.edge[0], stand.tls_port)
    with under_attack(stand):
        hello = attacks.client_hello()
        for data in (
            b"INVITE sip:agent@x SIP/2.0\r\n\r\n",
            random.Random(4).randbytes(5_000),
            hello + random.Random(5).randbytes(600),
            b"\x16\x03\x01\xff\xff" + b"\x01" * 4_000,
            b"\x15\x03\x03\x00\x02\x02\x28",
        ):
            attacks.send_over_tcp(edge, next(hosts), [data], 0.2)
        with attacks.half_open(edge, "10.50.128.0/17", 200, hello[: len(hello) // 2]) as held:
            assert held
            assert asyncio.run(hold_a_call(line(stand))) == 1.0


def test_offers_without_end_within_one_call(stand: Stand) -> None:
    """They are answered until there are too many of them; then their sender is a stranger who floods."""

    async def storm(host: str) -> list[int]:
        # What is not answered is sent once more, 0.5 s later.
        async with telephone_call(line(stand, host, patience_seconds=0.6), f"sip:{TARGET}@{stand.edge[0]}") as call:
            statuses: list[int] = []
            while len(statuses) < 200 and 0 not in statuses and not call.is_ended.is_set():
                statuses.append(await call.reinvite(("sendonly", "sendrecv")[len(statuses) % 2]))
            return statuses

    with under_attack(stand):
        statuses = asyncio.run(storm(next(hosts)))
        assert statuses[:10] == [200] * 10, statuses
        assert set(statuses[:-1]) == {200}, statuses
        assert statuses[-1] == 0, "the storm is not stopped"
        stand.wait_for_calls(1)  # banned as it is, it may hang up


def test_media_of_strangers_who_know_the_port_of_a_call_from_its_beginning(stand: Stand) -> None:
    """With an address of its own, or with SRTP, a telephone is not disturbed at all; with plain RTP from behind a
    router no more once the relay has learned its address."""
    stand.phone.ip("route", "add", "local", f"{ROUTER}/32", "dev", "lo")
    stand.machine.ip("route", "add", f"{ROUTER}/32", "via", stand.phone_address)
    own = line(stand)
    routed = Line(ROUTER, stand.edge, stand.account, media_host=BEHIND_IT)
    tones, _ = bursts(4)

    async def talk(where: Line, kind: type[TelephoneCall], stranger: str, *, is_silent: bool = False) -> float:
        """The share of its tones that come back; more than 1 with those of the stranger."""
        async with telephone_call(where, f"sip:{TARGET}@{stand.edge[0]}", kind) as call:
            assert call.remote is not None
            async with attacks.media_of_a_stranger(call.remote, stranger, tones) as came:
                await asyncio.sleep(0.1)
                if is_silent:
                    await asyncio.sleep(LEARNING_SECONDS)
                elif where is routed:
                    await call.say([SILENCE] * round((LEARNING_SECONDS + DRAIN_SECONDS) / FRAME_SECONDS))
                    call.heard.clear()
                await call.say(tones)
                await asyncio.sleep(0.3)
                assert not came, "a stranger hears the call"
                return share_returned(tones, call.heard)

    async def all_at_once() -> list[float]:
        return await asyncio.gather(
            talk(own, TelephoneCall, next(hosts)),
            talk(own, TelephoneCall, next(hosts), is_silent=True),
            talk(routed, TelephoneCall, next(hosts)),
            talk(own, EncryptedCall, next(hosts)),
            talk(routed, EncryptedCall, next(hosts), is_silent=True),
        )

    with stand.phone.entered():
        assert asyncio.run(all_at_once()) == [1.0] * 5
