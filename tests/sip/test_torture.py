"""Every odd and wrong message at the whole edge, from people it does not know and from a trunk that it trusts."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from benchmarks.support.telephone import Line, telephone_call
from benchmarks.support.tone_bursts import bursts, share_returned
from tests.sip.torture.bad import BAD
from tests.sip.torture.build import CHALLENGED, PHONE_SDP, REFUSED, TAKEN_OR_REFUSED, Message, invite
from tests.sip.torture.odd import ODD
from tests.sip.torture.sdp_bodies import BODIES
from tests.sip.torture.wire import exchange, surprises
from tests.support.namespaces import require_namespaces
from tests.support.sip_stand import STRANGERS, TRUNKS, Stand, sip_stand

FORGET_SECONDS = 10.0
MAX_LEFT = 3  # calls of senders that cannot hear the reply, or hang up: they end when nobody acknowledges them (32 s)
ELSEWHERE = 5999  # the port that messages try to have themselves relayed to
SDP_MESSAGES = [
    # 513 stands for the few that are larger than the edge reads.
    Message(
        body.name, invite(body.of(PHONE_SDP)), CHALLENGED | {"513"}, TAKEN_OR_REFUSED if body.may_be_taken else REFUSED
    )
    for body in BODIES
]


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    require_namespaces("kamailio", "rtpengine")
    with sip_stand({"server.echo_test": True, "server.max_calls": 128}) as made:
        yield made


@contextmanager
def nothing_is_relayed(stand: Stand) -> Iterator[None]:
    """Nothing comes to where strangers would like to have it."""
    with stand.phone.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trap:
        trap.bind(("0.0.0.0", ELSEWHERE))
        trap.settimeout(0.1)
        yield
        with pytest.raises(TimeoutError):
            trap.recv(65_536)


async def hold_a_call(stand: Stand) -> float:
    payloads, _ = bursts(2)
    line = Line(stand.phone_address, stand.edge, stand.account)
    async with telephone_call(line, f"sip:echo@{stand.edge[0]}") as call:
        await asyncio.sleep(0.3)
        await call.say(payloads)
        await asyncio.sleep(0.3)
        return share_returned(payloads, call.heard)


def torture(stand: Stand, messages: Sequence[Message], network: str, *, is_known: bool) -> list[str]:
    """Send all; what was not expected. The edge has to be whole after it."""
    before, held = stand.pids(), stand.num_calls()
    with nothing_is_relayed(stand):
        replies = exchange([(message.name, message.data) for message in messages], stand.edge, network)
    assert stand.pids() == before
    with stand.phone.entered():
        assert asyncio.run(hold_a_call(stand)) == 1.0
    deadline = time.monotonic() + FORGET_SECONDS
    while stand.num_calls() > held + MAX_LEFT:
        assert time.monotonic() < deadline, (
            f"the server holds {stand.num_calls()} calls: {', '.join(map(str, replies))}"
        )
        time.sleep(0.1)
    return surprises(messages, replies, is_known=is_known)


@pytest.mark.parametrize("is_known", [False, True], ids=["stranger", "trunk"])
def test_odd_messages_are_understood(stand: Stand, is_known: bool) -> None:
    assert torture(stand, ODD, TRUNKS if is_known else STRANGERS, is_known=is_known) == []


@pytest.mark.parametrize("is_known", [False, True], ids=["stranger", "trunk"])
def test_wrong_messages_are_refused_or_dropped(stand: Stand, is_known: bool) -> None:
    assert torture(stand, BAD, TRUNKS if is_known else STRANGERS, is_known=is_known) == []


@pytest.mark.parametrize("is_known", [False, True], ids=["stranger", "trunk"])
def test_wrong_session_descriptions_are_refused_or_understood(stand: Stand, is_known: bool) -> None:
    assert torture(stand, SDP_MESSAGES, TRUNKS if is_known else STRANGERS, is_known=is_known) == []


def test_the_sets_are_as_large_as_they_claim() -> None:
    names = [message.name for message in (*ODD, *BAD)]
    assert len(names) == len(set(names)) >= 180
    assert len({body.name for body in BODIES}) == len(BODIES) >= 55
