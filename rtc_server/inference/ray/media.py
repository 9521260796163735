"""One media node: an actor that runs the whole server, with its own signaling port, UDP sockets and calls.

The server has an event loop of its own, in a thread; the actor's methods only ask it. Its engine client is the one of
`client`, so no sound crosses Ray but what engines make. A node that fails ends its process, and Ray starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import ray
from aiohttp import web
from ray.exceptions import RayError

from rtc_server import logs, process_metrics, tracing
from rtc_server.app.context import CONTEXT
from rtc_server.app.guard import GUARD
from rtc_server.app.pipecat import STARTED
from rtc_server.app.server import SWITCH_INTERVAL_SECONDS, serve
from rtc_server.config import Settings
from rtc_server.errors import ApiError
from rtc_server.inference.client import EngineClient
from rtc_server.inference.wire import Command
from rtc_server.media.parts import engine_settings

from .client import RayEngineClient
from .messages import NAMESPACE, NodeState
from .options import node_settings
from .sessions import RaySnapshotStore, keeper_actor

log = logging.getLogger(__name__)

Result = TypeVar("Result")
FAILED_STATUS = 1
CLOSE_GRACE_SECONDS = 5.0
ASK_SECONDS = 1.0  # a node that does not answer by then gets no new call


class MediaNodeActor:
    """Named `name` in the namespace of the cluster (`node_actor`)."""

    def __init__(self, name: str, settings: Settings, index: int, num_nodes: int, max_workers: int) -> None:
        """`index` of `num_nodes`, which share what `max_workers` engines can serve."""
        machines = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        settings = node_settings(settings, index, machines)
        logs.configure(settings.logging)
        sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
        self._name = name
        self._settings = settings
        self._share = (num_nodes, max_workers)
        context = ray.get_runtime_context()
        self._machine = context.get_node_id()
        self._me = context.current_actor
        # Ray's own loop, which exists already, is uvloop's; the server is written for and tested on asyncio's.
        asyncio.set_event_loop_policy(None)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._engine: RayEngineClient | None = None
        self._app: web.Application | None = None
        self._port = 0
        self._keeper = keeper_actor(settings.session.resume_seconds)
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)
        self._thread.start()

    async def state(self) -> NodeState:
        """How it is; asked often."""
        return await self._in_loop(self._state())

    async def knows(self, ids: Sequence[str]) -> bool:
        """One of the calls, started sessions or client secrets is here."""
        return await self._in_loop(self._knows(ids))

    async def take_commands(self, worker_id: str) -> tuple[Command, ...]:
        """The long poll of a model worker; see `mailbox`."""
        if self._engine is None:
            return ()
        return await self._in_loop(self._engine.mailbox.take(worker_id))

    async def hand_over(self, call_id: str) -> bytes | None:
        """End a call whose session goes on in another, and give its last snapshot; None when it is not here."""
        return await self._in_loop(self._hand_over(call_id))

    async def close(self) -> None:
        """End every call in order."""
        self._loop.call_soon_threadsafe(self._stop.set)
        wait = self._settings.server.shutdown_timeout_seconds + CLOSE_GRACE_SECONDS
        await asyncio.to_thread(self._thread.join, wait)

    # --- in the server's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            if self._settings.server.media_workers:
                tracing.check(self._settings.tracing)  # the processes that carry calls send the spans
            else:
                tracing.configure(self._settings.tracing, self._name)
            self._loop.run_until_complete(self._serve())
            tracing.shutdown()
        except BaseException:  # whatever ended the server ends the node, so that Ray starts it anew
            log.exception("the media node failed", extra={"node": self._name})
            logging.shutdown()
            os._exit(FAILED_STATUS)

    async def _serve(self) -> None:
        with process_metrics.watching_loop():
            await serve(
                self._settings,
                lambda line: log.info("media node ready", extra={"node": self._name}),
                self._stop,
                make_engine=self._make_engine,
                make_store=lambda _: RaySnapshotStore(self._keeper),
                hand_over_elsewhere=self._hand_over_elsewhere,
                on_listening=self._on_listening,
            )

    def _make_engine(self, settings: Settings, listen_path: str | None) -> EngineClient:
        num_nodes, max_workers = self._share
        self._engine = RayEngineClient(
            engine_settings(settings, listen_path),
            self._name,
            self._me,
            self._machine,
            lambda calls: calls * max_workers // num_nodes,
        )
        return self._engine

    def _on_listening(self, app: web.Application, port: int) -> None:
        self._app, self._port = app, port

    async def _state(self) -> NodeState:
        if self._app is None:
            return NodeState(self._name, "", 0, 0, is_ready=False)
        url = f"http://{host_of(self._settings)}:{self._port}"
        router = self._app[CONTEXT].router
        return NodeState(self._name, url, router.num_calls, router.limit.max_calls, router.is_ready)

    async def _knows(self, ids: Sequence[str]) -> bool:
        if self._app is None:
            return False
        router, started = self._app[CONTEXT].router, self._app[STARTED]
        now = self._loop.time()
        for name in ids:
            if router.carries(name) or self._app[GUARD].authenticator.secrets.find(name, time.time()) is not None:
                return True
            with contextlib.suppress(ApiError):
                started.get(name, now)
                return True
        return False

    async def _hand_over(self, call_id: str) -> bytes | None:
        if self._app is None or not self._app[CONTEXT].router.carries(call_id):
            return None
        try:
            return await self._app[CONTEXT].router.hand_over(call_id)
        except ApiError:  # it has ended meanwhile
            return None

    async def _hand_over_elsewhere(self, call_id: str) -> bytes | None:
        """Of whichever node answers first that it had the call; a lost one keeps nobody waiting for long."""
        nodes = await asyncio.to_thread(self._others)
        asked = [asyncio.create_task(ask(node.hand_over, call_id), name="hand-over") for node in nodes]
        try:
            for answer in asyncio.as_completed(asked):
                if isinstance(data := await answer, bytes):
                    return data
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return None

    def _others(self) -> list[Any]:
        found = []
        for index in range(self._share[0]):
            if (name := f"media-{index}") != self._name:
                with contextlib.suppress(ValueError):  # the cluster is just being started, or taken down
                    found.append(ray.get_actor(name, NAMESPACE))
        return found

    async def _in_loop(self, work: Coroutine[Any, Any, Result]) -> Result:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


async def ask(method: Any, *arguments: object) -> object:
    """An actor's answer; None if it gives none in time, or has failed."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            return await method.remote(*arguments)
    except (RayError, TimeoutError):
        return None


def host_of(settings: Settings) -> str:
    """The address under which the controller reaches this machine's node."""
    return "127.0.0.1" if settings.server.host == "127.0.0.1" else str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def node_actor(index: int, settings: Settings, num_nodes: int, max_workers: int) -> Any:
    """The media node of that number; made if there is none. It lives until `cluster.stop` or the end of the cluster."""
    name = f"media-{index}"
    return (
        ray.remote(MediaNodeActor)
        .options(
            name=name,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=1_000,
            scheduling_strategy="SPREAD",
        )
        .remote(name, settings, index, num_nodes, max_workers)
    )
