"""One model worker: a Serve replica that hosts one engine process and streams what it makes to whoever asks.

The engine keeps the interface and the process that it has on a single machine, so the replica's event loop stays free.
A worker whose engine process is lost ends too: Ray starts another, and the next turn goes elsewhere meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError

from model.interface import EngineEvent, GenerateRequest, ResponseDone
from rtc_server import logs
from rtc_server.config import Settings
from rtc_server.errors import EngineError
from rtc_server.exposure import is_loopback
from rtc_server.inference.process import ProcessEngineClient
from rtc_server.inference.wire import Cancel, Command, Grant, Release
from rtc_server.media.parts import engine_settings

from .messages import WorkerDescription, WorkerEvents
from .page import PageReporter
from .scaling import PRESSURE, fullness

log = logging.getLogger(__name__)

STEP_SECONDS = 20.0
"""A synthetic step takes a model milliseconds; one that answers nothing at all for so long stands still."""
LOST_STATUS = 1


class EngineWorker:
    """A Serve deployment (see `applications.workers`); one instance is one replica."""

    async def __init__(self, settings: Settings, page_port: int | None) -> None:  # type: ignore[misc]  # Serve awaits it
        """Loads and warms the engine. Raises EngineError when it cannot be loaded."""
        logs.configure(settings.logging)
        self.worker_id = serve.get_replica_context().replica_id.unique_id
        self._machine = ray.get_runtime_context().get_node_id()
        self._engine = ProcessEngineClient(engine_settings(settings))
        self._pollers: dict[str, asyncio.Task[None]] = {}  # by media node, while it has responses here
        self._live: dict[str, tuple[str, asyncio.Queue[EngineEvent | None]]] = {}  # response -> its node, its events
        self._num_events = 0
        self._num_checks = 0
        self._page = None
        if page_port is not None:
            host = "127.0.0.1" if is_loopback(settings.server.host) else settings.server.host
            self._page = PageReporter(host, page_port, self.worker_id, self.status, self._engine.metrics)
        await self._engine.start()
        self._engine.on_ready_changed = self._end_with_engine
        if self._page is not None:
            self._page.start()
        log.info("worker ready", extra={"worker_id": self.worker_id, "model": self._engine.info.name})

    async def __del__(self) -> None:
        """Serve awaits it after the last response, or when the time for that is over."""
        self._engine.on_ready_changed = None
        if self._page is not None:
            await self._page.close()
        pollers = [*self._pollers.values()]
        for poller in pollers:
            poller.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)
        await self._engine.close()

    async def describe(self) -> WorkerDescription:
        """What the engine is."""
        return WorkerDescription(self._engine.info, self._engine.load_seconds)

    async def generate(self, request: GenerateRequest, node: str, mailbox: Any) -> AsyncIterator[WorkerEvents]:
        """The events of one response, as they come; first of all who makes it. `mailbox` is an actor with
        `take_commands(worker_id)`, named `node` here: grants, releases and cancels are fetched there."""
        response_id = request.response_id
        events: asyncio.Queue[EngineEvent | None] = asyncio.Queue()  # bounded by audio credit and max_output_tokens
        self._engine.submit(request, events.put_nowait)
        self._live[response_id] = (node, events)
        try:
            yield self._message(())
            if node not in self._pollers:
                self._pollers[node] = asyncio.create_task(self._poll(node, mailbox), name=f"commands-{node}")
            while True:
                batch = [await events.get()]
                while not events.empty():
                    batch.append(events.get_nowait())
                found = tuple(event for event in batch if event is not None)
                self._num_events += len(found)
                if found:
                    yield self._message(found)
                if batch[-1] is None or isinstance(batch[-1], ResponseDone):
                    return
        finally:
            del self._live[response_id]
            self._engine.cancel(response_id)  # nothing, if it has ended

    async def check_health(self) -> None:
        """Serve's health check: the engine makes something, or it is asked for a word and has to answer. Raises
        EngineError otherwise."""
        seen = self._num_events
        self._num_checks += 1
        response_id = f"health-{self._num_checks}"
        done: asyncio.Future[ResponseDone] = asyncio.get_running_loop().create_future()

        def on_event(event: EngineEvent) -> None:
            if isinstance(event, ResponseDone) and not done.done():
                done.set_result(event)

        step = GenerateRequest(
            "health", response_id, response_id, (), instructions="Say yes.", output="text", max_output_tokens=1
        )
        self._engine.submit(step, on_event)
        try:
            async with asyncio.timeout(STEP_SECONDS):
                result = await done
        except TimeoutError:
            if self._num_events == seen:
                raise EngineError("engine_stalled", f"The engine did not answer within {STEP_SECONDS:g} s.") from None
            return  # behind others in the queue, whose events come
        finally:
            self._engine.cancel(response_id)
        if result.status == "failed" and result.fault is not None and result.fault.code != "engine_busy":
            raise EngineError(result.fault.code, result.fault.message)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve's autoscaling policy gets of this worker."""
        return {PRESSURE: self._pressure()}

    def status(self) -> dict[str, object]:
        """For the page of the machine's workers."""
        info = self._engine.info
        return {
            "worker_id": self.worker_id,
            "pid": os.getpid(),
            "engine_pid": self._engine.pid,
            "model": info.name,
            "ready": self._engine.is_ready,
            "responses": len(self._live),
            "max_sequences": info.max_sequences,
            "pressure": round(self._pressure(), 3),
            "load_seconds": round(self._engine.load_seconds, 2),
        }

    def _pressure(self) -> float:
        report = self._engine.report
        caches = () if report is None else report.load.caches
        return fullness(len(self._live), self._engine.info.max_sequences, caches)

    def _message(self, events: tuple[EngineEvent, ...]) -> WorkerEvents:
        return WorkerEvents(self.worker_id, self._machine, time.monotonic(), events)

    async def _poll(self, node: str, mailbox: Any) -> None:
        """Fetch what a media node says about its responses, as long as it has some here."""
        try:
            while self._responses_of(node):
                commands: tuple[Command, ...] = await mailbox.take_commands.remote(self.worker_id)
                for command in commands:
                    match command:
                        case Grant(response_id, audio_ms):
                            self._engine.grant(response_id, audio_ms)
                        case Release(response_id):
                            self._engine.release(response_id)
                        case Cancel(response_id):
                            self._end(response_id)
        except RayError:  # the media node is lost, and its calls with it: nobody waits for what is made for them
            log.warning("a media node was lost", extra={"node": node, "responses": len(self._responses_of(node))})
            for response_id in self._responses_of(node):
                self._end(response_id)
        finally:
            del self._pollers[node]

    def _responses_of(self, node: str) -> list[str]:
        return [response_id for response_id, (owner, _) in self._live.items() if owner == node]

    def _end(self, response_id: str) -> None:
        """Stop making a response; its stream ends without another event."""
        if response_id in self._live:
            self._engine.cancel(response_id)
            self._live[response_id][1].put_nowait(None)

    def _end_with_engine(self, is_ready: bool) -> None:
        if not is_ready:
            log.error("the engine was lost; this worker ends with it", extra={"worker_id": self.worker_id})
            logging.shutdown()
            os._exit(
                LOST_STATUS
            )  # from the loop of a thread: an exception would end the request that is in it, no more
