"""The adapter without a server behind it: session timers that are short, and a trunk that asks for a password."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from benchmarks.support.sip_words import Account, credentials, header
from rtc_server.config import SipSection
from rtc_server.sip import messages
from rtc_server.sip.process import SipAdapter
from tests.sip.proxy_peer import HOST, WAIT_SECONDS, ProxyPeer, free_udp_port, proxy_peer

pytest.importorskip("sippy", reason="sippy is not installed (the extra sip)")

SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n"


@dataclass(slots=True)
class Ear:
    """What the adapter tells."""

    notices: list[messages.Notice] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, notice: messages.Notice) -> None:
        self.notices.append(notice)
        self.news.set()

    async def next(self, kind: str) -> messages.Notice:
        """The first notice of a kind, waited for."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                self.news.clear()
                for notice in self.notices:
                    if notice.kind == kind:
                        return notice
                await self.news.wait()


@asynccontextmanager
async def adapter() -> AsyncIterator[tuple[SipAdapter, Ear, ProxyPeer]]:
    port, proxy_port = free_udp_port(), free_udp_port()
    section, ear = SipSection(enabled=True, port=port, proxy=f"{HOST}:{proxy_port}"), Ear()
    running = SipAdapter(section, 4, ear.take, lambda: None, min_session_seconds=1)
    async with proxy_peer(port, proxy_port) as phone:
        await running.start()
        try:
            running.send(messages.Readiness(is_ready=True))
            await phone.until_ready()
            yield running, ear, phone
        finally:
            await running.close()


async def answered(running: SipAdapter, ear: Ear, phone: ProxyPeer, extra: bytes) -> bytes:
    """A call whose INVITE has more headers; the 200."""
    phone.invite(SDP, extra)
    incoming = await ear.next("incoming")
    assert isinstance(incoming, messages.Incoming)
    running.send(messages.Accept(incoming.call_id, SDP))
    return await phone.answered()


async def test_a_peer_that_refreshes_no_more_is_hung_up() -> None:
    async with adapter() as (running, ear, phone):
        ok = await answered(running, ear, phone, b"Supported: timer\r\nSession-Expires: 2;refresher=uac")
        assert header(ok, b"Session-Expires") == b"2;refresher=uac"
        assert header(ok, b"Require") == b"timer"
        assert b"session_expired" in header(await phone.request(b"BYE"), b"Reason")
        over = await ear.next("over")
        assert isinstance(over, messages.Over)
        assert over.reason == "session_expired"


async def test_we_refresh_until_the_peer_has_forgotten_the_call() -> None:
    async with adapter() as (running, ear, phone):
        extra = b"Supported: timer\r\nAllow: INVITE, UPDATE\r\nSession-Expires: 2;refresher=uas"
        await answered(running, ear, phone, extra)
        update = await phone.request(b"UPDATE")
        assert header(update, b"Session-Expires") == b"2;refresher=uac"
        phone.received.clear()
        phone.statuses[b"UPDATE"] = b"481 Call/Transaction Does Not Exist"
        await phone.request(b"UPDATE")  # the first one was answered, and the call goes on
        over = await ear.next("over")
        assert isinstance(over, messages.Over)
        assert over.reason == "session_expired"


async def test_a_trunk_that_asks_for_a_password_gets_its_digest_and_never_the_password() -> None:
    account = Account("line7", "correct-horse-battery")
    async with adapter() as (running, ear, phone):
        running.send(
            messages.Invite(
                *("rtc_1", "sip:+4930@trunk.example", "sip:me@trunk.example", SDP, account.user, account.password)
            )
        )
        first = await phone.request(b"INVITE")
        assert not header(first, b"Proxy-Authorization")
        challenge = b'Digest realm="trunk.example", nonce="abc123", algorithm=MD5'
        phone.refuse(first, b"407 Proxy Authentication Required", b"Proxy-Authenticate: " + challenge)
        second = await phone.until(lambda m: m.startswith(b"INVITE ") and bool(header(m, b"Proxy-Authorization")))
        given, uri = header(second, b"Proxy-Authorization"), second.split(b" ")[1].decode()
        wanted = credentials(challenge, account, "INVITE", uri)
        response = re.compile(rb'response="([0-9a-f]{32})"')
        assert response.findall(given) == response.findall(wanted)
        assert b'username="line7"' in given
        assert account.password.encode() not in second
        phone.refuse(second, b"486 Busy Here")
        over = await ear.next("over")
        assert (over.kind, getattr(over, "status_code", None)) == ("over", 486)
