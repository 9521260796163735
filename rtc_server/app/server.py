"""The process: wires settings, engine, calls and HTTP once, runs them, and takes them down in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web

from model.weights import model_path
from rtc_server import certs, logs
from rtc_server.calls.registry import CallRegistry
from rtc_server.config import Settings
from rtc_server.errors import ConfigError
from rtc_server.inference.client import EngineClient, EngineSettings
from rtc_server.inference.process import ProcessEngineClient
from rtc_server.inference.thread import ThreadEngineClient
from rtc_server.paths import models_dir, web_dir
from rtc_server.transports.aiortc_seams import machine_addresses
from rtc_server.turns.vad import VoiceDetector
from rtc_server.turns.vad_factory import create_detector

from . import calls, health
from .context import CONTEXT, AppContext
from .middleware import add_security_headers, errors_as_json

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 64 * 1024  # the largest body is an SDP offer inside JSON, 16 KB before escaping
CODEC_THREADS = 4  # aiortc encodes in the loop's default executor; nothing else is parked there
SWITCH_INTERVAL_SECONDS = 0.0005  # a compute thread holds the GIL 5 ms by default: five playout ticks of ten calls


def run(settings: Settings, on_ready: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM. `on_ready` gets the one line to print. Returns the exit code.

    Raises ConfigError (a port in use, ...) and EngineError (the models cannot be loaded)."""
    logs.configure(settings.logging)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    asyncio.run(serve(settings, on_ready))
    return 0


async def serve(settings: Settings, on_ready: Callable[[str], None], stop: asyncio.Event | None = None) -> None:
    """As `run`, on the running loop; `stop` ends it as a signal would."""
    loop = asyncio.get_running_loop()
    stop = stop or asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    loop.set_default_executor(ThreadPoolExecutor(CODEC_THREADS, thread_name_prefix="codec"))
    engine = create_engine_client(settings)
    try:
        async with asyncio.TaskGroup() as tasks:
            registry = CallRegistry(settings, engine, vad_factory(settings), tasks)
            runner = web.AppRunner(create_app(AppContext(settings, engine, registry)), access_log=None)
            try:
                await _open_sites(runner, settings)
                await _start_or_stop(engine, stop)
                if engine.is_ready:
                    on_ready(ready_line(settings, engine, runner))
                    await stop.wait()
            finally:
                await registry.close(settings.server.shutdown_timeout_seconds)
                await engine.close()
                await runner.cleanup()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def create_app(context: AppContext) -> web.Application:
    """The HTTP surface."""
    app = web.Application(middlewares=[errors_as_json], client_max_size=MAX_REQUEST_BYTES)
    app[CONTEXT] = context
    app.on_response_prepare.append(add_security_headers)
    app.add_routes(calls.routes)
    app.add_routes(health.routes)
    app.router.add_get("/", _index)
    app.router.add_static("/static/", web_dir(), append_version=False)
    return app


def create_engine_client(settings: Settings) -> EngineClient:
    """The client for the configured backend, not started yet."""
    engine = settings.engine
    options: dict[str, object] = {}
    if engine.backend == "cascade":
        options = {**settings.cascade.model_dump(), "models_dir": str(models_dir(settings))}
    isolation = ProcessEngineClient if engine.isolation == "process" else ThreadEngineClient
    return isolation(
        EngineSettings(
            backend=engine.backend,
            options=options,
            nice=engine.nice,
            cpu_affinity=tuple(engine.cpu_affinity),
            max_pending=engine.max_pending,
            restart_backoff_seconds=engine.restart_backoff_seconds,
            restart_backoff_max_seconds=engine.restart_backoff_max_seconds,
        )
    )


def vad_factory(settings: Settings) -> Callable[[], VoiceDetector]:
    """Makes one voice detector per call. Raises ModelsMissingError when Silero's weights are absent."""
    turns = settings.turns
    silero = None if turns.vad == "webrtcvad" else model_path(models_dir(settings), "silero_vad.onnx")
    return lambda: create_detector(turns.vad, turns.webrtcvad_mode, silero)


def ready_line(settings: Settings, engine: EngineClient, runner: web.AppRunner) -> str:
    """The one line that `serve` prints: where to go, with the ports that were really opened."""
    host = settings.server.host
    is_everywhere = host in ("0.0.0.0", "::")
    local = "127.0.0.1" if is_everywhere or host == "localhost" else host
    lan = next((a for a in machine_addresses() if ":" not in a), local) if is_everywhere else local
    ports = [address[1] for address in runner.addresses]
    urls = [f"http://{local}:{ports[0]}"]
    if settings.server.tls:
        urls.append(f"https://{lan}:{ports[-1]}")
    how = f"backend {settings.engine.backend}, warm after {engine.load_seconds:.1f} s"
    return f"rtc-server ready: {'  '.join(urls)}  ({how})"


async def _index(request: web.Request) -> web.FileResponse:
    return web.FileResponse(web_dir() / "index.html", headers={"Cache-Control": "no-cache"})


async def _start_or_stop(engine: EngineClient, stop: asyncio.Event) -> None:
    """Wait for the engine to be warm, or for the signal to stop before it is."""
    starting = asyncio.create_task(engine.start(), name="engine-start")
    stopping = asyncio.create_task(stop.wait(), name="stop-wait")
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting  # raises what went wrong
    finally:
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)


async def _open_sites(runner: web.AppRunner, settings: Settings) -> None:
    server = settings.server
    await runner.setup()
    ports: list[tuple[int, ssl.SSLContext | None]] = [(server.http_port, None)]
    if server.tls:
        ports.append((server.https_port, certs.ssl_context(certs.ensure_certificates(Path(server.certs_dir)))))
    for port, context in ports:
        try:
            await web.TCPSite(runner, server.host, port, ssl_context=context).start()
        except OSError as error:
            kind = "https" if context else "http"
            raise ConfigError(
                f"Cannot listen on {server.host}:{port}: {error.strerror or error}. "
                f"Is another server running? Choose another port with --{kind}-port."
            ) from error
