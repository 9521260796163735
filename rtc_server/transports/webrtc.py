"""One WebRTC peer: set-up over aiortc, audio over our own path, the `oai-events` data channel, loss of the connection.

aiortc keeps the description, DTLS, the data channel and RTCP. Datagrams are `network`'s, audio is `rtp_stream`'s.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.exceptions import OperationError
from aiortc.mediastreams import AudioStreamTrack
from aiortc.rtcrtpparameters import RTCRtcpFeedback, RTCRtpCodecParameters

from rtc_server import metrics
from rtc_server.codecs.base import PayloadFormat
from rtc_server.codecs.factory import create_decoder, create_encoder
from rtc_server.codecs.formats import TRANSPORT_SEQUENCE_URI, Negotiated, answer_parameters, negotiate
from rtc_server.codecs.opus import OpusOptions
from rtc_server.errors import (
    InvalidSdpError,
    PreconditionFailedError,
    PreconditionRequiredError,
    UnprocessableError,
)
from rtc_server.network.connection import IceOptions, RestartableIce, ice_of, restarted_answer
from rtc_server.network.path import MediaPath
from rtc_server.network.sockets import MediaSockets
from rtc_server.realtime.words import Event

from .aiortc_media import (
    add_header_extension,
    expect_closing,
    media_of,
    set_codecs,
    use_process_certificate,
)
from .aiortc_sctp import guard_data_channel
from .base import LineStatus, MediaSink, MediaTap, TappedCodings
from .fragments import IceFragment, IceUpdate, restart_fragment
from .offering import OFFERED, LateStream, with_formats
from .pacer import Pacer
from .rtp_stream import RtpStream
from .sdp import ANSWERED_WITH, Offer, Purpose, redirected
from .video import with_unused

log = logging.getLogger(__name__)

CHANNEL_LABEL = "oai-events"
KNOWN_USERNAMES = 8  # of the peer's earlier ICE sessions: a fragment that comes late is known by them
MAX_UNREAD_BYTES = 256 * 1024  # a client this far behind on events (minutes of captions) is not reading any more


@dataclass(frozen=True, slots=True)
class MediaResources:
    """What all calls of one process share. Made once per event loop; `close` when the last call is over."""

    sockets: MediaSockets
    pacer: Pacer

    def close(self) -> None:
        self.sockets.close()


@dataclass(frozen=True, slots=True)
class WebRtcOptions:
    """How peers are reached, and how their audio is coded."""

    host_addresses: Sequence[str] = ()
    """Addresses to offer as ICE host candidates."""
    external_addresses: Sequence[str] = ()
    """Public addresses of a 1:1 NAT in front of them."""
    ice_servers: Sequence[str] = ()
    is_lite: bool = False
    setup_timeout_seconds: float = 15.0
    opus: OpusOptions = field(default_factory=OpusOptions)
    use_dtx: bool = True
    """Ask the peer to pause its packets in silence; we pause ours if it asks for that."""
    purpose: Purpose = "call"
    """"listen": the peer only hears."""
    any_channel: bool = False
    """The first data channel carries the events, whatever its label."""


class WebRtcTransport:
    """A `MediaTransport`. `answer` once, then `run` until the peer is gone, then `close`."""

    carries_audio_in_events = False

    def __init__(self, options: WebRtcOptions, resources: MediaResources) -> None:
        servers = [RTCIceServer(urls=[url]) for url in options.ice_servers]
        # Always pass the list: aiortc's default configuration names a public STUN server.
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        use_process_certificate(self._pc)
        expect_closing(self._pc)
        self._options = options
        self._resources = resources
        self._path = MediaPath()
        self._stream: RtpStream | None = None
        self._coding = ""
        self._ice: RestartableIce | None = None
        self._channel: RTCDataChannel | None = None
        self._sink: MediaSink | None = None
        self._fingerprints: frozenset[str] = frozenset()
        self._answer = ""
        self._is_held = False
        self._late = LateStream()
        self._mids: tuple[str, ...] = ()
        self._bundle: tuple[str, ...] = ()
        self._usernames: list[str] = []
        self._restarting = asyncio.Lock()
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[str] = loop.create_future()
        self._is_closed = False
        self._setup_timer = loop.call_later(options.setup_timeout_seconds, self._end, "setup_timeout")
        self._pc.on("datachannel", self._on_channel)
        self._pc.on("connectionstatechange", self._on_state)

    @property
    def playout_sample_rate(self) -> int:
        """See `MediaTransport`; what the negotiated codec takes. Raises RuntimeError before `answer`."""
        return self.stream.playout_sample_rate

    @property
    def stream(self) -> RtpStream:
        """The audio, with its statistics. Raises RuntimeError before `answer`."""
        if self._stream is None:
            raise RuntimeError("the offer has not been answered yet")
        return self._stream

    @property
    def line(self) -> LineStatus:
        """See `MediaTransport`. Raises RuntimeError before `answer`."""
        stream = self.stream
        receiver, round_trip = stream.receiver, stream.round_trip_seconds
        reception, statistics = receiver.reception, receiver.statistics
        is_heard, due = reception is not None, statistics.received + statistics.lost
        return LineStatus(
            "webrtc",
            jitter_ms=None if reception is None else reception.jitter_ms,
            jitter_buffer_ms=receiver.wait_seconds * 1e3 if is_heard else None,
            loss=statistics.lost / due if due else None,
            remote_loss=stream.remote_fraction_lost if stream.is_heard else None,
            round_trip_ms=None if round_trip is None else round_trip * 1e3,
        )

    @property
    def ice_tag(self) -> str:
        """Names the present ICE session. Raises RuntimeError before `answer`."""
        if self._ice is None:
            raise RuntimeError("the offer has not been answered yet")
        return self._ice.tag

    async def answer(self, offer: Offer) -> str:
        """The SDP answer, with all candidates. Raises InvalidSdpError when the offer cannot be worked with, and
        NetworkError when there is no port for it."""
        negotiated = negotiate(offer.audio_lines)
        if negotiated is None:
            raise InvalidSdpError("The offer has no audio codec that this server speaks: Opus, G722, PCMU or PCMA.")
        stream = self._stream = self._make_stream(negotiated, is_heard=offer.takes_audio or offer.is_telephone)
        options = self._options
        ice = IceOptions(
            self._resources.sockets, self._path, options.host_addresses, options.external_addresses, options.is_lite
        )
        with media_of(stream, stream), ice_of(ice):
            with _understood():
                await self._pc.setRemoteDescription(RTCSessionDescription(_both_ways(offer), "offer"))
            guard_data_channel(self._pc)
            codecs = [_codec(f, negotiated, options.use_dtx) for f in negotiated.formats]
            for transceiver in self._pc.getTransceivers():
                set_codecs(transceiver, codecs)
                if negotiated.transport_sequence_id is not None:
                    add_header_extension(transceiver, negotiated.transport_sequence_id, TRANSPORT_SEQUENCE_URI)
            self._pc.addTrack(AudioStreamTrack())  # never pulled: the stream sends
            if options.purpose == "listen":
                self._pc.getTransceivers()[0].direction = "sendonly"
            with _understood():
                await self._pc.setLocalDescription(await self._pc.createAnswer())
        self._ice = RestartableIce(self._pc.getTransceivers()[0].receiver.transport.transport)
        self._fingerprints = frozenset(offer.fingerprints)
        self._mids, self._bundle = offer.mids, offer.bundle
        self._usernames = [offer.ice_ufrag]
        self._answer = with_unused(str(self._pc.localDescription.sdp), offer)
        if options.is_lite:
            self._answer = self._answer.replace("\r\nm=", "\r\na=ice-lite\r\nm=", 1)
        if offer.is_telephone and not offer.takes_audio:
            self._redirect(offer)
        return self._answer

    @property
    def is_held(self) -> bool:
        """The peer takes no audio for now, though it did when the call began."""
        return self._is_held

    async def offer(self) -> str:
        """The SDP offer of a call that we make, with all candidates; `accept_answer` next. Raises NetworkError."""
        self._setup_timer.cancel()  # it rings as long as it rings
        options = self._options
        ice = IceOptions(
            self._resources.sockets, self._path, options.host_addresses, options.external_addresses, options.is_lite
        )
        late: Any = self._late  # its counters are read only, and nobody writes them
        with media_of(late, late), ice_of(ice):
            self._pc.addTransceiver(AudioStreamTrack(), direction="sendrecv")  # never pulled: the stream sends
            await self._pc.setLocalDescription(await self._pc.createOffer())
        return with_formats(str(self._pc.localDescription.sdp), OFFERED)

    async def accept_answer(self, answer: Offer) -> None:
        """The peer's answer to `offer`; media starts. Raises InvalidSdpError when it cannot be worked with."""
        negotiated = negotiate(answer.audio_lines)
        if negotiated is None:
            raise InvalidSdpError("The answer has no audio codec that this server speaks: Opus, G722, PCMU or PCMA.")
        self._stream = self._late.stream = self._make_stream(negotiated, is_heard=True)
        with _understood():
            await self._pc.setRemoteDescription(RTCSessionDescription(_both_ways(answer), "answer"))
        transceiver = self._pc.getTransceivers()[0]
        set_codecs(transceiver, [_codec(f, negotiated, self._options.use_dtx) for f in negotiated.formats])
        self._ice = RestartableIce(transceiver.receiver.transport.transport)
        self._fingerprints = frozenset(answer.fingerprints)
        self._mids, self._bundle, self._usernames = answer.mids, answer.bundle, [answer.ice_ufrag]
        # What a later offer of the peer is answered with: the DTLS role that was agreed stays (RFC 8842 section 5.5).
        role = "active" if "a=setup:passive" in answer.sdp else "passive"
        ours = with_formats(str(self._pc.localDescription.sdp), negotiated.formats)
        self._answer = ours.replace("a=setup:actpass", f"a=setup:{role}")
        if not answer.takes_audio:
            self._redirect(answer)
        loop = asyncio.get_running_loop()
        self._setup_timer = loop.call_later(self._options.setup_timeout_seconds, self._end, "setup_timeout")

    async def renegotiate(self, offer: Offer, if_match: str | None = None) -> str:
        """Answer a new offer for this call: one with new ICE credentials restarts ICE, and audio goes on meanwhile; one
        that takes no audio any more (`sendonly`, `inactive`) puts the call on hold, until one takes it again (RFC 3264
        section 8.4). `if_match` names the ICE session that the peer knows. Raises PreconditionFailedError when that is
        not the present one, and InvalidSdpError for another certificate or other m-sections."""
        if self._ice is None or self._is_closed:
            raise InvalidSdpError("The call is not set up.")
        self._check_match(self._ice, if_match)
        self._check_same_peer(offer)
        if self._ice.is_restart(offer.ice_ufrag):
            await self._restart(self._ice, offer.ice_ufrag, offer.ice_pwd, offer.candidates)
        else:
            await self.add_candidates(offer.candidates)
        self._redirect(offer)
        return self._answer

    def reoffer(self) -> str:
        """An offer of ours for the running call, whose peer asks what we would agree to: what was agreed, off hold.
        Media goes on as it is until `reanswer`. Raises InvalidSdpError."""
        if self._ice is None or self._is_closed:
            raise InvalidSdpError("The call is not set up.")
        offer = redirected(self._answer, "sendrecv")
        for role in ("active", "passive"):
            offer = offer.replace(f"a=setup:{role}", "a=setup:actpass")  # RFC 8842 section 5.5
        return offer

    def reanswer(self, answer: Offer) -> None:
        """The peer's answer to `reoffer`, which may hold the call or take it off hold. Raises InvalidSdpError for what
        was not offered; the call goes on as it was."""
        if self._ice is None or self._is_closed:
            raise InvalidSdpError("The call is not set up.")
        self._check_same_peer(answer)
        if self._ice.is_restart(answer.ice_ufrag):
            raise InvalidSdpError("The answer begins another ICE session, which was not offered.")
        negotiated = negotiate(answer.audio_lines)
        if negotiated is None or negotiated.speech.name != self._coding:
            raise InvalidSdpError("The answer names another codec than the offer.")
        self._redirect(answer)

    async def update_ice(self, fragment: IceFragment, if_match: str | None) -> IceUpdate:
        """A fragment of the peer (RFC 9725 section 4.3). `if_match` names the ICE session that it is meant for: "*"
        restarts, None is the present one. What belongs to an earlier session is ignored. Raises
        PreconditionFailedError for another session than the present one, PreconditionRequiredError for a restart that
        was not asked for with "*", and UnprocessableError for one without credentials."""
        ice = self._ice
        if ice is None or self._is_closed:
            raise InvalidSdpError("The call is not set up.")
        self._check_match(ice, if_match)
        is_new = fragment.ufrag is not None and fragment.ufrag not in self._usernames
        if if_match == "*":
            if fragment.ufrag is None or fragment.pwd is None:
                raise UnprocessableError("An ICE restart needs an 'ice-ufrag' and an 'ice-pwd'.")
            if not is_new and ice.is_restart(fragment.ufrag):
                return IceUpdate(ice.tag)  # overtaken by a later restart
            if is_new:
                await self._restart(ice, fragment.ufrag, fragment.pwd, fragment.candidates)
            else:
                await self.add_candidates(fragment.candidates)
            return IceUpdate(ice.tag, self._restarted_fragment(ice, fragment))
        if is_new and if_match is None and fragment.pwd is not None:
            raise PreconditionRequiredError("An ICE restart must be asked for with 'If-Match: \"*\"'.")
        if fragment.ufrag is None or not ice.is_restart(fragment.ufrag):
            await self.add_candidates(fragment.candidates)
        return IceUpdate(ice.tag)

    async def add_candidates(self, candidates: Sequence[str]) -> None:
        """More ways to reach the peer, validated, as in an `a=candidate` line without its prefix; "" ends them."""
        if self._ice is not None and not self._is_closed and not self._options.is_lite:
            for candidate in candidates:
                await self._ice.add_candidate(candidate)

    async def run(self, sink: MediaSink) -> str:
        """See `MediaTransport.run`."""
        self._sink = sink
        self.stream.attach(sink)
        if self._pc.connectionState == "connected":
            self._on_state()
        if self._channel is not None and self._channel.readyState == "open":
            sink.on_channel_open()
        return await asyncio.shield(self._ended)

    def fill_input(self, now: float) -> None:
        """See `MediaTransport.fill_input`."""
        self.stream.fill_input(now)

    def tap(self, tap: MediaTap | None) -> TappedCodings:
        """See `MediaTransport.tap`."""
        return self.stream.tap(tap, self._coding)

    def send_digits(self, digits: str, duration_ms: int, gap_ms: int) -> bool:
        """See `MediaTransport.send_digits`."""
        return self.stream.send_digits(digits, duration_ms, gap_ms)

    def send_event(self, event: Event) -> None:
        """See `MediaTransport.send_event`."""
        channel = self._channel
        if channel is None or channel.readyState != "open":
            return
        metrics.EVENT_BACKLOG.observe(channel.bufferedAmount)
        if channel.bufferedAmount > MAX_UNREAD_BYTES:
            self._end("client_not_reading")
            return
        channel.send(json.dumps(event, separators=(",", ":"), ensure_ascii=False))

    def send_audio(self, event: Event, data: bytes) -> None:
        """See `MediaTransport.send_audio`: never asked, audio is RTP."""

    def end(self, reason: str) -> None:
        """Make `run` return `reason`; whoever runs it then closes."""
        self._end(reason)

    def abort(self, error: Exception) -> None:
        """See `MediaTransport.abort`."""
        if not self._ended.done():
            self._ended.set_exception(error)

    async def close(self, reason: str = "hangup") -> None:
        """See `MediaTransport.close`."""
        self._end(reason)
        if self._is_closed:
            return
        self._is_closed = True
        self._setup_timer.cancel()
        try:
            if self._ice is not None:
                await self._ice.close()
            await self._pc.close()
        finally:
            if self._stream is not None:
                self._stream.close()

    # --- inside

    @staticmethod
    def _check_match(ice: RestartableIce, if_match: str | None) -> None:
        if if_match is not None and if_match not in ("*", ice.tag):
            raise PreconditionFailedError("The call has another ICE session now; 'If-Match' must name that one.")

    def _check_same_peer(self, description: Offer) -> None:
        if frozenset(description.fingerprints) != self._fingerprints:
            raise InvalidSdpError("An ICE restart must keep the DTLS fingerprint of the call.")
        if description.mids != self._mids:
            raise InvalidSdpError("A new offer for a running call must keep its m-sections.")

    def _redirect(self, description: Offer) -> None:
        """Hold or not, as the peer's new description says."""
        if self._options.purpose == "call" and self.stream.is_heard:
            self._is_held = not description.takes_audio
            self.stream.hold(self._is_held)
            self._answer = redirected(self._answer, ANSWERED_WITH[description.direction])

    async def _restart(self, ice: RestartableIce, ufrag: str, pwd: str, candidates: Sequence[str]) -> None:
        async with self._restarting:
            connection = await ice.restart(ufrag, pwd, candidates)
            if self._is_closed:  # meanwhile
                await ice.close()
            self._usernames = [*self._usernames[1 - KNOWN_USERNAMES :], ufrag]
            self._answer = restarted_answer(self._answer, connection)

    def _restarted_fragment(self, ice: RestartableIce, fragment: IceFragment) -> str:
        connection = ice.latest
        audio = self._answer.split("\r\nm=audio ", 1)[1].split("\r\n", 1)[0]
        mids: tuple[str, ...] = ()
        candidates = [ice.best_candidate(connection)]
        if fragment.mid is not None:
            mids, candidates = self._bundle or self._mids, [c.to_sdp() for c in connection.local_candidates]
        return restart_fragment(
            connection.local_username,
            connection.local_password,
            [candidate for candidate in candidates if candidate],
            mids=mids,
            formats=audio.split(" ", 2)[2],
            is_lite=self._options.is_lite,
        )

    def _make_stream(self, negotiated: Negotiated, *, is_heard: bool) -> RtpStream:
        speech = negotiated.speech
        self._coding = speech.name
        return RtpStream(
            self._path,
            self._resources.pacer,
            formats=negotiated.formats,
            make_decoder=create_decoder,
            encoder=create_encoder(speech, self._options.opus),
            use_dtx=speech.parameters.get("usedtx") == "1",
            answer_nacks=negotiated.has_nack,
            obey_remb=negotiated.has_remb,
            transport_sequence_id=negotiated.transport_sequence_id,
            on_error=self.abort,
            is_heard=is_heard,
        )

    # --- aiortc's events

    def _on_channel(self, channel: RTCDataChannel) -> None:
        is_ours = channel.label == CHANNEL_LABEL or self._options.any_channel
        if not is_ours or self._channel is not None or self._options.purpose == "listen":
            channel.close()
            return
        self._channel = channel
        channel.on("message", self._on_message)
        if self._sink is not None:
            self._sink.on_channel_open()

    def _on_message(self, data: str | bytes) -> None:
        if self._sink is not None and not self._ended.done():
            try:
                self._sink.on_message(data, asyncio.get_running_loop().time())
            except Exception as error:  # inside aiortc's event emitter a bug would go unnoticed
                self.abort(error)

    def _on_state(self) -> None:
        state = self._pc.connectionState
        if state == "connected":
            self._setup_timer.cancel()
            if self._sink is not None:
                self._sink.on_connected()
        elif state == "failed":
            self._end("connection_failed")
        elif state == "closed":  # DTLS ends with its connection, in either case
            is_lost = self._ice is not None and self._ice.current.is_lost
            self._end("connection_failed" if is_lost else "peer_closed")

    def _end(self, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)


def _both_ways(description: Offer) -> str:
    """For aiortc, which opens only those directions that it reads at the beginning; a telephone may change them."""
    return redirected(description.sdp, "sendrecv") if description.is_telephone else description.sdp


@contextmanager
def _understood() -> Iterator[None]:
    """aiortc reads the offer in here, and gives up in many ways."""
    try:
        yield
    except (ValueError, LookupError, AssertionError, AttributeError, OperationError) as error:
        raise InvalidSdpError("The SDP offer could not be understood.") from error


def _codec(payload_format: PayloadFormat, negotiated: Negotiated, use_dtx: bool) -> RTCRtpCodecParameters:
    """How aiortc writes a format into the answer."""
    feedback = []
    if payload_format == negotiated.speech:
        agreed = {
            "nack": negotiated.has_nack,
            "transport-cc": negotiated.transport_sequence_id is not None,
            "goog-remb": negotiated.has_remb,
        }
        feedback = [RTCRtcpFeedback(type=name) for name, is_agreed in agreed.items() if is_agreed]
    parameters: dict[str, Any] = {
        name: value or None for name, value in answer_parameters(payload_format, use_dtx=use_dtx).items()
    }
    return RTCRtpCodecParameters(
        mimeType=f"audio/{payload_format.name}",
        clockRate=payload_format.clock_rate,
        channels=payload_format.channels,
        payloadType=payload_format.payload_type,
        rtcpFeedback=feedback,
        parameters=parameters,
    )
