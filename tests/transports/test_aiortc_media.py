"""Each private name of aiortc that the media path takes does what we need; these fail first when upstream changes."""

from __future__ import annotations

import asyncio
import importlib.metadata
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiortc import InvalidStateError, RTCCertificate, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcrtpreceiver import StreamStatistics
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTCP_RTPFB_NACK,
    RtcpPsfbPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtpPacket,
    pack_remb_fci,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from pylibsrtp import Session

from rtc_server.errors import ConfigError
from rtc_server.network.addresses import host_addresses
from rtc_server.transports import aiortc_media
from rtc_server.transports.aiortc_media import (
    MediaCertificate,
    add_header_extension,
    check_upstream,
    expect_closing,
    media_of,
    ntp_now,
    process_certificate,
    set_codecs,
    use_process_certificate,
)
from rtc_server.transports.srtp import BUFFER, SrtpReceiver, SrtpSender

OPUS = RTCRtpCodecParameters(
    mimeType="audio/opus", clockRate=48_000, channels=2, payloadType=96, parameters={"useinbandfec": 1, "usedtx": 1}
)
SILENT_OPUS = bytes([0xF8, 0xFF, 0xFE])


class RecordingBinding:
    """Keeps what the seam gives it, and sends one packet when asked to."""

    def __init__(self) -> None:
        self.packets: list[RtpPacket] = []
        self.reports: list[tuple[float, int, float | None]] = []
        self.stopped: list[str] = []
        self.asked_again: list[int] = []
        self.limits: list[int] = []
        self.asked = asyncio.Event()
        self.received = asyncio.Event()
        self.reported = asyncio.Event()
        self.sending = asyncio.Event()
        self.remote_streams: dict[int, Any] = {}
        self.packets_sent = 0
        self.octets_sent = 0
        self.latest_rtp_timestamp = 0
        self.latest_sent_ntp = 0
        self.sender: SrtpSender | None = None
        self.receiver: SrtpReceiver | None = None
        self.ssrc = 0
        self.payload_type = 0

    def start_receiving(self, session: Session, add_source: Callable[[int], None]) -> None:
        self.receiver = SrtpReceiver(session)
        self.add_source = add_source

    def receive_plain(self, packet: bytes) -> None:
        parsed = RtpPacket.parse(packet)
        if not self.packets:
            self.remote_streams[parsed.ssrc] = StreamStatistics(48_000)
            self.add_source(parsed.ssrc)
        self.remote_streams[parsed.ssrc].add(parsed)
        self.packets.append(parsed)
        self.received.set()

    def start_sending(self, session: Session, ssrc: int, payload_type: int) -> None:
        self.sender, self.ssrc, self.payload_type = SrtpSender(session), ssrc, payload_type
        self.sending.set()

    def stop_receiving(self) -> None:
        self.stopped.append("receiving")

    def stop_sending(self) -> None:
        self.stopped.append("sending")

    def retransmit(self, sequence: int) -> None:
        self.asked_again.append(sequence)
        self.asked.set()

    def limit_bitrate(self, bits_per_second: int) -> None:
        self.limits.append(bits_per_second)

    def on_receiver_report(self, fraction_lost: float, jitter_ticks: int, round_trip_seconds: float | None) -> None:
        self.reports.append((fraction_lost, jitter_ticks, round_trip_seconds))
        self.reported.set()

    def packet(self, sequence: int) -> int:
        """Build an RTP packet in the buffer; returns its length."""
        packet = RtpPacket(payload_type=self.payload_type, sequence_number=sequence, timestamp=sequence * 960)
        packet.ssrc = self.ssrc
        packet.payload = SILENT_OPUS
        plain = packet.serialize()
        BUFFER[: len(plain)] = plain
        self.packets_sent += 1
        self.octets_sent += len(SILENT_OPUS)
        self.latest_rtp_timestamp = sequence * 960
        self.latest_sent_ntp = ntp_now()
        return len(plain)


@asynccontextmanager
async def bound_pair(
    certificate: RTCCertificate | None = None, setup: str = "actpass"
) -> AsyncIterator[tuple[RecordingBinding, RTCPeerConnection, RTCPeerConnection]]:
    """A stock aiortc caller, whose `a=setup:` and certificate may be chosen, and a peer whose media is bound, connected
    over loopback."""
    binding = RecordingBinding()
    caller = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    if certificate is not None:
        caller._RTCPeerConnection__certificates = [certificate]  # type: ignore[attr-defined]
    callee = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        caller.addTrack(AudioStreamTrack())
        use_process_certificate(callee)
        with host_addresses(["127.0.0.1"]):
            await caller.setLocalDescription(await caller.createOffer())
            offer = caller.localDescription
            with media_of(binding, binding):
                sdp = offer.sdp.replace("a=setup:actpass", f"a=setup:{setup}")
                await callee.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
            for transceiver in callee.getTransceivers():
                set_codecs(transceiver, [OPUS])
                add_header_extension(transceiver, 7, "urn:test:extension")
                transceiver.direction = "sendrecv"
            await callee.setLocalDescription(await callee.createAnswer())
            await caller.setRemoteDescription(callee.localDescription)
        async with asyncio.timeout(10):
            await binding.sending.wait()
        yield binding, caller, callee
    finally:
        await caller.close()
        await callee.close()


async def test_packets_go_to_the_binding_and_no_decoder_thread_is_started() -> None:
    async with bound_pair() as (binding, _, callee):
        async with asyncio.timeout(10):
            await binding.received.wait()
        assert binding.packets[0].payload_type == 96
        assert binding.receiver is not None
        assert vars(callee.getReceivers()[0])["_RTCRtpReceiver__decoder_thread"] is None
    assert sorted(binding.stopped) == ["receiving", "sending"]


async def test_the_answer_carries_our_codecs_with_their_parameters() -> None:
    async with bound_pair() as (_, _, callee):
        sdp = callee.localDescription.sdp
        assert "a=fmtp:96 useinbandfec=1;usedtx=1" in sdp
        assert "PCMU" not in sdp


async def test_the_answer_carries_aiortcs_header_extensions_and_ours() -> None:
    async with bound_pair() as (_, _, callee):
        mapped = [line[9:] for line in callee.localDescription.sdp.splitlines() if line.startswith("a=extmap:")]
        assert mapped[-1] == "7 urn:test:extension"
        assert mapped[0] == "1 urn:ietf:params:rtp-hdrext:sdes:mid"


async def test_a_header_extension_of_an_unusual_length_does_not_end_the_connection() -> None:
    async with bound_pair() as (binding, caller, _):
        long_audio_level = b"\xbe\xde\0\1\x22abc"
        packet = struct.pack("!BBHII", 0x90, 96, 1, 1, 77) + long_audio_level + SILENT_OPUS
        await caller.getSenders()[0].transport._send_rtp(packet)
        async with asyncio.timeout(10):
            while not any(p.ssrc == 77 for p in binding.packets):
                binding.received.clear()
                await binding.received.wait()


async def test_what_the_binding_sends_is_received_and_reported_with_its_own_counters() -> None:
    async with bound_pair() as (binding, _caller, callee):
        async with asyncio.timeout(10):
            await binding.received.wait()
            sequence = 0
            while not binding.reported.is_set():
                assert binding.sender is not None
                protected = binding.sender.protect(binding.packet(sequence := sequence + 1))
                assert protected is not None
                await callee.getSenders()[0].transport.transport._send(bytes(protected))
                await asyncio.sleep(0.02)
        assert binding.reports[0][0] == 0.0
        sent = {s.type: s for s in (await callee.getSenders()[0].getStats()).values()}["outbound-rtp"]
        assert (sent.packetsSent, sent.bytesSent) == (binding.packets_sent, binding.octets_sent)
        inbound = {s.type: s for s in (await callee.getReceivers()[0].getStats()).values()}["inbound-rtp"]
        assert inbound.packetsReceived == len(binding.packets)


async def test_a_packet_that_the_peer_asks_for_again_is_asked_of_the_binding() -> None:
    async with bound_pair() as (binding, caller, _):
        nack = RtcpRtpfbPacket(fmt=RTCP_RTPFB_NACK, ssrc=1, media_ssrc=binding.ssrc)
        nack.lost = [7, 9]
        await caller.getSenders()[0].transport._send_rtp(bytes(nack))
        async with asyncio.timeout(10):
            await binding.asked.wait()
        assert binding.asked_again == [7, 9]


async def told(binding: RecordingBinding, caller: RTCPeerConnection, *packets: bytes) -> None:
    """The caller sends these in one compound packet, and a receiver report at its end: when it is read, all are."""
    report = RtcpRrPacket(ssrc=1, reports=[RtcpReceiverInfo(binding.ssrc, 64, 5, 6, 7, 0, 0)])
    await caller.getSenders()[0].transport._send_rtp(b"".join(packets) + bytes(report))
    seen = len(binding.reports)
    async with asyncio.timeout(10):
        while (0.25, 7) not in [report[:2] for report in binding.reports[seen:]]:
            binding.reported.clear()
            await binding.reported.wait()


@pytest.mark.parametrize("has_padding", [False, True])
async def test_transport_wide_feedback_is_not_taken_for_a_request_to_send_again(has_padding: bool) -> None:
    async with bound_pair() as (binding, caller, _):
        fci = bytes.fromhex("0001000500000100 2005 0050505050") + (b"\1" if has_padding else b"\0")
        body = struct.pack("!II", 1, binding.ssrc) + fci
        first = 0x8F | (0x20 if has_padding else 0)
        await told(binding, caller, struct.pack("!BBH", first, 205, len(body) // 4) + body)
        assert binding.asked_again == []


async def test_an_estimate_of_what_the_peer_can_receive_goes_to_the_binding() -> None:
    async with bound_pair() as (binding, caller, _):

        def remb(bitrate: int, ssrcs: list[int]) -> bytes:
            return bytes(RtcpPsfbPacket(RTCP_PSFB_APP, 1, binding.ssrc, pack_remb_fci(bitrate, ssrcs)))

        await told(binding, caller, remb(40_000, [3, binding.ssrc]), remb(9, [3, 4]), remb(0, [binding.ssrc]))
        to_all = RtcpPsfbPacket(RTCP_PSFB_APP, 1, 0, pack_remb_fci(50_000, [binding.ssrc]))
        await told(binding, caller, bytes(to_all))
        assert binding.limits == [40_000, 0, 50_000]


@pytest.mark.parametrize("fci", [b"", b"REMB", b"REMB\xff\0\0\1", b"REMB\2\0\0\1\0\0\0\1", b"LNTF\0\0\0\0"])
async def test_a_broken_or_unknown_estimate_is_ignored_and_what_comes_with_it_is_read(fci: bytes) -> None:
    async with bound_pair() as (binding, caller, _):
        await told(binding, caller, bytes(RtcpPsfbPacket(RTCP_PSFB_APP, 1, binding.ssrc, fci)))
        assert binding.limits == []


async def test_rtcp_of_the_binding_is_understood_by_the_peer_next_to_aiortcs() -> None:
    async with bound_pair() as (binding, caller, callee):
        heard = asyncio.Event()
        sender = caller.getSenders()[0]
        handle = sender._handle_rtcp_packet

        async def listen(packet: Any) -> None:
            await handle(packet)
            if isinstance(packet, RtcpRtpfbPacket) and packet.fmt == 15:
                heard.set()

        sender._handle_rtcp_packet = listen  # type: ignore[method-assign]
        feedback = bytes(RtcpRtpfbPacket(15, binding.ssrc, sender._ssrc))
        assert binding.sender is not None
        async with asyncio.timeout(10):
            await callee.getSenders()[0].transport._send_rtp(bytes(RtcpRrPacket(binding.ssrc)))
            protected = binding.sender.protect_rtcp(feedback)
            assert protected is not None
            await callee.getSenders()[0].transport.transport._send(bytes(protected))
            await heard.wait()


async def test_a_forged_replayed_or_excess_source_packet_is_refused_and_counted() -> None:
    async with bound_pair() as (binding, _, _):
        # A receiving session with the key of the sending one: what the peer has.
        assert binding.sender is not None
        assert binding.receiver is not None
        protected = binding.sender.protect(binding.packet(1))
        assert protected is not None
        assert binding.receiver.unprotect(memoryview(bytes(protected))) is None, "another key"
        assert binding.receiver.unprotect(memoryview(b"")) is None
        assert binding.receiver.unprotect(memoryview(bytes(4_000))) is None
        assert binding.receiver.rejected == 3


async def test_one_certificate_serves_every_call_of_the_process() -> None:
    async with bound_pair() as (_, _, callee):
        digest = process_certificate().getFingerprints()[0].value
        assert digest in callee.localDescription.sdp


def rsa_certificate() -> MediaCertificate:
    """As GStreamer makes one."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    name, now = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "peer")]), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    return MediaCertificate(key, builder.sign(key, hashes.SHA256()))  # type: ignore[arg-type]


@pytest.mark.parametrize("setup", ["actpass", "active"])
async def test_a_peer_whose_certificate_has_an_rsa_key_connects(setup: str) -> None:
    """As DTLS server ("actpass": we answer "active") and as client."""
    async with bound_pair(rsa_certificate(), setup) as (binding, _, callee):
        (transport,) = {sender.transport for sender in callee.getSenders()}
        assert transport._role == {"actpass": "client", "active": "server"}[setup]
        assert transport.state == "connected"
        async with asyncio.timeout(10):
            await binding.received.wait()


async def test_a_peer_that_is_closed_while_it_connects_fails_in_silence() -> None:
    caller, callee = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    called, fails = asyncio.Event(), False

    async def connect() -> None:
        called.set()
        if fails:
            raise InvalidStateError("RTCIceTransport is closed")

    callee._RTCPeerConnection__connect = connect  # type: ignore[attr-defined]
    expect_closing(callee)
    caller.createDataChannel("events")
    with host_addresses(["127.0.0.1"]):
        await caller.setLocalDescription(await caller.createOffer())
        await callee.setRemoteDescription(caller.localDescription)
        await callee.setLocalDescription(await callee.createAnswer())
    async with asyncio.timeout(5):
        await called.wait()  # aiortc looks its own method up on the peer
    fails = True
    with pytest.raises(InvalidStateError):
        await callee._RTCPeerConnection__connect()  # type: ignore[attr-defined]
    await callee.close()
    await callee._RTCPeerConnection__connect()  # type: ignore[attr-defined]
    await caller.close()


@pytest.mark.parametrize("name", aiortc_media.VERSIONS)
def test_another_version_is_refused_with_the_fix(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    check_upstream()
    installed = importlib.metadata.version
    monkeypatch.setattr(
        aiortc_media.importlib.metadata, "version", lambda asked: "9.9.9" if asked == name else installed(asked)
    )
    with pytest.raises(
        ConfigError, match=rf"{name} 9.9.9 is installed.*pip install {name}=={aiortc_media.VERSIONS[name]}"
    ):
        check_upstream()
