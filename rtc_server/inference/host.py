"""Drives one engine: reads commands from a socket, steps the engine, writes its events back.

Runs in a process of its own (`inference.worker`) or, for tests, in a thread. It is the only caller of the
engine's methods, so a model author never thinks about concurrency.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from model.interface import EngineEvent, EngineFault, EngineSetupError, GenerateRequest, ResponseDone, SpeechEngine
from model.registry import ModelsMissingError, create_engine
from rtc_server.tracing import parse_traceparent

from .engine_spans import EngineSpans
from .meter import EngineMeter
from .watch import StepWatch
from .wire import (
    AskMetrics,
    Cancel,
    Configure,
    EngineEvents,
    EngineReady,
    EngineUnavailable,
    FrameReader,
    Grant,
    HostMetrics,
    Ping,
    Pong,
    Release,
    Report,
    Shutdown,
    Submit,
    encode,
)

log = logging.getLogger(__name__)

MAX_UNSENT_BYTES = 16 * 1024 * 1024  # minutes of audio for one worker: it hangs
READ_BYTES = 1 << 18  # one read takes a whole 8 s turn at 16 kHz


class _Client:
    """One process that asks for responses. The first is the supervisor, whose end is also the end of the host."""

    def __init__(self, sock: socket.socket, *, is_supervisor: bool) -> None:
        self.sock = sock
        self.is_supervisor = is_supervisor
        self.reader = FrameReader()
        self.backlog: list[object] = []
        self.unsent = bytearray()
        self.is_lost = False


class EngineHost:
    """Owns the engine and the host's ends of all connections until `serve` returns."""

    def __init__(
        self,
        sock: socket.socket,
        watch: Callable[[float], StepWatch] | None = None,
        metrics_page: Callable[[], bytes] | None = None,
    ) -> None:
        """For a host that has the process to itself: `watch` makes what ends it when a step takes longer than so many
        seconds; `metrics_page()` is its metrics."""
        self._make_watch = watch
        self._metrics_page = metrics_page
        self._watch: StepWatch | None = None
        self._supervisor = _Client(sock, is_supervisor=True)
        self._clients = [self._supervisor]
        self._owners: dict[str, _Client] = {}  # who gets the events of a response
        self._spans = EngineSpans()
        self._max_pending = 0
        self._listener: socket.socket | None = None
        self._wake_receive, self._wake_send = socket.socketpair()
        self._wake_send.setblocking(False)
        self._wake_receive.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ, self._supervisor)
        self._selector.register(self._wake_receive, selectors.EVENT_READ)

    def serve(self, prepare: Callable[[Configure], None] | None = None) -> None:
        """Wait for `Configure`, build and warm the engine, then serve until `Shutdown` or a closed socket.

        `prepare` is called with the configuration before the engine is built (process priority, affinity)."""
        engine: SpeechEngine | None = None
        try:
            configure = self._wait_for_configure()
            if configure is None:
                return
            if prepare is not None:
                prepare(configure)
            engine = self._build(configure)
            if engine is not None:
                self._max_pending = configure.max_pending
                if self._make_watch is not None:
                    self._watch = self._make_watch(configure.step_timeout_seconds)
                if configure.listen_path is not None:
                    self._listen(configure.listen_path)
                self._run(engine)
        except (BrokenPipeError, ConnectionResetError):
            log.info("engine host lost its server")
        finally:
            if self._watch is not None:
                self._watch.rest()
            if engine is not None:
                engine.close()
            self._selector.close()
            for sock in (self._wake_send, self._wake_receive, *(client.sock for client in self._clients)):
                sock.close()
            if self._listener is not None:
                self._listener.close()

    def _wait_for_configure(self) -> Configure | None:
        while not self._supervisor.backlog:
            if not self._receive(None, None):
                return None
        first = self._supervisor.backlog.pop(0)
        return first if isinstance(first, Configure) else None

    def _listen(self, path: str) -> None:
        self._listener = listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with suppress(FileNotFoundError):
            os.unlink(path)  # of a host that was killed
        listener.bind(path)
        listener.listen()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def _build(self, configure: Configure) -> SpeechEngine | None:
        started = time.monotonic()
        try:
            engine = create_engine(configure.backend, configure.options, self._wake)
            engine.warm_up()
        except ModelsMissingError as error:
            self._send(self._supervisor, EngineUnavailable("models_missing", str(error)))
            return None
        except EngineSetupError as error:
            self._send(self._supervisor, EngineUnavailable("engine_load_failed", str(error)))
            return None
        except Exception as error:  # whatever a backend raises while loading must reach the operator as a sentence
            log.exception("engine could not be loaded")
            self._send(self._supervisor, EngineUnavailable("engine_load_failed", f"{type(error).__name__}: {error}"))
            return None
        self._ready = EngineReady(engine.info, time.monotonic() - started)
        self._send(self._supervisor, self._ready)
        return engine

    def _run(self, engine: SpeechEngine) -> None:
        meter = EngineMeter(engine, self._max_pending)
        while True:
            has_work = engine.has_work
            if self._watch is not None and not has_work:
                self._watch.rest()
            unread = sum(len(client.unsent) for client in self._clients)
            report = meter.report(time.monotonic(), len(self._owners), unread, is_idle=not has_work)
            if report is not None:
                self._send(self._supervisor, report)
            if not self._receive(0.0 if has_work else None, engine):
                return
            if self._watch is not None:
                self._watch.alive()
            for client in list(self._clients):
                backlog, client.backlog = client.backlog, []
                for command in backlog:
                    if isinstance(command, Shutdown):
                        if client.is_supervisor:
                            return
                        continue  # a worker that leaves closes its socket as well
                    self._apply(engine, client, command)
            has_work = engine.has_work
            begun = time.monotonic()
            events = engine.step(begun)
            if has_work:
                meter.stepped(time.monotonic() - begun, events)
            self._deliver(events)

    def _deliver(self, events: Sequence[EngineEvent]) -> None:
        """Every event to the client that asked, in order, one frame per client."""
        self._spans.seen(events)
        by_client: dict[_Client, list[EngineEvent]] = {}
        for event in events:
            owner = self._owners.get(event.response_id)
            if owner is not None:  # otherwise its client is gone
                by_client.setdefault(owner, []).append(event)
            if isinstance(event, ResponseDone):
                self._owners.pop(event.response_id, None)
        for client, its_events in by_client.items():
            self._send(client, EngineEvents(tuple(its_events)))

    def _apply(self, engine: SpeechEngine, client: _Client, command: object) -> None:
        match command:
            case Submit(request):
                fault = None
                log.debug("response asked for", extra=_about(request))
                self._spans.submitted(request, time.monotonic())
                if len(self._owners) >= self._max_pending:
                    fault = EngineFault("engine_busy", "The engine has no room for another response.")
                elif request.response_id in self._owners:
                    fault = EngineFault("invalid_request", "The response id is in use.")
                else:
                    try:
                        engine.submit(request)
                    except ValueError as error:
                        fault = EngineFault("invalid_request", str(error))
                    else:
                        self._owners[request.response_id] = client
                if fault is not None:
                    done = ResponseDone(request.response_id, "failed", time.monotonic(), fault)
                    log.info("response refused", extra={**_about(request), "code": fault.code})
                    self._spans.seen([done])
                    self._send(client, EngineEvents((done,)))
            case Cancel(response_id):
                if self._owners.get(response_id) is client:
                    del self._owners[response_id]
                    engine.cancel(response_id)
                    self._spans.cancelled(response_id, time.monotonic())
            case Grant(response_id, audio_ms):
                if self._owners.get(response_id) is client:
                    engine.grant(response_id, audio_ms)
            case Ping():
                self._send(client, Pong())
            case Release(response_id):
                if self._owners.get(response_id) is client:
                    engine.release(response_id)
            case AskMetrics():
                self._send(client, HostMetrics(b"" if self._metrics_page is None else self._metrics_page()))

    def _receive(self, timeout: float | None, engine: SpeechEngine | None) -> bool:
        """Wait for input or a wake-up; False when the supervisor's end is closed."""
        for key, ready in self._selector.select(timeout):
            if key.fileobj is self._wake_receive:
                self._wake_receive.recv(4096)
            elif key.fileobj is self._listener:
                self._accept()
            else:
                client: _Client = key.data
                if ready & selectors.EVENT_WRITE:
                    self._flush(client)
                if ready & selectors.EVENT_READ and not self._read(client):
                    if client.is_supervisor:
                        return False
                    client.is_lost = True
        for client in [client for client in self._clients if client.is_lost]:
            self._forget(client, engine)
        return True

    def _read(self, client: _Client) -> bool:
        try:
            data = client.sock.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            if client.is_supervisor:
                raise
            return False
        client.backlog += client.reader.feed(data)
        return bool(data)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:  # it left again
            return
        sock.setblocking(False)
        client = _Client(sock, is_supervisor=False)
        self._clients.append(client)
        self._selector.register(sock, selectors.EVENT_READ, client)
        self._send(client, self._ready)

    def _forget(self, client: _Client, engine: SpeechEngine | None) -> None:
        """A worker is gone: nobody waits for its responses."""
        self._clients.remove(client)
        self._selector.unregister(client.sock)
        client.sock.close()
        for response_id in [key for key, owner in self._owners.items() if owner is client]:
            del self._owners[response_id]
            if engine is not None:
                engine.cancel(response_id)
            self._spans.cancelled(response_id, time.monotonic())

    def _wake(self) -> None:
        # Called from engine threads. A full pipe already means that the host will wake; a closed one that
        # it is leaving.
        try:
            self._wake_send.send(b"\0")
        except (BlockingIOError, OSError):
            return

    def _send(self, client: _Client, report: Report) -> None:
        if client.is_supervisor:
            # Blocking on purpose: when the server does not read, the engine waits instead of piling up audio.
            client.sock.sendall(encode(report))
            return
        # One worker that does not read must not stop the engine for the others; its own bound is `MAX_UNSENT_BYTES`.
        client.unsent += encode(report)
        self._flush(client)
        if len(client.unsent) > MAX_UNSENT_BYTES:
            log.error("a media worker does not read its events; its connection is closed")
            client.is_lost = True

    def _flush(self, client: _Client) -> None:
        try:
            while client.unsent:
                sent = client.sock.send(client.unsent)
                del client.unsent[:sent]
        except BlockingIOError:
            pass  # the selector tells when there is room again
        except OSError:
            client.is_lost = True
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.unsent else 0)
        self._selector.modify(client.sock, events, client)


def _about(request: GenerateRequest) -> dict[str, str]:
    """What a log line says of a request: ids, and nothing that was said."""
    about = {"call_id": request.call_id, "response_id": request.response_id}
    context = parse_traceparent(request.traceparent) if request.traceparent else None
    return about if context is None else {**about, "trace_id": context.trace_name}
