"""Parts of the edge are killed under a call: what becomes of it, of its place in the server, and of the next call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import psutil
import pytest

from benchmarks.support.telephone import CallRefusedError, Line, telephone_call
from benchmarks.support.tone_bursts import bursts, share_returned
from tests.sip.torture.live import live_call
from tests.support.namespaces import require_namespaces
from tests.support.sip_stand import SERVER_ADDRESS, Stand, sip_stand

ECHO = f"sip:echo@{SERVER_ADDRESS}"
BYE_SECONDS = 30.0  # ICE consent runs out after 6 to 15 s (RFC 7675)


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    require_namespaces("kamailio", "rtpengine")
    # The relay has ports for two calls: the one under which something is killed, and the next one.
    settings = {"server.echo_test": True, "server.max_calls": 4}
    edge = {"requests_per_second": 1_000, "rtp_port_min": 30_000, "rtp_port_max": 30_007}
    with sip_stand(settings, edge) as made:
        yield made


async def hold_a_call(stand: Stand) -> float:
    payloads, _ = bursts(1)
    async with telephone_call(Line(stand.phone_address, stand.edge, stand.account), ECHO) as call:
        await asyncio.sleep(0.1)
        await call.say(payloads)
        await asyncio.sleep(0.2)
        return share_returned(payloads, call.heard)


def next_call(stand: Stand) -> float:
    """Share of its tones that come back."""
    with stand.phone.entered():
        return asyncio.run(hold_a_call(stand))


def test_a_killed_relay_ends_its_calls_and_the_next_ones_are_told_to_come_back(stand: Stand) -> None:
    with live_call(stand.phone, Line(stand.phone_address, stand.edge, stand.account), ECHO) as live:
        live.wait_for_echoes(1)
        stand.relay.process.kill()
        with pytest.raises(CallRefusedError) as refused:
            next_call(stand)
        assert refused.value.status == 503
        stand.restart(stand.relay)
        stand.wait_until_ready()
        assert next_call(stand) == 1.0
        deadline = time.monotonic() + BYE_SECONDS
        while live.is_up:
            assert time.monotonic() < deadline, "the telephone is not told that its call is over"
            time.sleep(0.1)
    stand.wait_for_calls(0)


def test_who_calls_when_the_relay_is_full_is_told_to_come_back(stand: Stand) -> None:
    with (
        live_call(stand.phone, Line(stand.phone_address, stand.edge, stand.account), ECHO),
        live_call(stand.phone, Line(stand.phone_address, stand.edge, stand.account), ECHO),
    ):
        with pytest.raises(CallRefusedError) as refused:
            next_call(stand)
        assert refused.value.status == 503
    stand.wait_for_calls(0)
    assert next_call(stand) == 1.0


def test_calls_outlive_their_proxy(stand: Stand) -> None:
    """One that loses a worker ends whole instead of going on with what is left, so that it is started again."""
    with live_call(stand.phone, Line(stand.phone_address, stand.edge, stand.account), ECHO) as live:
        live.wait_for_echoes(1)
        psutil.Process(stand.proxy.process.pid).children()[1].kill()
        stand.proxy.process.wait(20)
        live.wait_for_echoes(2)
        stand.restart(stand.proxy)
        stand.wait_until_ready()
        assert next_call(stand) == 1.0
        live.wait_for_echoes(1)
        assert live.is_up
    stand.wait_for_calls(0)  # the telephone hung up through a proxy that had never seen the call


def test_a_killed_adapter_gives_places_back_and_the_next_call_is_taken(stand: Stand) -> None:
    async def lose() -> tuple[float, int]:
        """Share of tones that come back after it, and how the BYE is answered."""
        payloads, _ = bursts(1)
        async with telephone_call(Line(stand.phone_address, stand.edge, stand.account), ECHO) as call:
            await asyncio.to_thread(stand.wait_for_calls, 1)
            (adapter,) = (p for p in stand.processes()["server"] if "rtc_server.sip.worker" in p.cmdline())
            adapter.kill()
            await asyncio.to_thread(stand.wait_for_calls, 0)
            await asyncio.to_thread(stand.wait_until_ready)
            assert await hold_a_call(stand) == 1.0
            call.heard.clear()
            await call.say(payloads)
            return share_returned(payloads, call.heard), await call.hang_up()

    with stand.phone.entered():
        assert asyncio.run(lose()) == (0.0, 481)
    stand.wait_for_calls(0)
