"""Keys that are sent arrive as keys, whatever is lost on the way but all of one."""

from __future__ import annotations

import random

import pytest

from rtc_server.rtp.telephone_event import DIGITS, MAX_DIGITS, TelephoneEvents, TonePacket, ToneSender


def sent(
    digits: str, clock_rate: int = 8_000, duration_ms: int = 100, gap_ms: int = 60
) -> list[tuple[int, TonePacket]]:
    """Every packet with its RTP timestamp, as a stream sends them."""
    sender, packets, start = ToneSender(clock_rate), [], 0
    sender.add(digits, duration_ms, gap_ms)
    timestamp = 1_000
    while sender.is_active:
        timestamp += clock_rate // 50
        for packet in sender.next():
            start = timestamp if packet.is_first else start
            packets.append((start, packet))
    return packets


@pytest.mark.parametrize("clock_rate", [8_000, 48_000])
def test_every_key_arrives_once_with_its_length(clock_rate: int) -> None:
    receiver = TelephoneEvents(clock_rate)
    pressed = [key for at, packet in sent(DIGITS, clock_rate) for key in receiver.receive(at, packet.payload)]
    assert "".join(key.digit for key in pressed) == DIGITS
    assert {key.duration_ms for key in pressed} == {100}


def test_the_last_packet_of_a_key_is_sent_three_times() -> None:
    packets = [packet for _, packet in sent("5")]
    assert [packet.is_first for packet in packets] == [True] + [False] * 6
    assert [bool(packet.payload[1] & 0x80) for packet in packets] == [False] * 4 + [True] * 3


def test_the_same_key_twice_is_two_keys() -> None:
    receiver = TelephoneEvents(8_000)
    pressed = [key.digit for at, packet in sent("55") for key in receiver.receive(at, packet.payload)]
    assert pressed == ["5", "5"]


@pytest.mark.parametrize("seed", range(20))
def test_a_third_of_the_packets_may_be_lost(seed: int) -> None:
    """As long as one of each key comes."""
    rng, receiver = random.Random(seed), TelephoneEvents(8_000)
    kept = [(at, packet) for at, packet in sent("159#") if rng.random() > 0.33 or packet.is_first]
    pressed = [key.digit for at, packet in kept for key in receiver.receive(at, packet.payload)]
    pressed += [key.digit for key in receiver.flush()]
    assert "".join(pressed) == "159#"


def test_more_keys_than_a_person_presses_are_refused() -> None:
    sender = ToneSender(8_000)
    sender.add("1" * MAX_DIGITS, 100, 100)
    with pytest.raises(ValueError, match="64 keys"):
        sender.add("2", 100, 100)
