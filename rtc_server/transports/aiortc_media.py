"""aiortc's receiver and sender, with our media path behind them: the private names of aiortc 1.16 that it takes.

aiortc keeps signaling, DTLS, the data channel, RTCP and statistics; every RTP packet is ours (`rtp_stream`). aiortc is
pinned exactly, `tests/transports/test_aiortc_media.py` has one contract test per private name, and `check_upstream`
refuses to start on any other version. Outside `media_of` both classes behave as aiortc wrote them; its RTCP parser is
mended for all.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from aiortc import (
    InvalidStateError,
    RTCCertificate,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCRtpTransceiver,
    clock,
    rtcpeerconnection,
    rtp,
)
from aiortc.rtcdtlstransport import SRTPProtectionProfile
from aiortc.rtcrtpparameters import (
    RTCRtpCodecParameters,
    RTCRtpHeaderExtensionParameters,
    RTCRtpReceiveParameters,
    RTCRtpSendParameters,
)
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTCP_RTPFB_NACK,
    HeaderExtensionsMap,
    RtcpPsfbPacket,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtcpSrPacket,
    RtpPacket,
    unpack_remb_fci,
)
from OpenSSL import SSL
from pylibsrtp import Session

from rtc_server.errors import ConfigError

VERSIONS = {"aiortc": "1.16.0", "aioice": "0.13.0"}  # aioice's private names are used by `network.connection`


class ReceiveBinding(Protocol):
    """What takes a peer's incoming RTP over."""

    @property
    def remote_streams(self) -> dict[int, Any]:
        """Reception statistics by SSRC, for receiver reports."""

    def start_receiving(self, session: Session, add_source: Callable[[int], None]) -> None:
        """DTLS is up: `session` decrypts. `add_source` makes RTCP about an SSRC reach the receiver."""

    def receive_plain(self, packet: bytes) -> None:
        """An RTP packet that aiortc received and decrypted: all of them, unless the binding has a way of its own."""

    def stop_receiving(self) -> None: ...


class SendBinding(Protocol):
    """What takes a peer's outgoing RTP over."""

    packets_sent: int
    octets_sent: int
    latest_rtp_timestamp: int
    """Of the latest packet sent."""
    latest_sent_ntp: int
    """When it was sent, as a 64-bit NTP time."""

    def start_sending(self, session: Session, ssrc: int, payload_type: int) -> None:
        """DTLS is up: send with `session`, as `ssrc`."""

    def stop_sending(self) -> None: ...

    def on_receiver_report(self, fraction_lost: float, jitter_ticks: int, round_trip_seconds: float | None) -> None:
        """The peer told how our packets arrive; `fraction_lost` is 0..1 since its previous report."""

    def retransmit(self, sequence: int) -> None:
        """The peer asked for a packet again (RTCP NACK)."""

    def limit_bitrate(self, bits_per_second: int) -> None:
        """The peer estimated what it can receive (RTCP REMB), any number from 0."""


_receive: ContextVar[ReceiveBinding | None] = ContextVar("receive_binding", default=None)
_send: ContextVar[SendBinding | None] = ContextVar("send_binding", default=None)
_certificate: RTCCertificate | None = None
_Parameters = TypeVar("_Parameters", RTCRtpReceiveParameters, RTCRtpSendParameters)


@contextmanager
def media_of(receive: ReceiveBinding | None, send: SendBinding | None) -> Iterator[None]:
    """Audio transceivers made inside the block carry their RTP through these; None leaves a direction to aiortc."""
    tokens = _receive.set(receive), _send.set(send)
    try:
        yield
    finally:
        _receive.reset(tokens[0])
        _send.reset(tokens[1])


class MediaReceiver(RTCRtpReceiver):
    """Leaves RTP to the binding and keeps RTCP; without a binding it is aiortc's own."""

    def __init__(self, kind: str, transport: Any) -> None:
        super().__init__(kind, transport)
        self._binding = _receive.get() if kind == "audio" else None

    # Data descriptors win over the instance's attribute of the same name, so receiver reports are always current.
    @property
    def _RTCRtpReceiver__remote_streams(self) -> dict[int, Any]:
        return self.__dict__["_own_streams"] if self._binding is None else self._binding.remote_streams

    @_RTCRtpReceiver__remote_streams.setter
    def _RTCRtpReceiver__remote_streams(self, value: dict[int, Any]) -> None:
        self.__dict__["_own_streams"] = value

    async def receive(self, parameters: RTCRtpReceiveParameters) -> None:
        if self._binding is None:
            return await super().receive(parameters)
        own = vars(self)
        if own["_RTCRtpReceiver__started"]:
            return None
        transport = self.transport
        transport._register_rtp_receiver(self, _without_extensions(parameters))
        own["_RTCRtpReceiver__rtcp_task"] = asyncio.ensure_future(self._run_rtcp())
        own["_RTCRtpReceiver__started"] = True
        routes = transport._rtp_router.ssrc_table
        self._binding.start_receiving(transport._rx_srtp, lambda ssrc: routes.__setitem__(ssrc, self))
        return None

    async def _handle_rtp_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        if self._binding is None:
            await super()._handle_rtp_packet(packet, arrival_time_ms)
        else:
            self._binding.receive_plain(packet.serialize(HeaderExtensionsMap()))

    async def stop(self) -> None:
        if self._binding is not None:
            self._binding.stop_receiving()
        await super().stop()


class MediaSender(RTCRtpSender):
    """Leaves RTP to the binding and keeps RTCP; without a binding it is aiortc's own."""

    def __init__(self, track_or_kind: Any, transport: Any) -> None:
        self._binding: SendBinding | None = None  # asked for by the properties below, which the base class sets
        super().__init__(track_or_kind, transport)
        self._binding = _send.get() if self.kind == "audio" else None

    async def send(self, parameters: RTCRtpSendParameters) -> None:
        await super().send(parameters if self._binding is None else _without_extensions(parameters))

    async def _run_rtp(self, codec: RTCRtpCodecParameters) -> None:
        if self._binding is None:
            return await super()._run_rtp(codec)
        own = vars(self)
        own["_RTCRtpSender__rtp_started"].set()
        try:
            assert codec.payloadType is not None
            self._binding.start_sending(self.transport._tx_srtp, self._ssrc, codec.payloadType)
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            pass  # how `stop` ends this task; it waits for the event below
        finally:
            self._binding.stop_sending()
            own["_RTCRtpSender__rtp_exited"].set()
        return None

    async def _retransmit(self, sequence_number: int) -> None:
        if self._binding is None:
            await super()._retransmit(sequence_number)
        else:
            self._binding.retransmit(sequence_number)

    async def _handle_rtcp_packet(self, packet: Any) -> None:
        await super()._handle_rtcp_packet(packet)
        if self._binding is None:
            return
        if isinstance(packet, RtcpRrPacket | RtcpSrPacket):
            for report in packet.reports:
                if report.ssrc == self._ssrc:
                    round_trip = vars(self)["_RTCRtpSender__rtt"]
                    self._binding.on_receiver_report(report.fraction_lost / 256, report.jitter, round_trip)
        elif isinstance(packet, RtcpPsfbPacket) and packet.fmt == RTCP_PSFB_APP:
            try:
                bitrate, ssrcs = unpack_remb_fci(packet.fci)
            except ValueError:  # another application's
                return
            if self._ssrc in ssrcs:
                self._binding.limit_bitrate(bitrate)


def _without_extensions(parameters: _Parameters) -> _Parameters:
    """For aiortc's parser, which raises struct.error, and so ends DTLS, over an extension of an unusual length."""
    return replace(parameters, headerExtensions=[])


class TransportLayerFeedback(RtcpRtpfbPacket):
    """Reads only NACKs as such. aiortc takes every format for one: padded transport-wide feedback then does not parse,
    and takes the reports of its compound packet along."""

    @classmethod
    def parse(cls, data: bytes, fmt: int) -> RtcpRtpfbPacket:
        if fmt == RTCP_RTPFB_NACK:
            return super().parse(data, fmt)
        if len(data) < 8:
            raise ValueError("RTCP RTP feedback length is invalid")
        return cls(fmt, *struct.unpack_from("!LL", data))


class PayloadSpecificFeedback(RtcpPsfbPacket):
    """Empties a REMB that announces more sources than it holds: aiortc raises struct.error over it, which ends DTLS."""

    @classmethod
    def parse(cls, data: bytes, fmt: int) -> RtcpPsfbPacket:
        packet = super().parse(data, fmt)
        if fmt == RTCP_PSFB_APP:
            try:
                unpack_remb_fci(packet.fci)
            except struct.error:
                packet.fci = b""
            except ValueError:  # another application's
                pass
        return packet


def _counter(name: str, attribute: str) -> None:
    """Let sender reports read `attribute` of the binding wherever aiortc reads its own counter `name`."""
    mangled = f"_RTCRtpSender__{name}"

    def read(sender: MediaSender) -> Any:
        binding = sender._binding
        return sender.__dict__.get(mangled) if binding is None else getattr(binding, attribute)

    def write(sender: MediaSender, value: Any) -> None:
        sender.__dict__[mangled] = value

    setattr(MediaSender, mangled, property(read, write))


_counter("packet_count", "packets_sent")
_counter("octet_count", "octets_sent")
_counter("rtp_timestamp", "latest_rtp_timestamp")
_counter("ntp_timestamp", "latest_sent_ntp")

setattr(rtcpeerconnection, "RTCRtpReceiver", MediaReceiver)  # noqa: B010 - the module does not export them
setattr(rtcpeerconnection, "RTCRtpSender", MediaSender)  # noqa: B010
setattr(rtp, "RtcpRtpfbPacket", TransportLayerFeedback)  # noqa: B010 - what `RtcpPacket.parse` makes
setattr(rtp, "RtcpPsfbPacket", PayloadSpecificFeedback)  # noqa: B010


# What aiortc takes, then the same for a peer with an RSA key: GStreamer's webrtcbin makes one, and a browser does when
# its page asks (WebRTC 1.0 section 4.9.1). An answerer is mostly the DTLS client, and its suites name the peer's key.
CIPHERS = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA:"
    b"ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-CHACHA20-POLY1305:ECDHE-RSA-AES128-SHA:ECDHE-RSA-AES256-SHA"
)


class MediaCertificate(RTCCertificate):
    """A certificate that also meets peers whose own has an RSA key."""

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:
        context = super()._create_ssl_context(srtp_profiles)
        context.set_cipher_list(CIPHERS)
        return context


def process_certificate() -> RTCCertificate:
    """The DTLS certificate of this process: one for all calls, made on first use (a key costs 1-2 ms per call)."""
    global _certificate
    if _certificate is None:
        _certificate = MediaCertificate.generateCertificate()
    return _certificate


def use_process_certificate(pc: RTCPeerConnection) -> None:
    """Give a new peer connection the process's certificate; before its first description."""
    pc._RTCPeerConnection__certificates = [process_certificate()]  # type: ignore[attr-defined]


def expect_closing(pc: RTCPeerConnection) -> None:
    """Let a new peer connection be closed while it connects: aiortc connects in a task that nobody waits for, which
    then fails and is reported as an exception that was never retrieved. Before its first description."""
    connect = pc._RTCPeerConnection__connect  # type: ignore[attr-defined]

    async def connect_unless_closed() -> None:
        try:
            await connect()
        except (InvalidStateError, ConnectionError):
            if pc.signalingState != "closed":
                raise

    pc._RTCPeerConnection__connect = connect_unless_closed  # type: ignore[attr-defined]


def set_codecs(transceiver: RTCRtpTransceiver, codecs: Sequence[RTCRtpCodecParameters]) -> None:
    """Answer with exactly these codecs, the one to send with first. After the remote description, before the answer."""
    transceiver._codecs = list(codecs)


def add_header_extension(transceiver: RTCRtpTransceiver, identifier: int, uri: str) -> None:
    """Answer with this RTP header extension as well; whoever has the RTP reads it. When `set_codecs` is called."""
    extension = RTCRtpHeaderExtensionParameters(id=identifier, uri=uri)
    transceiver._headerExtensions = [*transceiver._headerExtensions, extension]


def ntp_now() -> int:
    """Now as a 64-bit NTP time, from the clock that aiortc's reports use."""
    return clock.current_ntp_time()


def check_upstream() -> None:
    """Raises ConfigError, naming the fix, when aiortc or aioice is not the version whose private names are used."""
    for name, wanted in VERSIONS.items():
        version = importlib.metadata.version(name)
        if version != wanted:
            raise ConfigError(
                f"{name} {version} is installed, but the media path is built on {wanted} exactly. "
                f"Run 'make setup', or: pip install {name}=={wanted}."
            )
