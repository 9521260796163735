"""The process: wires settings, engine, calls and HTTP once, runs them, and takes them down in order."""

from __future__ import annotations

import asyncio
import logging
import os
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

from rtc_server import logs, process_metrics, tracing
from rtc_server.calls.early_media import read_early_media
from rtc_server.config import Settings
from rtc_server.errors import ConfigError
from rtc_server.exposure import Exposure, exposure
from rtc_server.inference.client import EngineClient
from rtc_server.inference.process import ProcessEngineClient
from rtc_server.inference.thread import ThreadEngineClient
from rtc_server.media.local import LocalNode
from rtc_server.media.node import MediaNode
from rtc_server.media.parts import (
    check_cleaning,
    engine_settings,
    load_cleaning,
    silero_path,
    turn_judge_factory,
    vad_factory,
)
from rtc_server.media.process import ProcessNode
from rtc_server.media.resumption import Resumption
from rtc_server.media.router import MediaRouter
from rtc_server.media.snapshot_store import LocalSnapshotStore, SnapshotWriter
from rtc_server.media.snapshots import SnapshotStore
from rtc_server.network.addresses import machine_addresses
from rtc_server.recording.store import check as check_recording
from rtc_server.relays.ice_servers import IceServers
from rtc_server.scheduling import place_executor, unused_media_settings
from rtc_server.sip.service import SipService

from . import admin, calls, client_secrets, health, ice_servers, page, pipecat, realtime_ws, status, telephone, whip
from .connections import MAX_HEADERS, ConnectionTable, listen
from .context import CONTEXT, AppContext
from .guard import GUARD, Guard, guarded, install
from .lifecycle import Lifecycle
from .middleware import add_security_headers, errors_as_json
from .openapi import document
from .operations import OPERATIONS
from .reload import Reloader
from .systemd import Notifier
from .tls import ServedCertificate
from .upkeep import keep_up
from .webhook import IncomingCallWebhook

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 256 * 1024  # the largest body is a session with the schemas of its tools
MakeEngine: TypeAlias = Callable[[Settings, str | None], EngineClient]
MakeStore: TypeAlias = Callable[[float], SnapshotStore]
HandOver: TypeAlias = Callable[[str], Awaitable[bytes | None]]
OnListening: TypeAlias = Callable[[web.Application, int], None]

SWITCH_INTERVAL_SECONDS = 0.0005  # a compute thread holds the GIL 5 ms by default: five playout ticks of ten calls


def run(settings: Settings, on_ready: Callable[[str], None], load: Callable[[], Settings]) -> int:
    """Serve until SIGINT or SIGTERM. `on_ready` gets the one line to print. Returns the exit code.

    Raises ConfigError (a port in use, ...) and EngineError (the models cannot be loaded)."""
    logs.configure(settings.logging)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    if settings.server.media_workers:
        tracing.check(settings.tracing)  # the processes that carry calls send the spans
    else:
        tracing.configure(settings.tracing, "signaling")
    try:
        asyncio.run(_serve(settings, on_ready, load))
    finally:
        tracing.shutdown()
    return 0


async def _serve(settings: Settings, on_ready: Callable[[str], None], load: Callable[[], Settings]) -> None:
    with process_metrics.watching_loop():
        await serve(settings, on_ready, load=load)


async def serve(
    settings: Settings,
    on_ready: Callable[[str], None],
    stop: asyncio.Event | None = None,
    load: Callable[[], Settings] | None = None,
    *,
    make_engine: MakeEngine | None = None,
    make_store: MakeStore = LocalSnapshotStore,
    hand_over_elsewhere: HandOver | None = None,
    on_listening: OnListening | None = None,
) -> None:
    """As `run`, on the running loop; `stop` ends it as Ctrl-C would, `load` reads the settings again. Signals are left
    alone outside the main thread.

    `make_engine` makes the engine client in place of `create_engine_client`, `make_store` the store of lost sessions
    from the seconds that these are kept; `hand_over_elsewhere` is asked for calls that are not here, when somebody goes
    on with their session; `on_listening` gets the application and the HTTP port before the models are loaded. A node of
    a cluster has its own of each (`inference.ray`)."""
    open_to = exposure(settings)
    loop = asyncio.get_running_loop()
    place_executor(settings.system.executor_cpu_affinity)
    if unused := unused_media_settings(settings):
        log.warning("there are no media workers to apply settings to", extra={"settings": ", ".join(unused)})
    lifecycle = Lifecycle(stop)
    asked = asyncio.Event()
    signals = {signal.SIGINT: lifecycle.interrupt, signal.SIGTERM: lifecycle.terminate, signal.SIGHUP: asked.set}
    if threading.current_thread() is not threading.main_thread():
        signals = {}
    for number, handler in signals.items():
        loop.add_signal_handler(number, handler)
    # The engine's socket: only this user can reach it.
    folder = tempfile.TemporaryDirectory(prefix="rtc-server-")
    engine_path = str(Path(folder.name) / "engine.sock")
    make_engine = make_engine or create_engine_client
    engine = make_engine(settings, engine_path if settings.server.media_workers else None)
    notifier = Notifier(os.environ)
    try:
        async with asyncio.TaskGroup() as tasks:
            store = make_store(settings.session.resume_seconds)
            writer = SnapshotWriter(store, tasks)
            ended = EndedCalls()
            router = MediaRouter(
                _create_nodes(settings, engine, engine_path, tasks, writer, ended.tell),
                settings.server.max_calls,
                engine_calls=lambda: engine.max_calls,
                reserved_calls=settings.admission.reserved_calls,
                underruns_per_minute=settings.admission.max_underruns_per_minute,
            )
            hand_over = _handing_over(router, hand_over_elsewhere)
            resumption = Resumption(store, writer, hand_over) if settings.session.resume_seconds else None
            context = AppContext(settings, engine, router, lifecycle, resumption=resumption)
            if settings.sip.enabled:
                context.telephony = ended.follower = create_telephony(context, tasks)
            app = create_app(context)
            reloader = Reloader(context, app[GUARD], load or (lambda: settings), notifier)
            context.reload = reloader.reload
            runner = web.AppRunner(
                app,
                access_log=None,
                keepalive_timeout=settings.limits.idle_connection_seconds,
                max_headers=MAX_HEADERS,
            )
            servers: list[asyncio.Server] = []
            always = [
                tasks.create_task(keep_up(context, notifier), name="upkeep"),
                tasks.create_task(notifier.watchdog(), name="systemd-watchdog"),
            ]
            try:
                await _listen(runner, context, servers)
                if context.telephony is not None:
                    await context.telephony.start()
                if on_listening is not None:
                    on_listening(app, servers[0].sockets[0].getsockname()[1])
                for node in router.nodes:
                    if isinstance(node, ProcessNode):
                        node.start()
                await _unless_ending(_warm_up(engine, router), lifecycle)
                if context.telephony is not None:
                    context.telephony.observe()
                if engine.is_ready and router.is_ready:
                    if context.telephony is not None:
                        context.telephony.observe()  # before it is said that the server is ready
                    on_ready(
                        ready_line(
                            settings, engine, [server.sockets[0].getsockname()[1] for server in servers], open_to
                        )
                    )
                    notifier.ready()
                    always.append(tasks.create_task(reloader.on_signal(asked), name="reload"))
                    await lifecycle.wait_ending()
                    notifier.stopping()
                    await _drain(router, context.settings, lifecycle)
            finally:
                if context.telephony is not None:
                    await context.telephony.close()
                if context.webhook is not None:
                    await context.webhook.close()
                await router.close(context.settings.server.shutdown_timeout_seconds)
                await engine.close()
                for task in always:
                    task.cancel()
                for server in servers:
                    server.close()
                await runner.cleanup()
    finally:
        folder.cleanup()
        notifier.close()
        for number in signals:
            loop.remove_signal_handler(number)


def _create_nodes(
    settings: Settings,
    engine: EngineClient,
    engine_path: str,
    tasks: asyncio.TaskGroup,
    snapshots: SnapshotWriter,
    on_end: Callable[[str], None],
) -> list[MediaNode]:
    read_early_media(settings.sip.early_media)  # raises here, like the next lines, before anything is started
    check_recording(settings.recording)
    check_cleaning(settings)
    num_workers = settings.server.media_workers
    if not num_workers:
        load_cleaning(settings)
        judge = turn_judge_factory(settings)
        vad = vad_factory(settings)
        return [LocalNode(settings, engine, vad, tasks, make_judge=judge, on_end=on_end, save_snapshot=snapshots.write)]
    silero_path(settings)  # raises here, before anything is started, when the model file is missing
    return [ProcessNode(settings, index, engine_path, snapshots.write, on_end) for index in range(num_workers)]


class EndedCalls:
    """Tells the telephone side which calls are over; nobody, where there is none."""

    def __init__(self) -> None:
        self.follower: SipService | None = None

    def tell(self, call_id: str) -> None:
        """A node's call is over."""
        if self.follower is not None:
            self.follower.on_call_ended(call_id)


def create_telephony(context: AppContext, tasks: asyncio.TaskGroup) -> SipService:
    """Telephone calls, not started yet. Raises ConfigError where the extra is not installed, or the webhook's secret
    cannot be used."""
    router = context.router
    context.webhook = webhook = IncomingCallWebhook.of(context.settings.sip, lambda call_id: telephony.rings(call_id))
    telephony = SipService(
        context.settings,
        router,
        tasks,
        is_ready=lambda: context.engine.is_ready and router.is_ready and not router.is_draining,
        on_incoming=None if webhook is None else webhook.tell,
    )
    return telephony


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
    """The HTTP surface. Raises ConfigError when a file of keys, or the TURN secret, cannot be used."""
    app = web.Application(middlewares=[errors_as_json, guarded], client_max_size=MAX_REQUEST_BYTES)
    app[CONTEXT] = context
    install(app, Guard(context.settings))
    app.on_response_prepare.append(add_security_headers)
    app[pipecat.STARTED] = pipecat.StartedSessions()
    app.add_routes(calls.routes)
    app.add_routes(telephone.routes)
    app.add_routes(client_secrets.routes)
    app.add_routes(realtime_ws.routes)
    app.cleanup_ctx.append(realtime_ws.parser_pool)
    app.add_routes(pipecat.routes)
    app.add_routes(whip.routes)
    context.ice_servers = IceServers(context.settings)
    app.add_routes(ice_servers.routes)
    app.add_routes(health.routes)
    app[status.STARTED_AT] = time.monotonic()
    app.add_routes(status.routes)
    app.add_routes(admin.routes)
    app.add_routes(page.routes)
    app[health.OPENAPI] = document(app.router.routes(), OPERATIONS)
    page.add_static(app)
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


async def _drain(router: MediaRouter, settings: Settings, lifecycle: Lifecycle) -> None:
    """Let the calls end, then the replies that some of them are in; cut short when somebody is in a hurry."""
    server = settings.server
    if lifecycle.hurry.is_set():
        return
    log.info("draining", extra={"calls": router.num_calls, "timeout_seconds": server.drain_timeout_seconds})
    await router.drain(server.drain_timeout_seconds, lifecycle.hurry)
    if router.num_calls and not lifecycle.hurry.is_set():
        finishing = router.finish_replies(server.shutdown_timeout_seconds)
        await _unless(finishing, lifecycle.hurry.wait())
    log.info("drained", extra={"calls": router.num_calls})


async def _unless_ending(work: Coroutine[Any, Any, None], lifecycle: Lifecycle) -> None:
    """Wait for `work`, or for the signal to stop before it is done. Raises what `work` raises."""
    await _unless(work, lifecycle.wait_ending())


async def _unless(work: Coroutine[Any, Any, None], other: Coroutine[Any, Any, object]) -> None:
    working = asyncio.create_task(work, name="work")
    stopping = asyncio.create_task(other, name="stop-wait")
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


async def _listen(runner: web.AppRunner, context: AppContext, servers: list[asyncio.Server]) -> None:
    """Open the ports, HTTP first; `servers` gets each as soon as it is open."""
    settings, server = context.settings, context.settings.server
    await runner.setup()
    ports: list[tuple[str, int, ssl.SSLContext | None]] = [("--http-port", server.http_port, None)]
    if server.tls:
        context.tls = ServedCertificate(Path(server.certs_dir))
        ports.append(("--https-port", server.https_port, context.tls.context))
    if server.realtime_port:
        ports.append(("--realtime-port (0 = none)", server.realtime_port, None))
    table = ConnectionTable(settings.limits, settings.auth.trusted_proxies)
    for option, port, tls in ports:
        try:
            servers.append(await listen(runner, table, server.host, port, tls))
        except OSError as error:
            raise ConfigError(
                f"Cannot listen on {server.host}:{port}: {error.strerror or error}. "
                f"Is another server running? Choose another port with {option}."
            ) from error
