"""The adapter's process, supervised: started again when it is lost, with all telephone calls lost with it."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

from rtc_server.config import SipSection
from rtc_server.errors import ConfigError

from . import messages
from .session_timer import MIN_SESSION_SECONDS

log = logging.getLogger(__name__)

READ_BYTES = 64 * 1024
START_SECONDS = 20.0  # to import sippy on a busy machine
CLOSE_SECONDS = 3.0
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, STABLE_SECONDS = 0.5, 30.0, 60.0
RINGING_LEGS = 32  # beside those that hold a call each


class SipAdapter:
    """Runs `rtc_server.sip.worker` as a child process; `on_notice` gets what it says, `on_lost` that it is gone with
    every leg of it."""

    def __init__(
        self,
        settings: SipSection,
        max_calls: int,
        on_notice: Callable[[messages.Notice], None],
        on_lost: Callable[[], None],
        *,
        min_session_seconds: int = MIN_SESSION_SECONDS,
    ) -> None:
        """Raises ConfigError where sippy is not installed."""
        if importlib.util.find_spec("sippy") is None:
            raise ConfigError("Telephone calls need the extra 'sip': pip install 'rtc-server[sip]'.")
        proxy_host, _, proxy_port = settings.proxy.rpartition(":")
        self._options = {
            "host": f"[{settings.host}]" if ":" in settings.host else settings.host,
            "port": settings.port,
            "proxy_host": proxy_host,
            "proxy_port": proxy_port,
            "session_seconds": settings.session_expires_seconds,
            "keepalive_seconds": settings.keepalive_seconds,
            "min_session_seconds": min_session_seconds,
            "max_legs": max_calls + RINGING_LEGS,
        }
        self._where = f"{settings.host}:{settings.port}"
        self._on_notice, self._on_lost = on_notice, on_lost
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._listening: asyncio.Future[int] | None = None
        self._closing = asyncio.Event()
        self._is_ready = False
        self.restarts = 0
        """How often it was lost and started again."""
        self.port = settings.port
        """That it listens on."""

    @property
    def is_running(self) -> bool:
        """Its socket is open, as far as it is known."""
        return self._writer is not None and self._listening is not None and self._listening.done()

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Until it listens. Raises ConfigError where it cannot."""
        self._listening = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(), name="sip-adapter")
        try:
            async with asyncio.timeout(START_SECONDS):
                self.port = await asyncio.shield(self._listening)
        except TimeoutError:
            await self.close()
            raise ConfigError("The SIP adapter did not start.") from None
        except ConfigError:
            await self.close()
            raise

    def send(self, command: messages.Command) -> None:
        """Nothing when it is not there: its legs are gone, and that was told."""
        if isinstance(command, messages.Readiness):
            self._is_ready = command.is_ready
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(messages.encode(command))

    async def close(self) -> None:
        """End it; it says goodbye to every peer. Idempotent."""
        self._closing.set()
        if self._writer is not None:
            self._writer.close()
        if self._supervisor is not None:
            done, _ = await asyncio.wait({self._supervisor}, timeout=CLOSE_SECONDS)
            if not done and self._process is not None:
                with suppress(ProcessLookupError):
                    self._process.kill()
            await asyncio.gather(self._supervisor, return_exceptions=True)

    # --- inside

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = FIRST_BACKOFF_SECONDS
        while not self._closing.is_set():
            started = loop.time()
            await self._run_once()
            if self._closing.is_set():
                return
            if loop.time() - started >= STABLE_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            self.restarts += 1
            log.error("the SIP adapter is lost, restarting", extra={"backoff_seconds": backoff})
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), backoff)
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)

    async def _run_once(self) -> None:
        ours, theirs = socket.socketpair()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        try:
            with theirs:
                options = [f"{name}={value}" for name, value in self._options.items()]
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "rtc_server.sip.worker", str(theirs.fileno()), *options),
                    pass_fds=[theirs.fileno()],
                    stdin=asyncio.subprocess.DEVNULL,
                )
            self.send(messages.Readiness(self._is_ready))
            await self._read(reader)
        finally:
            writer, self._writer = self._writer, None
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
            if self._process is not None:
                await self._reap(self._process)
                self._process = None
            self._on_lost()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        frames = messages.Frames()
        while True:
            try:
                data = await reader.read(READ_BYTES)
            except OSError:
                return
            if not data:
                return
            for kind, fields in frames.feed(data):
                self._handle(messages.notice(kind, fields))

    def _handle(self, notice: messages.Notice) -> None:
        listening = self._listening
        if isinstance(notice, messages.Listening):
            self._options["port"] = notice.port  # the same one after a restart: the proxy knows it
            if listening is not None and not listening.done():
                listening.set_result(notice.port)
        elif isinstance(notice, messages.CannotListen):
            message = f"The SIP adapter cannot listen on {self._where}: {notice.message}. Set sip.port to another port."
            if listening is not None and not listening.done():
                listening.set_exception(ConfigError(message))
            else:
                log.error("the SIP adapter cannot listen", extra={"address": self._where})
        else:
            self._on_notice(notice)

    @staticmethod
    async def _reap(process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
