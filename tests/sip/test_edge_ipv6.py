"""Telephones that come over IPv6. Proxy and server talk over IPv4 loopback as ever."""

from __future__ import annotations

import asyncio

from benchmarks.support.telephone import Line, telephone_call
from benchmarks.support.tone_bursts import bursts, share_returned
from tests.sip.torture import attacks
from tests.support.namespaces import require_namespaces
from tests.support.sip_stand import SERVER_IPV6, STRANGER_IPV6, Stand, sip_stand


async def talk(stand: Stand) -> tuple[float, int, int, float]:
    """Shares of the tones that come back before and after hold, and how the offers of hold are answered."""
    tones, _ = bursts(2)
    line = Line(stand.phone_address, stand.edge, stand.account)
    async with telephone_call(line, f"sip:echo@[{SERVER_IPV6}]") as call:
        assert call.remote is not None
        assert call.remote[0] == SERVER_IPV6
        async with attacks.media_of_a_stranger(call.remote, STRANGER_IPV6, tones):
            await asyncio.sleep(0.1)
            await call.say(tones)
            await asyncio.sleep(0.3)
            before = share_returned(tones, call.heard)
            held, resumed = await call.reinvite("sendonly"), await call.reinvite()
            call.heard.clear()
            await call.say(tones)
            await asyncio.sleep(0.3)
            return before, held, resumed, share_returned(tones, call.heard)


def test_a_telephone_calls_over_ipv6_and_no_stranger_is_heard() -> None:
    require_namespaces("kamailio", "rtpengine")
    with sip_stand({"server.echo_test": True}, ipv6=True) as stand:
        with stand.phone.entered():
            assert asyncio.run(talk(stand)) == (1.0, 200, 200, 1.0)
        stand.wait_for_calls(0)  # hung up
