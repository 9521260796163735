"""A media node in a process of its own: started, asked, restarted with back-off when it dies.

What is known of its calls here is what is being set up, or was answered and has not ended, so admission never waits for
a message.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from rtc_server import metrics
from rtc_server.calls.snapshot_timer import SaveSnapshot
from rtc_server.config import Settings
from rtc_server.errors import CallEndedError, NotReadyError
from rtc_server.inference.wire import FrameReader, encode
from rtc_server.realtime.session import SessionConfig
from rtc_server.transports.fragments import IceFragment, IceUpdate
from rtc_server.transports.sdp import Offer

from .channels import WindowedChannel
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
from .wire import ChannelClosed, ChannelData, ChannelRead, ConfigureWorker, Reply, Request, SnapshotChanged, WorkerLoad

log = logging.getLogger(__name__)

READ_BYTES = 1 << 16
FIRST_BACKOFF_SECONDS = 0.2
MAX_BACKOFF_SECONDS = 10.0
STABLE_SECONDS = 30.0
REQUEST_TIMEOUT_SECONDS = 20.0  # longer than the slowest set-up
PINGS_IN_A_ROW = 2  # unanswered: after a stall of this process itself the first is late though its answer lies there
WORKER_LOST = "media_worker_lost"
INTERNAL_ERROR = 1011  # WebSocket close code
LOST_CALLS_KEPT = 1_024  # ids of calls that died with their worker: the client is told 410 instead of 404


class ProcessNode:
    """A `MediaNode`. `start` it once; it keeps a worker alive until `close`."""

    def __init__(
        self,
        settings: Settings,
        index: int,
        engine_path: str,
        save_snapshot: SaveSnapshot | None = None,
        on_end: Callable[[str], None] | None = None,
    ) -> None:
        """`on_end` gets the id of every call that is over."""
        self.index = index
        self.restarts = 0
        """How often the worker was lost and started again."""
        self._settings = settings
        self._engine_path = engine_path
        self._save_snapshot = save_snapshot
        self._on_end = on_end
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._calls: set[str] = set()
        self._offered: set[str] = set()  # what we offered and nobody has answered yet: each is hung up or answered
        self._listeners: set[str] = set()
        self._underruns = 0
        self._played_seconds = 0.0
        self._lost: OrderedDict[str, None] = OrderedDict()
        self._replies: dict[int, asyncio.Future[Any]] = {}
        # By the request that starts a call, until it is answered: its id, from the result. Each holds a place.
        self._new_calls: dict[int, Callable[[Any], str]] = {}
        self._channels: dict[int, WindowedChannel] = {}
        self._next_number = 0
        self._is_ready = False
        self._ready = asyncio.Event()
        self._closing = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the worker while it runs."""
        return None if self._process is None else self._process.pid

    @property
    def load(self) -> NodeLoad:
        calls = len(self._calls) + len(self._new_calls)
        return NodeLoad(calls, self._is_ready, self._underruns, self._played_seconds)

    def holds(self, call_id: str) -> bool:
        """The call is here, or was here and was lost."""
        return call_id in self._calls or call_id in self._lost

    def start(self) -> None:
        """Begin to keep a worker alive."""
        self._supervisor = asyncio.create_task(self._supervise(), name=f"media-worker-{self.index}")

    async def wait_ready(self) -> None:
        """Until it takes calls for the first time."""
        await self._ready.wait()

    def carries(self, call_id: str) -> bool:
        """See `MediaNode`."""
        return call_id in self._calls or call_id in self._listeners or call_id in self._offered

    async def answer(self, request: OfferRequest) -> Answer:
        """See `MediaNode`."""
        answer: Answer = await self._ask("answer", request, new_call=lambda answer: str(answer.call_id))
        return answer

    async def open_channel(self, request: ChannelRequest, peer: ChannelPeer) -> Channel:
        """See `MediaNode`."""
        if request.call_id is not None:
            self._check_not_lost(request.call_id)
        self._next_number += 1
        number = self._next_number
        channel = self._channels[number] = WindowedChannel(peer, lambda: self._forget_channel(number))
        new_call = str if request.call_id is None else None
        try:
            call_id = await self._ask("open_channel", number, request, new_call=new_call)
        except BaseException:  # refused, or nobody waits any more: the worker may have opened it
            channel.close()
            self._write(ChannelClosed(number))
            raise
        channel.connect(call_id, _RemoteLine(number, self._write))
        return channel

    async def offer(self, request: OutgoingRequest) -> str:
        """See `MediaNode`."""
        sdp = str(await self._ask("offer", request))
        self._offered.add(request.call_id)
        return sdp

    async def accept_answer(self, call_id: str, answer: Offer) -> str:
        """See `MediaNode`."""
        try:
            return str(await self._ask("accept_answer", call_id, answer, new_call=str))
        finally:
            self._offered.discard(call_id)

    async def listen(self, request: ListenRequest) -> Answer:
        """See `MediaNode`."""
        self._check_not_lost(request.call_id)
        answer: Answer = await self._ask("listen", request)
        self._listeners.add(answer.call_id)
        return answer

    async def update_ice(self, call_id: str, fragment: IceFragment, if_match: str | None) -> IceUpdate:
        """See `MediaNode`."""
        update: IceUpdate = await self._ask_about(call_id, "update_ice", fragment, if_match)
        return update

    async def renegotiate(self, call_id: str, offer: Offer, if_match: str | None = None) -> str:
        """See `MediaNode`."""
        return str(await self._ask_about(call_id, "renegotiate", offer, if_match))

    async def reoffer(self, call_id: str) -> str:
        """See `MediaNode`."""
        return str(await self._ask_about(call_id, "reoffer"))

    async def reanswer(self, call_id: str, answer: Offer) -> None:
        """See `MediaNode`."""
        await self._ask_about(call_id, "reanswer", answer)

    async def begin(self, call_id: str, session: SessionConfig | None) -> None:
        """See `MediaNode`."""
        await self._ask_about(call_id, "begin", session)

    async def press(self, call_id: str, digit: str) -> None:
        """See `MediaNode`."""
        await self._ask_about(call_id, "press", digit)

    async def tell(self, call_id: str, kind: str, fields: Mapping[str, object]) -> None:
        """See `MediaNode`."""
        await self._ask_about(call_id, "tell", kind, dict(fields))

    async def add_candidates(self, call_id: str, candidates: tuple[str, ...]) -> None:
        """See `MediaNode`."""
        await self._ask_about(call_id, "add_candidates", candidates)

    async def hang_up(self, call_id: str) -> None:
        """See `MediaNode`."""
        self._offered.discard(call_id)
        await self._ask_about(call_id, "hang_up")

    async def hand_over(self, call_id: str) -> bytes | None:
        """See `MediaNode`."""
        snapshot: bytes | None = await self._ask_about(call_id, "hand_over")
        return snapshot

    async def metrics(self) -> bytes:
        """See `MediaNode`."""
        return bytes(await self._ask("metrics"))

    async def status(self) -> NodeStatus:
        """See `MediaNode`."""
        status: NodeStatus = await self._ask("status")
        return status

    async def use_settings(self, settings: Settings) -> None:
        """See `MediaNode`. A worker that is being started again begins with them."""
        self._settings = settings
        await self._ask("use_settings", settings)

    async def announce_drain(self, seconds: float) -> None:
        """See `MediaNode`."""
        await self._ask("announce_drain", seconds)

    async def finish_replies(self, timeout_seconds: float) -> None:
        """See `MediaNode`."""
        await self._ask("finish_replies", timeout_seconds, wait=timeout_seconds + REQUEST_TIMEOUT_SECONDS)

    async def close(self, timeout_seconds: float) -> None:
        """See `MediaNode`."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._writer is not None:
            with suppress(NotReadyError, RuntimeError, TimeoutError):
                async with asyncio.timeout(timeout_seconds + 1.0):
                    await self._ask("close", timeout_seconds, wait=timeout_seconds + 1.0)
            if self._writer is not None:
                self._writer.close()
        if self._supervisor is not None:
            done, _ = await asyncio.wait({self._supervisor}, timeout=3.0)
            if not done and self._process is not None:
                with suppress(ProcessLookupError):
                    self._process.kill()
            await asyncio.gather(self._supervisor, return_exceptions=True)

    def _forget_channel(self, number: int) -> None:
        self._channels.pop(number, None)

    # --- requests

    async def _ask_about(self, call_id: str, method: str, *arguments: object) -> Any:
        self._check_not_lost(call_id)
        return await self._ask(method, call_id, *arguments)

    def _check_not_lost(self, call_id: str) -> None:
        if call_id in self._lost:
            raise CallEndedError("The media worker that carried this call was lost, and the call with it.")

    async def _ask(
        self,
        method: str,
        *arguments: object,
        new_call: Callable[[Any], str] | None = None,
        wait: float = REQUEST_TIMEOUT_SECONDS,
    ) -> Any:
        writer = self._writer
        if writer is None or writer.is_closing():
            raise NotReadyError("A media worker is being restarted; try again in a moment.", retry_after=1)
        self._next_number += 1
        number = self._next_number
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        if new_call is not None:
            self._new_calls[number] = new_call
        try:
            writer.write(encode(Request(number, method, arguments)))
            async with asyncio.timeout(wait):
                return await reply
        except TimeoutError:
            raise NotReadyError("A media worker does not answer; try again in a moment.", retry_after=5) from None
        finally:
            self._replies.pop(number, None)
            self._new_calls.pop(number, None)

    def _write(self, message: object) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(message))

    # --- supervision

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = FIRST_BACKOFF_SECONDS
        while not self._closing.is_set():
            started = loop.time()
            try:
                await self._run_once()
            except OSError:
                log.exception("a media worker cannot be started", extra={"worker": self.index})
            if self._closing.is_set():
                return
            if loop.time() - started >= STABLE_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            self.restarts += 1
            metrics.MEDIA_WORKER_RESTARTS.inc()
            log.error("media worker lost, restarting", extra={"worker": self.index, "backoff_seconds": backoff})
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), backoff)
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)

    async def _run_once(self) -> None:
        ours, theirs = socket.socketpair()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        frames = FrameReader()
        watch = asyncio.create_task(self._watch(self._writer), name=f"media-worker-watch-{self.index}")
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "rtc_server.media.worker",
                    str(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                )
            self._writer.write(encode(ConfigureWorker(self._settings, self.index, self._engine_path)))
            while True:
                try:
                    data = await reader.read(READ_BYTES)
                except OSError:
                    break
                if not data:
                    break
                for message in frames.feed(data):
                    self._handle(message)
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            writer, self._writer = self._writer, None
            writer.close()
            self._lose_calls()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
            await self._reap()

    async def _watch(self, writer: asyncio.StreamWriter) -> None:
        """Ask the worker's event loop whether it goes on, and end a worker that has not answered for the time set. From
        its first answer on: how long it takes to start is the machine's business."""
        interval = self._settings.server.media_worker_timeout_seconds / (PINGS_IN_A_ROW + 1)
        has_started, num_unanswered = False, 0
        while num_unanswered < PINGS_IN_A_ROW:
            await asyncio.sleep(interval)
            try:
                async with asyncio.timeout(interval if has_started else None):
                    await self._ask("ping")
                has_started, num_unanswered = True, 0
            except TimeoutError:
                num_unanswered += 1
            except NotReadyError:  # gone, or has not started yet
                if writer.is_closing():
                    return
        log.error("a media worker stands still and is ended", extra={"worker": self.index})
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def _handle(self, message: object) -> None:
        match message:
            case Reply(number, result, failure):
                reply = self._replies.get(number)
                if reply is not None and not reply.done():
                    # Here and not where it is waited for: a call's end may be the very next message, and until the
                    # task that waits goes on, the call must neither be missed nor be counted twice.
                    call_id_of = self._new_calls.pop(number, None)
                    if failure is None:
                        if call_id_of is not None:
                            self._calls.add(call_id_of(result))
                        reply.set_result(result)
                    else:
                        reply.set_exception(failure.error())
            case ChannelData(number, data):
                if number in self._channels:
                    self._channels[number].on_data(data)
            case ChannelRead(number, size):
                if number in self._channels:
                    self._channels[number].on_read(size)
            case ChannelClosed(number, code, reason):
                if number in self._channels:
                    self._channels[number].on_closed(code, reason)
            case SnapshotChanged(key, owner, data):
                if self._save_snapshot is not None:
                    self._save_snapshot(key, owner, data)
            case WorkerLoad(is_ready, ended, underruns, played_seconds):
                self._is_ready = is_ready
                self._underruns, self._played_seconds = underruns, played_seconds
                if is_ready:
                    self._ready.set()
                self._calls.difference_update(ended)
                self._offered.difference_update(ended)
                self._listeners.difference_update(ended)
                self._tell_ended(ended)

    def _lose_calls(self) -> None:
        self._is_ready = False
        self._underruns, self._played_seconds = 0, 0.0  # the next worker begins anew
        if self._calls and not self._closing.is_set():
            metrics.CALLS_ENDED.labels(WORKER_LOST).inc(len(self._calls))
            log.error("calls lost with their media worker", extra={"calls": len(self._calls)})
        self._lost.update(dict.fromkeys(self._calls))
        while len(self._lost) > LOST_CALLS_KEPT:
            self._lost.popitem(last=False)
        lost = (*self._calls, *self._offered)
        self._calls.clear()
        self._offered.clear()
        self._new_calls.clear()
        self._tell_ended(lost)
        for channel in list(self._channels.values()):
            channel.on_closed(INTERNAL_ERROR, WORKER_LOST)
        self._listeners.clear()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(NotReadyError("A media worker was lost; try again in a moment.", retry_after=1))

    def _tell_ended(self, call_ids: Iterable[str]) -> None:
        if self._on_end is not None:
            for call_id in call_ids:
                self._on_end(call_id)

    async def _reap(self) -> None:
        process = self._process
        if process is None:
            return
        waiting = asyncio.create_task(process.wait(), name="media-worker-wait")
        done, _ = await asyncio.wait({waiting}, timeout=3.0)
        if not done:
            with suppress(ProcessLookupError):
                process.kill()
        await waiting
        self._process = None


class _RemoteLine:
    """A call's end of a channel, in the worker."""

    def __init__(self, number: int, write: Callable[[object], None]) -> None:
        self._number = number
        self._write = write

    def receive(self, data: str | bytes) -> None:
        self._write(ChannelData(self._number, data))

    def acknowledge(self, size: int) -> None:
        self._write(ChannelRead(self._number, size))

    def disconnect(self, *, is_lost: bool = False) -> None:
        self._write(ChannelClosed(self._number, is_lost=is_lost))
