"""The process: wires settings, engine, calls and HTTP once, runs them, and takes them down in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from aiohttp import web

from rtc_server import certs, logs, metrics, process_metrics, tracing
from rtc_server.config import Settings
from rtc_server.errors import ConfigError
from rtc_server.exposure import Exposure, exposure
from rtc_server.inference.client import EngineClient
from rtc_server.inference.process import ProcessEngineClient
from rtc_server.inference.thread import ThreadEngineClient
from rtc_server.media.local import LocalNode
from rtc_server.media.node import MediaNode
from rtc_server.media.parts import engine_settings, silero_path, turn_judge_factory, vad_factory
from rtc_server.media.process import ProcessNode
from rtc_server.media.resumption import Resumption
from rtc_server.media.router import MediaRouter
from rtc_server.media.snapshot_store import LocalSnapshotStore, SnapshotWriter
from rtc_server.media.snapshots import SnapshotStore
from rtc_server.network.addresses import machine_addresses
from rtc_server.paths import web_dir
from rtc_server.recording.store import check as check_recording
from rtc_server.scheduling import place_executor, unused_media_settings

from . import calls, client_secrets, health, pipecat, realtime_ws, status, whip
from .connections import MAX_HEADERS, ConnectionTable, listen
from .context import CONTEXT, AppContext
from .guard import Guard, guarded, install
from .middleware import add_security_headers, errors_as_json
from .openapi import document
from .operations import OPERATIONS

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 256 * 1024  # the largest body is a session with the schemas of its tools
MakeEngine: TypeAlias = Callable[[Settings, str | None], EngineClient]
MakeStore: TypeAlias = Callable[[float], SnapshotStore]
HandOver: TypeAlias = Callable[[str], Awaitable[bytes | None]]
OnListening: TypeAlias = Callable[[web.Application, int], None]

SWITCH_INTERVAL_SECONDS = 0.0005  # a compute thread holds the GIL 5 ms by default: five playout ticks of ten calls


def run(settings: Settings, on_ready: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM. `on_ready` gets the one line to print. Returns the exit code.

    Raises ConfigError (a port in use, ...) and EngineError (the models cannot be loaded)."""
    logs.configure(settings.logging)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    if settings.server.media_workers:
        tracing.check(settings.tracing)  # the processes that carry calls send the spans
    else:
        tracing.configure(settings.tracing, "signaling")
    try:
        asyncio.run(_serve(settings, on_ready))
    finally:
        tracing.shutdown()
    return 0


async def _serve(settings: Settings, on_ready: Callable[[str], None]) -> None:
    with process_metrics.watching_loop():
        await serve(settings, on_ready)


async def serve(
    settings: Settings,
    on_ready: Callable[[str], None],
    stop: asyncio.Event | None = None,
    *,
    make_engine: MakeEngine | None = None,
    make_store: MakeStore = LocalSnapshotStore,
    hand_over_elsewhere: HandOver | None = None,
    on_listening: OnListening | None = None,
) -> None:
    """As `run`, on the running loop; `stop` ends it as a signal would. Signals are left alone outside the main thread.

    `make_engine` makes the engine client in place of `create_engine_client`, `make_store` the store of lost sessions
    from the seconds that these are kept; `hand_over_elsewhere` is asked for calls that are not here, when somebody goes
    on with their session; `on_listening` gets the application and the HTTP port before the models are loaded. A node of
    a cluster has its own of each (`inference.ray`)."""
    open_to = exposure(settings)
    loop = asyncio.get_running_loop()
    place_executor(settings.system.executor_cpu_affinity)
    if unused := unused_media_settings(settings):
        log.warning("there are no media workers to apply settings to", extra={"settings": ", ".join(unused)})
    stop = stop or asyncio.Event()
    is_main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGINT, signal.SIGTERM) if is_main else ()
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    # The engine's socket: only this user can reach it.
    folder = tempfile.TemporaryDirectory(prefix="rtc-server-")
    engine_path = str(Path(folder.name) / "engine.sock")
    make_engine = make_engine or create_engine_client
    engine = make_engine(settings, engine_path if settings.server.media_workers else None)
    try:
        async with asyncio.TaskGroup() as tasks:
            store = make_store(settings.session.resume_seconds)
            writer = SnapshotWriter(store, tasks)
            router = MediaRouter(
                _create_nodes(settings, engine, engine_path, tasks, writer),
                settings.server.max_calls,
                engine_calls=lambda: engine.max_calls,
            )
            hand_over = _handing_over(router, hand_over_elsewhere)
            resumption = Resumption(store, writer, hand_over) if settings.session.resume_seconds else None
            app = create_app(AppContext(settings, engine, router, resumption))
            runner = web.AppRunner(
                app,
                access_log=None,
                keepalive_timeout=settings.limits.idle_connection_seconds,
                max_headers=MAX_HEADERS,
            )
            servers: list[asyncio.Server] = []
            try:
                await _listen(runner, settings, servers)
                if on_listening is not None:
                    on_listening(app, servers[0].sockets[0].getsockname()[1])
                for node in router.nodes:
                    if isinstance(node, ProcessNode):
                        node.start()
                await _unless_stopped(_warm_up(engine, router), stop)
                if engine.is_ready and router.is_ready:
                    on_ready(
                        ready_line(
                            settings, engine, [server.sockets[0].getsockname()[1] for server in servers], open_to
                        )
                    )
                    await stop.wait()
            finally:
                await router.close(settings.server.shutdown_timeout_seconds)
                await engine.close()
                for server in servers:
                    server.close()
                await runner.cleanup()
    finally:
        folder.cleanup()
        for number in signals:
            loop.remove_signal_handler(number)


def _create_nodes(
    settings: Settings,
    engine: EngineClient,
    engine_path: str,
    tasks: asyncio.TaskGroup,
    snapshots: SnapshotWriter,
) -> list[MediaNode]:
    check_recording(settings.recording)  # raises here, like the next line's check, before anything is started
    num_workers = settings.server.media_workers
    if not num_workers:
        judge = turn_judge_factory(settings)
        vad = vad_factory(settings)
        return [LocalNode(settings, engine, vad, tasks, make_judge=judge, save_snapshot=snapshots.write)]
    silero_path(settings)  # raises here, before anything is started, when the model file is missing
    return [ProcessNode(settings, index, engine_path, snapshots.write) for index in range(num_workers)]


def _handing_over(router: MediaRouter, elsewhere: HandOver | None) -> HandOver:
    async def hand_over(call_id: str) -> bytes | None:
        if elsewhere is None or router.carries(call_id):
            return await router.hand_over(call_id)
        return await elsewhere(call_id)

    return hand_over


async def _warm_up(engine: EngineClient, router: MediaRouter) -> None:
    """Until the models are warm and every media worker is connected to them; then calls are taken."""
    await engine.start()
    await asyncio.gather(*(node.wait_ready() for node in router.nodes if isinstance(node, ProcessNode)))
    router.open()


def create_app(context: AppContext) -> web.Application:
    """The HTTP surface. Raises ConfigError when a file of keys cannot be used."""
    app = web.Application(middlewares=[errors_as_json, guarded], client_max_size=MAX_REQUEST_BYTES)
    app[CONTEXT] = context
    install(app, Guard(context.settings))
    app.on_response_prepare.append(add_security_headers)
    app[pipecat.STARTED] = pipecat.StartedSessions()
    app.add_routes(calls.routes)
    app.add_routes(client_secrets.routes)
    app.add_routes(realtime_ws.routes)
    app.cleanup_ctx.append(realtime_ws.parser_pool)
    app.add_routes(pipecat.routes)
    app.add_routes(whip.routes)
    app.add_routes(health.routes)
    app[status.STARTED_AT] = time.monotonic()
    app.add_routes(status.routes)
    app.router.add_get("/", _index)
    app[health.OPENAPI] = document(app.router.routes(), OPERATIONS)
    app.router.add_static("/static/", web_dir(), append_version=False)
    return app


def create_engine_client(settings: Settings, listen_path: str | None = None) -> EngineClient:
    """The client for the configured backend, not started yet."""
    isolation = ProcessEngineClient if settings.engine.isolation == "process" else ThreadEngineClient
    return isolation(engine_settings(settings, listen_path))


ACCESS: dict[Exposure, str] = {
    "keys": "callers need a key",
    "this machine": "open to this machine only",
    "everybody": "OPEN TO EVERYBODY, without a key",
}


def ready_line(settings: Settings, engine: EngineClient, ports: Sequence[int], open_to: Exposure) -> str:
    """The one line that `serve` prints: where to go, with the ports that were really opened, and who may."""
    host = settings.server.host
    is_everywhere = host in ("0.0.0.0", "::")
    local = "127.0.0.1" if is_everywhere or host == "localhost" else host
    lan = next((a for a in machine_addresses() if ":" not in a), local) if is_everywhere else local
    urls = [f"http://{local}:{ports[0]}"]
    if settings.server.tls:
        urls.append(f"https://{lan}:{ports[1]}")
    how = f"backend {settings.engine.backend}, warm after {engine.load_seconds:.1f} s, {ACCESS[open_to]}"
    return f"rtc-server ready: {'  '.join(urls)}  ({how})"


async def _index(request: web.Request) -> web.FileResponse:
    return web.FileResponse(web_dir() / "index.html", headers={"Cache-Control": "no-cache"})


async def _unless_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """Wait for `work`, or for the signal to stop before it is done. Raises what `work` raises."""
    working = asyncio.create_task(work, name="warm-up")
    stopping = asyncio.create_task(stop.wait(), name="stop-wait")
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _listen(runner: web.AppRunner, settings: Settings, servers: list[asyncio.Server]) -> None:
    """Open the ports, HTTP first; `servers` gets each as soon as it is open."""
    server = settings.server
    await runner.setup()
    ports: list[tuple[str, int, ssl.SSLContext | None]] = [("--http-port", server.http_port, None)]
    if server.tls:
        certificate = certs.ensure_certificates(Path(server.certs_dir))
        metrics.CERTIFICATE_EXPIRES.set(certs.describe(certificate).not_after.timestamp())
        tls = certs.ssl_context(certificate)
        ports.append(("--https-port", server.https_port, tls))
    if server.realtime_port:
        ports.append(("--realtime-port (0 = none)", server.realtime_port, None))
    table = ConnectionTable(settings.limits, settings.auth.trusted_proxies)
    for option, port, context in ports:
        try:
            servers.append(await listen(runner, table, server.host, port, context))
        except OSError as error:
            raise ConfigError(
                f"Cannot listen on {server.host}:{port}: {error.strerror or error}. "
                f"Is another server running? Choose another port with {option}."
            ) from error
