"""Drives one engine: reads commands from a socket, steps the engine, writes its events back.

Runs in a process of its own (`inference.worker`) or, for tests, in a thread. It is the only caller of the
engine's methods, so a model author never thinks about concurrency.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from collections.abc import Callable

from model.interface import EngineEvent, EngineFault, ResponseDone, SpeechEngine
from model.registry import ModelsMissingError, create_engine

from .wire import (
    Cancel,
    Configure,
    EngineEvents,
    EngineReady,
    EngineUnavailable,
    FrameReader,
    Grant,
    Report,
    Shutdown,
    Submit,
    encode,
)

log = logging.getLogger(__name__)

READ_BYTES = 1 << 18  # one read takes a whole 8 s turn at 16 kHz


class EngineHost:
    """Owns the engine and the host's end of the socket pair until `serve` returns."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader()
        self._wake_receive, self._wake_send = socket.socketpair()
        self._wake_send.setblocking(False)
        self._wake_receive.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._sock, selectors.EVENT_READ)
        self._selector.register(self._wake_receive, selectors.EVENT_READ)
        self._backlog: list[object] = []

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
                self._run(engine)
        except (BrokenPipeError, ConnectionResetError):
            log.info("engine host lost its server")
        finally:
            if engine is not None:
                engine.close()
            self._selector.close()
            self._wake_send.close()
            self._wake_receive.close()
            self._sock.close()

    def _wait_for_configure(self) -> Configure | None:
        while not self._backlog:
            if not self._receive(None):
                return None
        first = self._backlog.pop(0)
        return first if isinstance(first, Configure) else None

    def _build(self, configure: Configure) -> SpeechEngine | None:
        started = time.monotonic()
        try:
            engine = create_engine(configure.backend, configure.options, self._wake)
            engine.warm_up()
        except ModelsMissingError as error:
            self._send(EngineUnavailable("models_missing", str(error)))
            return None
        except Exception as error:  # whatever a backend raises while loading must reach the operator as a sentence
            log.exception("engine could not be loaded")
            self._send(EngineUnavailable("engine_load_failed", f"{type(error).__name__}: {error}"))
            return None
        self._send(EngineReady(engine.info, time.monotonic() - started))
        return engine

    def _run(self, engine: SpeechEngine) -> None:
        while True:
            if not self._receive(0.0 if engine.has_work else None):
                return
            failures: list[EngineEvent] = []
            backlog, self._backlog = self._backlog, []
            for command in backlog:
                if isinstance(command, Shutdown):
                    return
                failures += self._apply(engine, command)
            events = engine.step(time.monotonic())
            if failures or events:
                self._send(EngineEvents((*failures, *events)))

    def _apply(self, engine: SpeechEngine, command: object) -> list[EngineEvent]:
        match command:
            case Submit(request):
                try:
                    engine.submit(request)
                except ValueError as error:
                    fault = EngineFault("invalid_request", str(error))
                    return [ResponseDone(request.response_id, "failed", time.monotonic(), fault)]
            case Cancel(response_id):
                engine.cancel(response_id)
            case Grant(response_id, audio_ms):
                engine.grant(response_id, audio_ms)
        return []

    def _receive(self, timeout: float | None) -> bool:
        """Wait for input or a wake-up; False when the server's end is closed."""
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._wake_receive:
                self._wake_receive.recv(4096)
                continue
            data = self._sock.recv(READ_BYTES)
            if not data:
                return False
            self._backlog += self._reader.feed(data)
        return True

    def _wake(self) -> None:
        # Called from engine threads. A full pipe already means that the host will wake; a closed one that
        # it is leaving.
        try:
            self._wake_send.send(b"\0")
        except (BlockingIOError, OSError):
            return

    def _send(self, report: Report) -> None:
        # Blocking on purpose: when the server does not read, the engine waits instead of piling up audio.
        self._sock.sendall(encode(report))
