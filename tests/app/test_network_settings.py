"""Settings of the media path, seen in the answer that a caller gets."""

from __future__ import annotations

import re
import socket

import pytest

from tests.support.live_call import live_call
from tests.support.running_server import running_server


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def answer(**overrides: object) -> str:
    async with running_server(**overrides) as url, live_call(url) as call:
        assert await call.is_alive()
        return str(call.peer.pc.remoteDescription.sdp)


def ports(sdp: str) -> set[int]:
    return {int(port) for port in re.findall(r"a=candidate:\S+ 1 udp \d+ \S+ (\d+)", sdp)}


async def test_the_one_udp_port_is_the_one_that_was_set() -> None:
    port = free_udp_port()
    assert ports(await answer(**{"webrtc.udp_port": port})) == {port}


async def test_a_range_bounds_the_ports() -> None:
    port = free_udp_port()
    assert ports(await answer(**{"webrtc.udp_port_range": [port, port + 5]})) <= set(range(port, port + 6))


async def test_a_lite_server_says_so() -> None:
    assert "a=ice-lite" in await answer(**{"webrtc.ice_lite": True})
    assert "a=ice-lite" not in await answer()


@pytest.mark.parametrize("dtx", [True, False])
async def test_callers_are_asked_to_pause_in_silence_or_not(dtx: bool) -> None:
    assert ("usedtx=1" in await answer(**{"audio.dtx": dtx})) is dtx


@pytest.mark.parametrize(
    ("key", "value"), [("audio.opus_mode", "silk"), ("audio.opus_bitrate", 16_000), ("audio.sample_rate", 16_000)]
)
async def test_a_call_works_with_every_way_of_coding(key: str, value: object) -> None:
    assert "opus" in await answer(**{key: value})


async def test_two_sockets_for_two_calls_in_a_range_and_one_otherwise() -> None:
    port = free_udp_port()
    ranged = running_server(**{"webrtc.udp_port_range": [port, port + 5]})
    async with ranged as url, live_call(url) as first, live_call(url) as second:
        assert ports(first.peer.pc.remoteDescription.sdp) != ports(second.peer.pc.remoteDescription.sdp)
    async with running_server() as url, live_call(url) as first, live_call(url) as second:
        assert ports(first.peer.pc.remoteDescription.sdp) == ports(second.peer.pc.remoteDescription.sdp)
