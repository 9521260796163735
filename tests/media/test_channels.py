"""The window of a channel: a client that is faster than its call waits, and nothing is dropped."""

from __future__ import annotations

import asyncio

import pytest

from rtc_server.media.channels import WINDOW, WindowedChannel
from rtc_server.transports.websocket import MESSAGE_WEIGHT, weight_of

PIECE = bytes(32 * 1024 - MESSAGE_WEIGHT)


class End:
    """A `ChannelPeer` and a `Line` that remember."""

    def __init__(self) -> None:
        self.got: list[str | bytes] = []
        self.acknowledged = 0
        self.disconnects = 0
        self.closed: list[tuple[int, str]] = []

    def on_data(self, data: str | bytes) -> None:
        self.got.append(data)

    def on_closed(self, code: int, reason: str) -> None:
        self.closed.append((code, reason))

    def receive(self, data: str | bytes) -> None:
        self.got.append(data)

    def acknowledge(self, size: int) -> None:
        self.acknowledged += size

    def disconnect(self, *, is_lost: bool = False) -> None:
        self.disconnects += 1


class Ends:
    def __init__(self) -> None:
        self.client, self.call, self.over = End(), End(), 0
        self.channel = WindowedChannel(self.client, self._on_over)
        self.channel.connect("rtc_1", self.call)

    def _on_over(self) -> None:
        self.over += 1


async def test_a_client_waits_while_its_call_has_a_window_unread() -> None:
    ends = Ends()
    sending = asyncio.create_task(_send_all(ends.channel, 20))
    await asyncio.sleep(0.01)
    assert not sending.done()
    assert sum(map(weight_of, ends.call.got)) == WINDOW
    read = 0
    while not sending.done():
        assert sum(map(weight_of, ends.call.got)) - read <= WINDOW
        ends.channel.on_read(weight_of(PIECE))
        read += weight_of(PIECE)
        await asyncio.sleep(0)
    assert ends.call.got == [PIECE] * 20


async def test_messages_without_contents_count_too() -> None:
    ends = Ends()
    sending = asyncio.create_task(_send_all(ends.channel, 100_000, ""))
    await asyncio.sleep(0.01)
    assert len(ends.call.got) == WINDOW / MESSAGE_WEIGHT
    ends.channel.close()
    await asyncio.wait_for(sending, 10)


@pytest.mark.parametrize("who", ["client", "call"])
async def test_whoever_waits_goes_on_when_the_channel_is_over(who: str) -> None:
    ends = Ends()
    sending = asyncio.create_task(_send_all(ends.channel, 20))
    await asyncio.sleep(0.01)
    if who == "client":
        ends.channel.close()
        ends.channel.close()
    else:
        ends.channel.on_closed(1000, "hangup")
        ends.channel.on_closed(1011, "again")
    await asyncio.wait_for(sending, 5)
    assert sum(map(weight_of, ends.call.got)) == WINDOW
    assert ends.client.closed == ([] if who == "client" else [(1000, "hangup")])
    assert ends.call.disconnects == (1 if who == "client" else 0)
    ends.channel.on_data("late")
    ends.channel.acknowledge(5)
    assert (ends.client.got, ends.call.acknowledged, ends.over) == ([], 0, 1)


async def test_what_the_client_has_read_is_passed_on() -> None:
    ends = Ends()
    ends.channel.on_data("event")
    ends.channel.acknowledge(5)
    assert (ends.client.got, ends.call.acknowledged) == (["event"], 5)


async def _send_all(channel: WindowedChannel, count: int, message: str | bytes = PIECE) -> None:
    for _ in range(count):
        await channel.send(message)
