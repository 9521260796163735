"""What a recording gets from the wire: every payload once, in order, out of whatever it was packed in."""

from __future__ import annotations

import struct
from itertools import pairwise

from rtc_server.codecs.base import PayloadFormat
from rtc_server.codecs.factory import create_decoder
from rtc_server.codecs.opus import OpusEncoder
from rtc_server.rtp.receiver import AudioReceiver
from rtc_server.rtp.red import RedBlock, pack_red
from tests.support.recordings import recording

OPUS = PayloadFormat(111, "opus", 48_000, 2)
RED = PayloadFormat(63, "red", 48_000, 2)
SPEECH = recording("go_forward_ten_meters")[8_000:]


def payloads(count: int) -> list[bytes]:
    encoder = OpusEncoder()
    size = encoder.frame_samples
    encoded = [encoder.encode(SPEECH[index * size : (index + 1) * size]) for index in range(count)]
    encoder.close()
    return encoded


class Tapped:
    """A receiver whose payloads are collected."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, bytes]] = []
        self.now = 0.0
        self.receiver = AudioReceiver([OPUS, RED], create_decoder, lambda pcm, delay_ms: None)
        self.receiver.on_payload = lambda form, timestamp, payload: self.taken.append((timestamp // 960, payload))

    def receive(self, index: int, payload: bytes, payload_type: int = 111) -> None:
        self.now = max(self.now, index * 0.02)
        header = struct.pack("!BBHII", 0x80, payload_type, index, index * 960, 7)
        self.receiver.receive(header + payload, self.now)

    def wait(self) -> None:
        self.now += 0.07
        self.receiver.handle_deadline(self.now)


def test_packets_that_overtook_each_other_come_in_order() -> None:
    sent, tapped = payloads(12), Tapped()
    for index in (0, 1, 3, 2, 4, 6, 5, 7, 9, 8, 10, 11):
        tapped.receive(index, sent[index])
        if index in (0, 1):
            tapped.receiver._reordering = 0.06  # a link on which that is usual
    tapped.wait()
    assert tapped.taken == list(enumerate(sent))


def test_what_was_lost_is_left_out_and_duplicates_are_too() -> None:
    sent, tapped = payloads(12), Tapped()
    for index in (0, 1, 2, 2, 5, 6, 6, 7, 8, 9, 10, 11):
        tapped.receive(index, sent[index])
    tapped.wait()
    assert [index for index, _ in tapped.taken] == [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]
    assert all(sent[index] == payload for index, payload in tapped.taken)


def test_red_is_unwrapped_and_its_copies_fill_what_was_lost() -> None:
    sent, tapped = payloads(12), Tapped()
    for index in (0, 1, 2, 4, 5, 7, 8, 9, 10, 11):
        copies = [RedBlock(111, 960, sent[index - 1])] if index else []
        tapped.receive(index, pack_red(111, sent[index], copies), 63)
    tapped.wait()
    assert tapped.taken == list(enumerate(sent))


def test_what_cannot_be_decoded_is_not_kept() -> None:
    sent, tapped = payloads(4), Tapped()
    for index, payload in enumerate(sent):
        tapped.receive(index, b"\x03" if index == 2 else payload)
    assert [index for index, _ in tapped.taken] == [0, 1, 3]


def test_timestamps_rise() -> None:
    sent, tapped = payloads(50), Tapped()
    for index, payload in enumerate(sent):
        if index % 7:
            tapped.receive(index, payload)
    assert all(first < second for (first, _), (second, _) in pairwise(tapped.taken))
