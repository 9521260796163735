"""Entry point of a media process: `python -m rtc_server.media.worker FD`.

It hosts a `LocalNode` and does what signaling asks over the inherited socket. It ends when that socket does, so no call
outlives its server; signals go to the signaling process, which then ends the calls in order.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

from rtc_server import logs, process_metrics, tracing
from rtc_server.errors import ApiError
from rtc_server.inference.remote import RemoteEngineClient
from rtc_server.inference.wire import FrameReader, encode
from rtc_server.scheduling import apply, media_scheduling, place_executor, report

from .channels import WINDOW, Line
from .local import LocalNode
from .node import ChannelRequest
from .parts import engine_settings, load_cleaning, turn_judge_factory, vad_factory
from .wire import (
    ChannelClosed,
    ChannelData,
    ChannelRead,
    ConfigureWorker,
    Failure,
    Reply,
    Request,
    SnapshotChanged,
    WorkerLoad,
)

log = logging.getLogger("rtc_server.media.worker")

READ_BYTES = 1 << 16
SWITCH_INTERVAL_SECONDS = 0.0005  # another thread (ONNX, DNS) gives the GIL back within a fraction of a frame
READ_STEP = WINDOW // 8  # what a call has read is told in lumps: 3 times a second instead of 50
PLAYBACK_SECONDS = 1.0
CLOSE_SECONDS = 1.0  # for calls that are still there when the signaling process is gone
METHODS = frozenset(
    {
        "answer",
        "offer",
        "accept_answer",
        "listen",
        "renegotiate",
        "reoffer",
        "reanswer",
        "press",
        "begin",
        "tell",
        "update_ice",
        "add_candidates",
        "hang_up",
        "hand_over",
    }
    | {"metrics", "status", "use_settings", "announce_drain", "finish_replies", "close"}
)


class Worker:
    """One media process, seen from inside."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader()
        self._node: LocalNode | None = None
        self._lines: dict[int, Line] = {}

    async def run(self) -> None:
        """Serve until the signaling process closes its end."""
        messages = await self._read()
        if not messages:
            return
        configure = messages.pop(0)
        assert isinstance(configure, ConfigureWorker)
        prepare_process(configure)
        settings = configure.settings
        engine = RemoteEngineClient(engine_settings(settings), configure.engine_path)
        engine.on_ready_changed = self._tell_ready
        # The models are loading: the worker is there, and takes calls once the engine answers.
        starting = asyncio.create_task(engine.start(), name="engine-start")
        try:
            async with asyncio.TaskGroup() as tasks:
                load_cleaning(settings)
                self._node = node = LocalNode(
                    settings,
                    engine,
                    vad_factory(settings),
                    tasks,
                    make_judge=turn_judge_factory(settings),
                    port_offset=configure.index,
                    on_end=self._tell_ended,
                    save_snapshot=self._tell_snapshot,
                )
                telling = tasks.create_task(self._tell_playback(node), name="tell-playback")
                gc.collect()
                gc.freeze()  # what lives as long as the process need not be looked at by every collection
                try:
                    while messages is not None:
                        for message in messages:
                            self._handle(node, message, tasks)
                        messages = await self._read()
                finally:
                    telling.cancel()
                    await node.close(CLOSE_SECONDS)
        finally:
            await engine.close()
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()

    async def _read(self) -> list[object] | None:
        """The next messages; None at the end."""
        while True:
            try:
                data = await self._reader.read(READ_BYTES)
            except OSError:
                return None
            if not data:
                return None
            messages = self._frames.feed(data)
            if messages:
                return messages

    def _handle(self, node: LocalNode, message: object, tasks: asyncio.TaskGroup) -> None:
        """Channels at once, in the order of their messages; requests each in a task."""
        match message:
            case Request(method="open_channel"):
                self._open_channel(node, message)
            case Request():
                tasks.create_task(self._serve(node, message), name=f"request-{message.method}")
            case ChannelData(channel, data):
                if channel in self._lines:
                    self._lines[channel].receive(data)
            case ChannelRead(channel, size):
                if channel in self._lines:
                    self._lines[channel].acknowledge(size)
            case ChannelClosed(channel, is_lost=is_lost):
                line = self._lines.pop(channel, None)
                if line is not None:
                    line.disconnect(is_lost=is_lost)
            case _:
                raise ValueError(f"unknown message {type(message).__name__}")

    def _open_channel(self, node: LocalNode, message: Request) -> None:
        number, request = message.arguments
        assert isinstance(number, int)
        assert isinstance(request, ChannelRequest)
        try:
            call_id, self._lines[number] = node.join(request, _ChannelPeer(number, self._send, self._lines))
        except Exception as error:
            if not isinstance(error, ApiError):  # a bug must fail this request and nothing else
                log.exception("a request failed", extra={"method": message.method})
            self._send(Reply(message.number, failure=Failure.of(error)))
        else:
            self._send(Reply(message.number, call_id))

    async def _serve(self, node: LocalNode, request: Request) -> None:
        try:
            result: object = None
            if request.method == "ping":
                pass  # that it answers is all that is asked
            elif request.method not in METHODS:
                raise ValueError(f"unknown request {request.method}")
            elif request.method == "metrics":
                result = process_metrics.page()
            else:
                result = await getattr(node, request.method)(*request.arguments)
        except ApiError as error:
            self._send(Reply(request.number, failure=Failure.of(error)))
        except Exception as error:  # a bug must fail this request and nothing else
            log.exception("a request failed", extra={"method": request.method})
            self._send(Reply(request.number, failure=Failure.of(error)))
        else:
            self._send(Reply(request.number, result))

    def _tell_ready(self, is_ready: bool) -> None:
        if self._node is None:
            self._send(WorkerLoad(is_ready))
        else:
            self._tell_load(self._node)

    def _tell_ended(self, call_id: str) -> None:
        if self._node is not None:
            self._tell_load(self._node, (call_id,))

    def _tell_load(self, node: LocalNode, ended: tuple[str, ...] = ()) -> None:
        load = node.load
        self._send(WorkerLoad(load.is_ready, ended, load.underruns, load.played_seconds))

    async def _tell_playback(self, node: LocalNode) -> None:
        """Once a second while replies are played: admission goes by it."""
        told = 0.0
        while True:
            await asyncio.sleep(PLAYBACK_SECONDS)
            if (played := node.load.played_seconds) != told:
                told = played
                self._tell_load(node)

    def _tell_snapshot(self, key: str, owner: tuple[str, ...], data: bytes | None) -> None:
        self._send(SnapshotChanged(key, owner, data))

    def _send(self, message: object) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode(message))


class _ChannelPeer:
    """A `SocketPeer` whose WebSocket is in the signaling process."""

    def __init__(self, number: int, send: Callable[[object], None], lines: dict[int, Line]) -> None:
        self._number = number
        self._send = send
        self._lines = lines
        self._read = 0  # not told yet

    def on_data(self, data: str | bytes) -> None:
        self._send(ChannelData(self._number, data))

    def on_read(self, weight: int) -> None:
        self._read += weight
        if self._read >= READ_STEP:
            self._send(ChannelRead(self._number, self._read))
            self._read = 0

    def on_closed(self, code: int, reason: str) -> None:
        self._lines.pop(self._number, None)
        self._send(ChannelClosed(self._number, code, reason))


def prepare_process(configure: ConfigureWorker) -> None:
    """Its log, its CPU and priority, and how threads share the interpreter. Called on the event loop."""
    settings = configure.settings
    logs.configure(settings.logging)
    tracing.configure(settings.tracing, f"media-{configure.index}")
    report(apply(media_scheduling(settings, configure.index)), f"media worker {configure.index}")
    place_executor(settings.system.executor_cpu_affinity)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)


async def _main(sock: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=sock)
    with process_metrics.watching_loop():
        await Worker(reader, writer).run()


def main() -> None:
    """Serve on the inherited socket until the signaling process leaves."""
    # Ctrl-C reaches the whole process group, systemd's SIGTERM the whole unit; signaling decides when the calls end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    asyncio.run(_main(socket.socket(fileno=int(sys.argv[1]))))
    tracing.shutdown()


if __name__ == "__main__":
    main()
