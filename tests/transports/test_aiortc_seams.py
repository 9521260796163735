"""Each seam into aiortc and aioice does what we need it for; these fail first when upstream changes."""

from __future__ import annotations

import asyncio
import inspect

import aiortc.rtcdtlstransport
from aioice import Connection
from aiortc import RTCRtpReceiver

from rtc_server.transports.aiortc_seams import host_addresses


async def gathered_addresses() -> set[str]:
    connection = Connection(ice_controlling=True)
    try:
        await connection.gather_candidates()
        return {candidate.host for candidate in connection.local_candidates}
    finally:
        await connection.close()


async def test_inside_the_block_only_the_given_addresses_are_gathered() -> None:
    with host_addresses(["127.0.0.1"]):
        assert await gathered_addresses() == {"127.0.0.1"}


async def test_outside_the_block_and_with_an_empty_list_aioice_chooses() -> None:
    assert "127.0.0.1" not in await gathered_addresses()
    with host_addresses([]):
        assert "127.0.0.1" not in await gathered_addresses()


async def test_two_calls_at_once_do_not_see_each_others_addresses() -> None:
    async def on_loopback() -> set[str]:
        with host_addresses(["127.0.0.1"]):
            return await gathered_addresses()

    loopback, others = await asyncio.gather(on_loopback(), gathered_addresses())
    assert loopback == {"127.0.0.1"}
    assert "127.0.0.1" not in others


def test_packets_reach_the_receiver_by_the_name_that_the_arrival_clock_watches() -> None:
    """`ArrivalClock` stands in for this method on the instance, which aiortc looks up for every packet."""
    parameters = list(inspect.signature(RTCRtpReceiver._handle_rtp_packet).parameters)
    assert parameters == ["self", "packet", "arrival_time_ms"]
    source = inspect.getsource(aiortc.rtcdtlstransport.RTCDtlsTransport._handle_rtp_data)
    assert "receiver._handle_rtp_packet(packet, arrival_time_ms=" in source
