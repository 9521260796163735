"""One call's audio between the wire and the call: SRTP in, 16 kHz PCM out; playout frames in, SRTP out.

Joins the pure parts (`rtp.receiver`, the codecs) to the datagram path, the process's pacer and aiortc's RTCP. It runs
on the event loop, without tasks, threads or queues: a packet is decrypted, ordered, decoded and handed to the sink
in the callback of the socket; a frame is pulled, encoded, encrypted and sent in the pacer's tick.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pylibsrtp import Session

from model.interface import Pcm16
from rtc_server.audio.playout import PlayoutFrame
from rtc_server.codecs.base import AudioDecoder, AudioEncoder, PayloadFormat
from rtc_server.rtp.receiver import AudioReceiver
from rtc_server.rtp.telephone_event import Digit, ToneSender
from rtc_server.rtp.transport_feedback import TransportFeedback, transport_sequence

from .aiortc_media import ntp_now
from .base import MediaTap, TappedCodings
from .pacer import Pacer
from .srtp import BUFFER, MAX_PACKET_BYTES, RTP_HEADER_BYTES, SrtpReceiver, SrtpSender
from .stream_meter import FRAMES, StreamMeter

SETTLE_FRAMES = 5  # silence encoded for real after sound: the encoder's and the decoder's memories run out together
DIGIT_FRAMES = 10  # how often a key whose end was lost is looked for: 200 ms
DTX_FRAMES = 20  # one packet per 400 ms while silent, as libopus does (RFC 7587 section 3.1.3)
KEPT_PACKETS = 32  # 640 ms: older audio has been played or concealed by any peer
SOON_SECONDS = 0.02  # a deadline nearer than the next tick gets a timer of its own
TAPPABLE = ("opus", "PCMU", "PCMA")  # payloads that stand for themselves; those of G.722 need all before them
MAX_PAYLOAD_BYTES = MAX_PACKET_BYTES - RTP_HEADER_BYTES - 32  # 32: authentication tag and MKI

_HEADER = struct.Struct("!BBHII")
_MARKER = 0x80


class DatagramPath(Protocol):
    """Where encrypted packets go and come from: `network.MediaPath`."""

    on_media: Callable[[memoryview, float], None] | None

    def send(self, data: memoryview | bytes) -> None:
        """Send one datagram to the peer; never raises."""


class StreamSink(Protocol):
    """The call, as far as audio is concerned. See `transports.base.MediaSink`."""

    def on_audio(self, pcm: Pcm16, now: float, jitter_buffer_ms: float) -> None: ...

    def on_digit(self, digit: str, now: float) -> None: ...

    def pull_frame(self, now: float, lateness_seconds: float) -> PlayoutFrame: ...


class RtpStream:
    """A binding of both directions, and a paced member. Made before the answer, `attach`ed to the call, ended by
    `close`."""

    def __init__(
        self,
        path: DatagramPath,
        pacer: Pacer,
        *,
        formats: Sequence[PayloadFormat],
        make_decoder: Callable[[PayloadFormat], AudioDecoder],
        encoder: AudioEncoder,
        use_dtx: bool,
        answer_nacks: bool,
        obey_remb: bool,
        transport_sequence_id: int | None,
        on_error: Callable[[Exception], None],
        is_heard: bool = True,
    ) -> None:
        """`is_heard`: the peer takes audio. When it does not, frames are pulled in real time all the same, so that
        replies pass; nobody hears them, unless another stream is the `outlet`."""
        self._path = path
        self._pacer = pacer
        self._encoder = encoder
        self._decoders: list[AudioDecoder] = []
        self._make_decoder = make_decoder
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self._sink: StreamSink | None = None
        self._receiver = AudioReceiver(formats, self._new_decoder, self._emit, self._on_digit)
        self._now = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._srtp_in: SrtpReceiver | None = None
        self._srtp_out: SrtpSender | None = None
        self._add_source: Callable[[int], None] | None = None
        self._source: int | None = None
        self._transport_sequence_id = transport_sequence_id or 0
        self._feedback = None if transport_sequence_id is None else TransportFeedback()
        # sending
        self._ssrc = 0
        self._payload_type = 0
        self._sequence = secrets.randbelow(
            1 << 15
        )  # low: a wrap soon after the start breaks SRTP when packets are lost
        self._timestamp = secrets.randbits(32)
        self._frame_ticks = encoder.rtp_frame_ticks
        self._silent_payload = encoder.silent_payload()
        self._dtx_payload = encoder.dtx_payload() if use_dtx else None
        self._silent_frames = SETTLE_FRAMES  # the first packet is silence already
        self._is_after_gap = True
        self._obeys_remb = obey_remb
        self._is_closed = False
        self._is_heard = is_heard
        self._tap: MediaTap | None = None
        self._is_held = False
        tones = [f for f in formats if f.name == "telephone-event" and f.clock_rate == encoder.rtp_clock_rate]
        self._tones = ToneSender(encoder.rtp_clock_rate) if tones and is_heard else None
        self._tone_type = tones[0].payload_type if tones else 0
        self._tone_timestamp = 0
        self.outlet: RtpStream | None = None
        """The stream that pulls the sink's frames, while it is sending, in place of a peer that takes no audio."""
        # (sequence number, protected packet); only kept for a peer that may ask for it again
        self._sent: list[tuple[int, bytes]] | None = [(-1, b"")] * KEPT_PACKETS if answer_nacks else None
        self.packets_sent = 0
        self.octets_sent = 0
        self.latest_rtp_timestamp = 0
        self.latest_sent_ntp = 0
        self.skipped_frames = 0
        """Frames that were never sent because the process was stalled."""
        self.remote_fraction_lost = 0.0
        """Share of our packets that the peer lost, from its latest report."""
        self.remote_jitter_ms = 0.0
        self.round_trip_seconds: float | None = None
        self._meter = StreamMeter()
        self._ticks = 0

    @property
    def playout_sample_rate(self) -> int:
        """Rate in Hz of the frames that it pulls: what the encoder takes."""
        return self._encoder.sample_rate

    @property
    def is_heard(self) -> bool:
        """The peer takes audio."""
        return self._is_heard

    @property
    def is_sending(self) -> bool:
        """Its peer is connected and takes what is pulled."""
        return self._srtp_out is not None and not self._is_closed

    @property
    def receiver(self) -> AudioReceiver:
        """For its statistics."""
        return self._receiver

    @property
    def rejected_packets(self) -> int:
        """Packets from the validated address that were forged, replayed or of too many sources."""
        return 0 if self._srtp_in is None else self._srtp_in.rejected + self._srtp_in.excess_sources

    def attach(self, sink: StreamSink) -> None:
        """Audio goes to and comes from `sink` from now on."""
        self._sink = sink

    def detach(self) -> None:
        """Silence is sent from now on, and what comes in is dropped."""
        self._sink = None

    def tap(self, tap: MediaTap | None, coding: str) -> TappedCodings:
        """See `MediaTransport.tap`. What the peer sends in another codec than `coding`, the one agreed, is left out."""
        if tap is None or coding not in TAPPABLE:
            self._tap = self._receiver.on_payload = None
            return TappedCodings()

        def on_payload(payload_format: PayloadFormat, timestamp: int, payload: bytes) -> None:
            if payload_format.name == coding:
                tap.on_received(payload, timestamp, self._now)

        self._receiver.on_payload = on_payload
        self._tap = tap if self._is_heard else None
        return TappedCodings(coding, coding if self._is_heard else None)

    def close(self) -> None:
        """Stop both directions and free the codecs. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._meter.update(self)
        self.stop_receiving()
        self.stop_sending()
        for decoder in self._decoders:
            decoder.close()
        self._encoder.close()

    def hold(self, is_held: bool) -> None:
        """While held, no frame is pulled, so a reply stops at its sample and goes on there; nothing is sent, and what
        comes in is not heard: it is music. Only for a peer that takes audio otherwise."""
        self._is_held = is_held
        self._is_after_gap = True

    def fill_input(self, now: float) -> None:
        """See `MediaTransport.fill_input`; inside the sink's `pull_frame`."""
        self._now = now
        self._receiver.fill(now)

    # --- ReceiveBinding and SendBinding

    @property
    def remote_streams(self) -> dict[int, Any]:
        source = self._receiver.source
        return {} if source is None else {source: self._receiver.reception}

    def start_receiving(self, session: Session, add_source: Callable[[int], None]) -> None:
        self._srtp_in = SrtpReceiver(session)
        self._add_source = add_source
        self._path.on_media = self._on_datagram
        if not self._is_heard:
            self._pacer.add(self)

    def receive_plain(self, packet: bytes) -> None:
        self._receive(packet, self._loop.time())

    def stop_receiving(self) -> None:
        self._path.on_media = None
        if not self._is_heard:
            self._pacer.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def start_sending(self, session: Session, ssrc: int, payload_type: int) -> None:
        self._srtp_out = SrtpSender(session)
        self._ssrc, self._payload_type = ssrc, payload_type
        self._pacer.add(self)

    def stop_sending(self) -> None:
        self._pacer.discard(self)
        self._srtp_out = None

    def on_receiver_report(self, fraction_lost: float, jitter_ticks: int, round_trip_seconds: float | None) -> None:
        self.remote_fraction_lost = fraction_lost
        self.remote_jitter_ms = jitter_ticks * 1_000 / self._encoder.rtp_clock_rate
        self.round_trip_seconds = round_trip_seconds
        self._meter.reported(fraction_lost, self.remote_jitter_ms, round_trip_seconds)
        self._encoder.report_loss(fraction_lost)

    def retransmit(self, sequence: int) -> None:
        """The peer misses a packet (RFC 4585 section 6.2.1): send it again if it is recent, byte for byte."""
        if self._sent is not None:
            kept, packet = self._sent[sequence % KEPT_PACKETS]
            if kept == sequence:
                self._path.send(packet)

    def limit_bitrate(self, bits_per_second: int) -> None:
        """The peer's estimate of what it can receive, without packet overhead: caps the encoder, down to its minimum.
        Zero is no estimate."""
        if self._obeys_remb and bits_per_second > 0 and not self._is_closed:
            try:
                self._encoder.set_max_bitrate(bits_per_second)
            except Exception as error:  # in aiortc's task it would end DTLS without a word to the call
                self._on_error(error)

    # --- receiving

    def _new_decoder(self, payload_format: PayloadFormat) -> AudioDecoder:
        decoder = self._make_decoder(payload_format)
        self._decoders.append(decoder)
        return decoder

    def _on_datagram(self, data: memoryview, now: float) -> None:
        assert self._srtp_in is not None
        packet = self._srtp_in.unprotect(data)
        if packet is not None:
            self._receive(packet, now)

    def _receive(self, packet: bytes, now: float) -> None:
        if self._is_closed:
            return None
        self._now = now
        if self._feedback is not None:
            sequence = transport_sequence(packet, self._transport_sequence_id)
            if sequence is not None:
                self._feedback.add(sequence, now)
        try:
            self._receiver.receive(memoryview(packet), now)
        except Exception as error:  # the event loop would only log it: the call must end, and only this call
            return self._on_error(error)
        source = self._receiver.source
        if source != self._source:
            self._source = source
            if source is not None and self._add_source is not None:
                self._add_source(source)
        if self._timer is None:
            deadline = self._receiver.next_deadline()
            if deadline is not None and deadline < now + SOON_SECONDS:
                self._timer = self._loop.call_at(deadline, self._on_deadline)
        return None

    def _on_deadline(self) -> None:
        self._timer = None
        self._advance(self._loop.time())

    def _advance(self, now: float) -> None:
        deadline = self._receiver.next_deadline()
        if deadline is None or deadline > now:
            return
        self._now = now
        try:
            self._receiver.handle_deadline(now)
        except Exception as error:  # as above
            self._on_error(error)

    def _emit(self, pcm: Pcm16, delay_ms: float) -> None:
        self._meter.emitted(delay_ms)
        if self._sink is not None and not self._is_held:
            self._sink.on_audio(pcm, self._now, delay_ms)

    def _on_digit(self, digit: Digit) -> None:
        if self._sink is not None:
            self._sink.on_digit(digit.digit, self._now)

    # --- sending

    def send_digits(self, digits: str, duration_ms: int, gap_ms: int) -> bool:
        """See `MediaTransport.send_digits`."""
        if self._tones is None:
            return False
        self._tones.add(digits, duration_ms, gap_ms)
        return True

    def tick(self, now: float, due: float, skipped_frames: int) -> None:
        """See `Paced`: one frame."""
        if self._is_closed:
            return None
        self._ticks += 1
        if self._ticks % FRAMES == 0:
            self._meter.update(self)
        if self._ticks % DIGIT_FRAMES == 0:
            self._flush_digits(now)
        if self._srtp_out is None:
            return self._pull_unheard(now, max(0.0, now - due))
        self._timestamp = (self._timestamp + self._frame_ticks * (1 + skipped_frames)) & 0xFFFFFFFF
        if skipped_frames:
            self.skipped_frames += skipped_frames
            self._is_after_gap = True
        self._advance(now)
        if self._is_held:
            return None
        if self._tones is not None and self._tones.is_active:
            return self._send_tones(self._srtp_out, self._tones)
        try:
            payload = self._next_payload(now, max(0.0, now - due))
        except Exception as error:  # the pacer would only log it
            return self._on_error(error)
        if payload is None:
            self._is_after_gap = True
        elif self._srtp_out is not None:  # the sink may have ended the call
            if self._tap is not None:
                self._tap.on_sent(payload, self._timestamp, now)
            self._send(self._srtp_out, payload)
        if self._feedback is not None:
            self._send_feedback(self._feedback, now)
        return None

    def _flush_digits(self, now: float) -> None:
        self._now = now
        try:
            self._receiver.flush_digits(now)
        except Exception as error:  # the pacer would only log it
            self._on_error(error)

    def _pull_unheard(self, now: float, lateness_seconds: float) -> None:
        self._advance(now)
        if self._sink is None or (self.outlet is not None and self.outlet.is_sending):
            return
        try:
            self._sink.pull_frame(now, lateness_seconds)
        except Exception as error:  # the pacer would only log it
            self._on_error(error)

    def _send_feedback(self, feedback: TransportFeedback, now: float) -> None:
        """Tell the peer when its packets arrived, if it is time to; about the voice that is heard, as browsers drop
        feedback on a source that they do not know."""
        if self._source is None or self._srtp_out is None:
            return
        for packet in feedback.build(now, self._ssrc, self._source):
            protected = self._srtp_out.protect_rtcp(packet)
            if protected is not None:
                self._path.send(protected)

    def _next_payload(self, now: float, lateness_seconds: float) -> bytes | None:
        """What to send for this frame; None when nothing is (discontinuous transmission)."""
        if self._sink is None:
            return self._silent_payload
        frame = self._sink.pull_frame(now, lateness_seconds)
        if frame.payload is not None:
            self._silent_frames = 0
            return frame.payload if len(frame.payload) <= MAX_PAYLOAD_BYTES else self._silent_payload
        if not frame.is_silence:
            self._silent_frames = 0
            return self._encoder.encode(frame.pcm)
        self._silent_frames += 1
        past_settling = self._silent_frames - SETTLE_FRAMES - 1
        if past_settling < 0:
            return self._encoder.encode(frame.pcm)
        if self._dtx_payload is None:
            return self._silent_payload
        return self._dtx_payload if past_settling % DTX_FRAMES == 0 else None

    def _send_tones(self, srtp: SrtpSender, tones: ToneSender) -> None:
        """In place of voice, which waits: a frame is not pulled, so nothing of a reply is lost."""
        for packet in tones.next():
            if packet.is_first:
                self._tone_timestamp = self._timestamp
            marker = _MARKER if packet.is_first else 0
            self._send_packet(srtp, packet.payload, self._tone_type | marker, self._tone_timestamp)
        self._is_after_gap = True

    def _send(self, srtp: SrtpSender, payload: bytes) -> None:
        marker_and_type = self._payload_type
        if self._is_after_gap:
            marker_and_type |= _MARKER
            self._is_after_gap = False
        self._send_packet(srtp, payload, marker_and_type, self._timestamp)

    def _send_packet(self, srtp: SrtpSender, payload: bytes, marker_and_type: int, timestamp: int) -> None:
        length = RTP_HEADER_BYTES + len(payload)
        _HEADER.pack_into(BUFFER, 0, 0x80, marker_and_type, self._sequence, timestamp, self._ssrc)
        BUFFER[RTP_HEADER_BYTES:length] = payload
        protected = srtp.protect(length)
        if protected is None:
            return
        self._path.send(protected)
        if self._sent is not None:
            self._sent[self._sequence % KEPT_PACKETS] = (self._sequence, bytes(protected))
        self._sequence = (self._sequence + 1) & 0xFFFF
        self.packets_sent += 1
        self.octets_sent += len(payload)
        self.latest_rtp_timestamp = self._timestamp
        self.latest_sent_ntp = ntp_now()
