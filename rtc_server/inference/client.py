"""The server's side of an engine: submit, cancel, grant, release, and events delivered to whoever asked.

`EngineClient` is what calls use; it knows who gets which events. `SupervisedEngineClient` keeps one engine host at
hand: it opens it, opens it again with back-off when it is lost, ends live responses as failed, and holds new requests
(bounded) until the engine is back. The subclass says whose host: one of this process (`hosting`, in `process` and
`thread`) or another process's (`remote`). The workers of a cluster (`inference.ray`) are supervised by Ray.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeAlias

from model.interface import EngineEvent, EngineFault, EngineInfo, GenerateRequest, ResponseDone
from rtc_server import metrics
from rtc_server.errors import EngineError
from rtc_server.logs import LogStyle
from rtc_server.tracing import TraceStyle

from .wire import (
    AskMetrics,
    Cancel,
    Command,
    EngineEvents,
    EngineReady,
    EngineReport,
    EngineUnavailable,
    FrameReader,
    Grant,
    HostMetrics,
    Ping,
    Pong,
    Release,
    Shutdown,
    Submit,
    encode,
)

log = logging.getLogger(__name__)

READ_BYTES = 1 << 18
MAX_UNSENT_BYTES = 16 * 1024 * 1024  # about 16 turns of 30 s; an engine this far behind is not reading any more
STABLE_SECONDS = 30.0  # an engine that lived this long was healthy: its next restart starts at the first back-off
METRICS_TIMEOUT_SECONDS = 1.0  # a step may take longer; its figures are then missing from the page for once
LOAD_TIMEOUT_SECONDS = 900.0  # 22 GB from a disk of 30 MB/s; beyond it the host is hung

EventSink: TypeAlias = Callable[[EngineEvent], None]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an engine client needs to know; values of the settings sections `engine` and of the backend."""

    backend: str
    options: Mapping[str, object]
    nice: int = 0
    cpu_affinity: tuple[int, ...] = ()
    max_pending: int = 64
    """Responses alive at once, queued and running; one more is refused with `engine_busy`."""
    restart_backoff_seconds: float = 0.5
    restart_backoff_max_seconds: float = 30.0
    listen_path: str | None = None
    """Where the engine listens for other processes (a Unix-domain socket in a private folder); None = nowhere."""
    huge_pages: bool = True
    """False: no transparent huge pages for the engine's process."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that the engine's process gets, where the server's own environment has none of that name."""
    log_style: LogStyle = field(default_factory=LogStyle)
    step_timeout_seconds: float = 60.0
    """A process whose step takes longer ends, and is started again."""
    trace_style: TraceStyle = field(default_factory=TraceStyle)


class EngineClient(ABC):
    """Event-loop side of one engine or several. All methods belong to the loop that called `start`."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._sinks: dict[str, EventSink] = {}
        self._waiting: dict[str, GenerateRequest] = {}  # submitted while no engine was ready
        self._info: EngineInfo | None = None
        self._is_ready = False
        self._closing = asyncio.Event()
        self.on_ready_changed: Callable[[bool], None] | None = None
        """Called when `is_ready` changes."""
        self.restarts = 0
        """How often the engine was lost and started again."""
        self.load_seconds = 0.0
        """How long the latest load and warm-up took."""
        self.report: EngineReport | None = None
        """What the engine is doing, at most a second old while it works; only its supervisor gets it."""

    @property
    def info(self) -> EngineInfo:
        """What the engine is. Raises EngineError before the first successful start."""
        if self._info is None:
            raise EngineError("engine_not_ready", "The engine has not been loaded yet.")
        return self._info

    @property
    def is_ready(self) -> bool:
        """True while a warm engine answers; False during load and restart."""
        return self._is_ready

    @property
    def max_calls(self) -> int | None:
        """How many calls the engine serves in time; None when it does not know, or is not ready."""
        return self._info.max_calls if self._is_ready and self._info is not None else None

    @property
    def num_live_responses(self) -> int:
        return len(self._sinks)

    @abstractmethod
    async def start(self) -> None:
        """Start the engine and wait until it is warm. Raises EngineError when it cannot be loaded."""

    @abstractmethod
    async def close(self) -> None:
        """Stop the engine; live responses end as failed. Idempotent."""

    def submit(self, request: GenerateRequest, sink: EventSink) -> None:
        """Ask for a response. `sink` gets its events, the last one a `ResponseDone`, always from the loop
        and never from inside this call. Without capacity the response ends failed with `engine_busy`."""
        response_id = request.response_id
        if response_id in self._sinks:
            raise ValueError(f"response {response_id} was submitted already")
        self._sinks[response_id] = sink
        if len(self._sinks) > self._settings.max_pending:
            self._fail_soon(response_id, "engine_busy", "The engine has no room for another response.")
        elif not self._is_ready:
            self._waiting[response_id] = request
        else:
            self._send(Submit(request))

    def cancel(self, response_id: str) -> None:
        """Stop a response; no event of it reaches its sink any more."""
        if self._sinks.pop(response_id, None) is None:
            return
        if self._waiting.pop(response_id, None) is None:
            self._send(Cancel(response_id))

    def grant(self, response_id: str, audio_ms: int) -> None:
        """Let the engine produce `audio_ms` more of a response."""
        if response_id in self._sinks and response_id not in self._waiting:
            self._send(Grant(response_id, audio_ms))

    def release(self, response_id: str) -> None:
        """Somebody waits for a response that was held."""
        if response_id in self._waiting:
            self._waiting[response_id] = replace(self._waiting[response_id], is_held=False)
        elif response_id in self._sinks:
            self._send(Release(response_id))

    def ping(self, now: float) -> None:  # noqa: B027 - nothing to ask where somebody else watches the engine
        """Ask whether the engine's loop turns, unless an answer is due already. Call it about once a second."""

    def silent_seconds(self, now: float) -> float:
        """How long the answer to a ping has been due; 0 = none is. Requests of calls stand in the same queue."""
        return 0.0

    async def metrics(self) -> bytes:
        """Metrics of the host's process in Prometheus text format; empty when they are this process's own, when they
        stand elsewhere, or when it does not answer in time."""
        return b""

    # --- for the subclasses

    @abstractmethod
    def _send(self, command: Command) -> None:
        """Pass a command on. A `Submit` that cannot be passed on fails soon."""

    def _on_engine_ready(self, info: EngineInfo, load_seconds: float) -> None:
        """It is warm: send what waited for it."""
        self._info = info
        self._set_ready(True)
        self.load_seconds = load_seconds
        log.info("engine ready", extra={"model": info.name, "load_seconds": round(load_seconds, 2)})
        self._send_waiting()

    def _send_waiting(self) -> None:
        """What was submitted while no engine was ready."""
        waiting, self._waiting = self._waiting, {}
        for request in waiting.values():
            self._send(Submit(request))

    def _set_ready(self, is_ready: bool) -> None:
        if is_ready != self._is_ready:
            self._is_ready = is_ready
            if self.on_ready_changed is not None:
                self.on_ready_changed(is_ready)

    def _deliver(self, event: EngineEvent) -> None:
        if isinstance(event, ResponseDone):
            sink = self._sinks.pop(event.response_id, None)
        else:
            sink = self._sinks.get(event.response_id)
        if sink is not None:  # otherwise it was cancelled: late results die by identity
            sink(event)

    def _fail_soon(self, response_id: str, code: str, text: str) -> None:
        loop = asyncio.get_running_loop()
        done = ResponseDone(response_id, "failed", loop.time(), EngineFault(code, text))
        loop.call_soon(self._deliver, done)

    def _fail_live(self, code: str, text: str) -> None:
        if self._closing.is_set():
            self._waiting.clear()
        for response_id in [key for key in self._sinks if key not in self._waiting]:
            now = asyncio.get_running_loop().time()
            self._deliver(ResponseDone(response_id, "failed", now, EngineFault(code, text)))


class SupervisedEngineClient(EngineClient):
    """One engine host over a stream, started again whenever it is lost."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self._writer: asyncio.StreamWriter | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._first_start: asyncio.Future[None] | None = None
        self._asked: asyncio.Future[bytes] | None = None
        self._pinged_at: float | None = None

    def ping(self, now: float) -> None:
        """See `EngineClient`."""
        if self._is_ready and self._pinged_at is None:
            self._pinged_at = now
            self._send(Ping())

    def silent_seconds(self, now: float) -> float:
        """See `EngineClient`."""
        return 0.0 if self._pinged_at is None else now - self._pinged_at

    async def start(self) -> None:
        """See `EngineClient`."""
        metrics.ENGINE_UNSENT.set_function(self._unsent_bytes)
        self._first_start = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(), name="engine-supervisor")
        await asyncio.wait({self._first_start, self._supervisor}, return_when=asyncio.FIRST_COMPLETED)
        if self._first_start.done():
            self._first_start.result()
        else:
            self._supervisor.result()  # raises the bug that ended it
            raise EngineError("engine_load_failed", "The engine was closed while it was loading.")

    async def close(self) -> None:
        """See `EngineClient`."""
        self._closing.set()
        metrics.ENGINE_UNSENT.set_function(lambda: 0)
        if self._writer is not None:
            self._send(Shutdown())
            self._writer.close()
        if self._supervisor is not None:
            done, _ = await asyncio.wait({self._supervisor}, timeout=3.0)
            if not done:
                await self._kill_host()
                self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None

    async def metrics(self) -> bytes:
        """See `EngineClient`."""
        if not self._is_ready:
            return b""
        if self._asked is None:
            self._asked = asyncio.get_running_loop().create_future()
            self._send(AskMetrics())
        done, _ = await asyncio.wait({self._asked}, timeout=METRICS_TIMEOUT_SECONDS)
        return done.pop().result() if done else b""

    # --- whose the host is

    is_supervisor: ClassVar[bool] = True
    """It starts and restarts the host."""

    @abstractmethod
    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a host that loads or has loaded. Raises ConnectionResetError when the client is closed
        meanwhile."""

    @abstractmethod
    async def _wait_host(self) -> None:
        """Return when the host is gone and everything it held is released."""

    @abstractmethod
    async def _kill_host(self) -> None:
        """End a host that does not leave by itself."""

    # --- supervision

    async def _supervise(self) -> None:
        backoff = self._settings.restart_backoff_seconds
        while True:
            try:
                lived = await self._run_host_once()
            except EngineError as error:
                lived = 0.0
                if self._first_start is not None and not self._first_start.done():
                    self._first_start.set_exception(error)
                    return
                log.error("engine did not come back", extra={"code": error.code})
            if self._closing.is_set():
                return
            if lived >= STABLE_SECONDS:
                backoff = self._settings.restart_backoff_seconds
            self.restarts += 1
            if self.is_supervisor:
                metrics.ENGINE_RESTARTS.inc()
            log.warning("engine lost, restarting", extra={"backoff_seconds": backoff})
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), backoff)
                return
            backoff = min(backoff * 2, self._settings.restart_backoff_max_seconds)

    async def _run_host_once(self) -> float:
        """Start a host, serve until it is gone. Returns for how many seconds it was ready."""
        loop = asyncio.get_running_loop()
        try:
            try:
                reader, self._writer = await self._open()
            except ConnectionResetError:
                return 0.0
            ready_at = None
            frames = FrameReader()
            try:
                while True:
                    timeout = LOAD_TIMEOUT_SECONDS if ready_at is None else None
                    data = await asyncio.wait_for(reader.read(READ_BYTES), timeout)
                    if not data:
                        break
                    for message in frames.feed(data):
                        if isinstance(message, EngineReady):
                            ready_at = loop.time()
                        self._handle(message)
            except (ConnectionResetError, TimeoutError):
                log.warning("engine connection broke")
            if ready_at is None and not self._closing.is_set():
                raise EngineError("engine_load_failed", "The engine process ended before it was ready.")
            return 0.0 if ready_at is None else loop.time() - ready_at
        finally:
            self._set_ready(False)
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()
                await asyncio.gather(writer.wait_closed(), return_exceptions=True)
            await self._reap_host()
            self._fail_live("engine_lost", "The engine stopped unexpectedly; it is being restarted.")

    async def _reap_host(self) -> None:
        waiting = asyncio.create_task(self._wait_host(), name="engine-wait")
        done, _ = await asyncio.wait({waiting}, timeout=2.0)
        if not done:
            await self._kill_host()
        await waiting

    def _set_ready(self, is_ready: bool) -> None:
        self._pinged_at = None
        if not is_ready:
            self._tell_metrics(b"")
            self.report = None
        super()._set_ready(is_ready)

    def _handle(self, message: object) -> None:
        match message:
            case EngineEvents(events):
                for event in events:
                    self._deliver(event)
            case EngineReport():
                self.report = message
            case HostMetrics(page):
                self._tell_metrics(page)
            case EngineReady(info, load_seconds):
                self._on_engine_ready(info, load_seconds)
                if self._first_start is not None and not self._first_start.done():
                    self._first_start.set_result(None)
            case Pong():
                self._pinged_at = None
            case EngineUnavailable(code, text):
                raise EngineError(code, text)

    def _tell_metrics(self, page: bytes) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.set_result(page)

    def _unsent_bytes(self) -> int:
        return 0 if self._writer is None else self._writer.transport.get_write_buffer_size()

    def _send(self, command: Command) -> None:
        writer = self._writer
        if writer is None or writer.is_closing():
            return
        if isinstance(command, Submit) and writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._fail_soon(command.request.response_id, "engine_busy", "The engine does not keep up.")
            return
        writer.write(encode(command))
