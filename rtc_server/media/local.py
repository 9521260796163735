"""The node that is this process: its registry, its sockets, its pacer. What a worker process hosts."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rtc_server import logs
from rtc_server.calls.call import Call
from rtc_server.calls.early_media import read_early_media
from rtc_server.calls.registry import CallRegistry
from rtc_server.calls.snapshot_timer import SaveSnapshot
from rtc_server.calls.turn_records import TurnRecord
from rtc_server.codecs.opus import OpusOptions
from rtc_server.config import Settings
from rtc_server.errors import ApiError, CallNotFoundError
from rtc_server.inference.client import EngineClient
from rtc_server.network.sockets import MediaSockets
from rtc_server.realtime.session import SessionConfig
from rtc_server.recording.store import RecordingStore
from rtc_server.transports.fragments import IceFragment, IceUpdate
from rtc_server.transports.pacer import Pacer
from rtc_server.transports.sdp import Offer
from rtc_server.transports.webrtc import MediaResources, WebRtcOptions, WebRtcTransport
from rtc_server.transports.websocket import Sideband, SocketPeer, WebSocketTransport
from rtc_server.turns.judge import NoTurnJudge, TurnJudgeFactory
from rtc_server.turns.vad import VadFactory

from .channels import Line, WindowedChannel
from .listeners import Listeners
from .node import (
    Answer,
    Channel,
    ChannelPeer,
    ChannelRequest,
    ListenRequest,
    NodeLoad,
    NodeStatus,
    OfferRequest,
    OutgoingRequest,
)
from .offered import OfferedCall, follow

ECHO_SAMPLE_RATE = 16_000  # what was received is sent: nothing above 8 kHz is in it
KEPT_TURNS = 200  # of all calls together: minutes of a busy process, hours of a quiet one
MAX_SETUPS = 2  # calls set up at once: each costs 20 ms of CPU, in pieces that must fit between the ticks of the others


class LocalNode:
    """A `MediaNode`. Made on the event loop that its calls run on."""

    def __init__(
        self,
        settings: Settings,
        engine: EngineClient,
        make_vad: VadFactory,
        tasks: asyncio.TaskGroup,
        *,
        make_judge: TurnJudgeFactory = NoTurnJudge,
        port_offset: int = 0,
        on_end: Callable[[str], None] | None = None,
        save_snapshot: SaveSnapshot | None = None,
    ) -> None:
        """`port_offset`: number of this node among those of the machine, added to a fixed shared port; `on_end` gets
        the id of every call that is over; `save_snapshot` what of a call could go on in another."""
        webrtc = settings.webrtc
        self._settings = settings
        self._engine = engine
        self._turns: deque[TurnRecord] = deque(maxlen=KEPT_TURNS)
        self._early_media = read_early_media(settings.sip.early_media)
        self._recordings = RecordingStore(settings.recording) if settings.recording.enabled else None
        self.registry = CallRegistry(
            settings,
            engine,
            make_vad,
            tasks,
            on_end=self._on_end,
            make_judge=make_judge,
            on_turn=self._turns.append,
            save_snapshot=save_snapshot,
            recordings=self._recordings,
        )
        port = webrtc.udp_port + port_offset if webrtc.udp_port else 0
        port_range = None if not webrtc.udp_port_range else (webrtc.udp_port_range[0], webrtc.udp_port_range[1])
        self._resources = MediaResources(MediaSockets(port=port, port_range=port_range), Pacer())
        self._transports: dict[str, WebRtcTransport] = {}
        self._offered: dict[str, OfferedCall] = {}  # ringing; bounded by who dials, `sip.service`
        self._tell_end = on_end
        self._tasks = tasks
        self._listeners = Listeners(tasks, on_end)
        self._setups = asyncio.Semaphore(MAX_SETUPS)

    @property
    def load(self) -> NodeLoad:
        registry = self.registry
        return NodeLoad(len(registry), self._engine.is_ready, registry.underruns, registry.played_seconds)

    def carries(self, call_id: str) -> bool:
        """See `MediaNode`."""
        return call_id in self.registry or call_id in self._listeners or call_id in self._offered

    async def answer(self, request: OfferRequest) -> Answer:
        """See `MediaNode`. The slot is taken first and given back if anything goes wrong on the way."""
        slot = self.registry.reserve()
        try:
            async with self._setups:
                transport, sdp = await self._set_up(request.offer, self._options(request))
            early = self._early_media if request.is_ringing else None
            try:
                call = slot.start(transport, request.kind, request.options, request.call_id, early)
            except BaseException:  # nobody else knows this transport yet
                await transport.close()
                raise
        finally:
            slot.release()
        self._transports[call.call_id] = transport
        return Answer(call.call_id, sdp, transport.ice_tag)

    async def offer(self, request: OutgoingRequest) -> str:
        """See `MediaNode`. It holds no slot while it rings."""
        self.registry.reserve().release()  # raises where there is none: why ring then
        transport = WebRtcTransport(self._options(request), self._resources)
        try:
            async with self._setups:
                sdp = await transport.offer()
        except BaseException:  # cancelled or failed: nobody else knows this transport yet
            await transport.close()
            raise
        self._offered[request.call_id] = OfferedCall(request, transport, lambda: self._forget(request.call_id))
        return sdp

    async def accept_answer(self, call_id: str, answer: Offer) -> str:
        """See `MediaNode`."""
        offered = self._offered.get(call_id)
        if offered is None or offered.is_answered:
            raise CallNotFoundError(f"There is no call '{call_id[:64]}'.")
        offered.is_answered = True
        transport = offered.transport
        try:
            slot = self.registry.reserve()
            try:
                await transport.accept_answer(answer)
                call = slot.start(transport, offered.request.kind, offered.request.options, call_id)
            finally:
                slot.release()
        except BaseException as error:  # nobody else knows this transport
            del self._offered[call_id]
            await offered.close(error.code if isinstance(error, ApiError) else "internal_error")
            raise
        del self._offered[call_id]
        self._transports[call_id] = transport
        offered.begin(call)
        return call_id

    async def listen(self, request: ListenRequest) -> Answer:
        """See `MediaNode`. It needs no slot: a call has one listener at most, and ends it."""
        call, heard = self.registry.get(request.call_id), self._transport(request.call_id)
        with self._listeners.place(call.call_id, heard) as place:
            rate = heard.playout_sample_rate
            async with self._setups:
                transport, sdp = await self._set_up(request.offer, self._listener_options(request, rate))
            listener_id = await place.take(transport, call)
        return Answer(listener_id, sdp, transport.ice_tag)

    async def update_ice(self, call_id: str, fragment: IceFragment, if_match: str | None) -> IceUpdate:
        """See `MediaNode`."""
        return await self._transport(call_id).update_ice(fragment, if_match)

    async def open_channel(self, request: ChannelRequest, peer: ChannelPeer) -> Channel:
        """See `MediaNode`."""
        channel = WindowedChannel(peer)
        channel.connect(*self.join(request, channel))
        return channel

    def join(self, request: ChannelRequest, peer: SocketPeer) -> tuple[str, Line]:
        """The id of a new or running call, and the call's end of a channel to it. Raises like `open_channel`."""
        if request.call_id is None:
            return self._start(request, peer)
        sideband = Sideband(peer, self._resources.pacer)
        offered = self._offered.get(request.call_id)
        if offered is not None:
            offered.join(sideband)
        else:
            follow(self.registry.get(request.call_id), sideband)
        return request.call_id, sideband

    async def renegotiate(self, call_id: str, offer: Offer, if_match: str | None = None) -> str:
        """See `MediaNode`."""
        transport = self._transport(call_id)
        was_held = transport.is_held
        answer = await transport.renegotiate(offer, if_match)
        await self._tell_hold(call_id, transport, was_held)
        return answer

    async def reoffer(self, call_id: str) -> str:
        """See `MediaNode`."""
        return self._transport(call_id).reoffer()

    async def reanswer(self, call_id: str, answer: Offer) -> None:
        """See `MediaNode`."""
        transport = self._transport(call_id)
        was_held = transport.is_held
        transport.reanswer(answer)
        await self._tell_hold(call_id, transport, was_held)

    async def begin(self, call_id: str, session: SessionConfig | None) -> None:
        """See `MediaNode`."""
        call = self.registry.get(call_id)
        if isinstance(call, Call):
            call.begin(session)

    async def press(self, call_id: str, digit: str) -> None:
        """See `MediaNode`."""
        self.registry.get(call_id).on_digit(digit, asyncio.get_running_loop().time())

    async def tell(self, call_id: str, kind: str, fields: Mapping[str, object]) -> None:
        """See `MediaNode`."""
        if call_id in self._offered:
            self._offered[call_id].tell(kind, fields)
            return
        call = self.registry.get(call_id)
        if isinstance(call, Call):
            call.tell(kind, **fields)

    async def add_candidates(self, call_id: str, candidates: tuple[str, ...]) -> None:
        """See `MediaNode`."""
        await self._transport(call_id).add_candidates(candidates)

    async def hang_up(self, call_id: str) -> None:
        """See `MediaNode`."""
        if call_id in self._listeners:
            await self._listeners.hang_up(call_id)
        elif call_id in self._offered and not self._offered[call_id].is_answered:
            await self._offered.pop(call_id).close("hangup")
        else:
            await self.registry.get(call_id).hang_up()

    async def hand_over(self, call_id: str) -> bytes | None:
        """See `MediaNode`."""
        return await self.registry.hand_over(call_id)

    async def metrics(self) -> bytes:
        """See `MediaNode`: this process's own registry has them."""
        return b""

    async def status(self) -> NodeStatus:
        """See `MediaNode`."""
        now = asyncio.get_running_loop().time()
        return NodeStatus(tuple(self.registry.status(now)), tuple(self._turns))

    async def use_settings(self, settings: Settings) -> None:
        """See `MediaNode`."""
        self._settings = settings
        self.registry.use_settings(settings)
        logs.configure(settings.logging)

    async def announce_drain(self, seconds: float) -> None:
        """See `MediaNode`."""
        self.registry.announce_drain(seconds)

    async def finish_replies(self, timeout_seconds: float) -> None:
        """See `MediaNode`."""
        await self.registry.finish_replies(timeout_seconds)

    async def close(self, timeout_seconds: float) -> None:
        """See `MediaNode`."""
        await self.registry.close(timeout_seconds)
        await self._listeners.close()
        for offered in [offered for offered in self._offered.values() if not offered.is_answered]:
            del self._offered[offered.request.call_id]
            await offered.close("shutdown")
        self._resources.close()
        if self._recordings is not None:
            await asyncio.to_thread(self._recordings.close)

    def _start(self, request: ChannelRequest, peer: SocketPeer) -> tuple[str, Line]:
        slot = self.registry.reserve()
        try:
            transport = WebSocketTransport(peer, self._resources.pacer, is_binary=request.is_binary)
            call = slot.start(transport, "conversation", request.options)
        finally:
            slot.release()
        return call.call_id, transport

    def _forget(self, call_id: str) -> None:
        """Signaling gave up while it asked for the offer, so that nobody will answer it or hang up."""
        offered = self._offered.get(call_id)
        if offered is not None and not offered.is_answered:
            del self._offered[call_id]
            self._tasks.create_task(offered.close("setup_timeout"), name=f"forget-{call_id}")
            if self._tell_end is not None:
                self._tell_end(call_id)

    def _on_end(self, call_id: str) -> None:
        self._transports.pop(call_id, None)
        self._listeners.end_of(call_id)
        if self._tell_end is not None:
            self._tell_end(call_id)

    def _transport(self, call_id: str) -> WebRtcTransport:
        transport = self._transports.get(call_id) or self._listeners.transport(call_id)
        if transport is None:
            raise CallNotFoundError(f"There is no call '{call_id[:64]}'.")
        return transport

    async def _tell_hold(self, call_id: str, transport: WebRtcTransport, was_held: bool) -> None:
        if transport.is_held != was_held and call_id in self.registry:
            await self.tell(call_id, "rtc_server.call.held" if transport.is_held else "rtc_server.call.resumed", {})

    def _options(self, request: OfferRequest | OutgoingRequest) -> WebRtcOptions:
        rate = ECHO_SAMPLE_RATE if request.kind == "echo" else self._settings.audio.sample_rate
        # Pipecat's clients name the channel as they like.
        return self._webrtc_options(request.host_addresses, rate, any_channel=request.options.dialect == "rtvi")

    def _listener_options(self, request: ListenRequest, sample_rate: int) -> WebRtcOptions:
        return self._webrtc_options(request.host_addresses, sample_rate, purpose="listen")

    def _webrtc_options(self, host_addresses: tuple[str, ...], sample_rate: int, **more: Any) -> WebRtcOptions:
        webrtc, audio = self._settings.webrtc, self._settings.audio
        return WebRtcOptions(
            host_addresses=host_addresses,
            external_addresses=webrtc.external_addresses,
            ice_servers=webrtc.ice_servers,
            is_lite=webrtc.ice_lite,
            setup_timeout_seconds=self._settings.server.setup_timeout_seconds,
            opus=OpusOptions(sample_rate, audio.opus_mode, audio.opus_bitrate),
            use_dtx=audio.dtx,
            **more,
        )

    async def _set_up(self, offer: Offer, options: WebRtcOptions) -> tuple[WebRtcTransport, str]:
        transport = WebRtcTransport(options, self._resources)
        try:
            return transport, await transport.answer(offer)
        except BaseException:  # cancelled or failed: nobody else knows this transport yet
            await transport.close()
            raise
