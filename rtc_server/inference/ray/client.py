"""A media node's side of the model workers: the engine client whose engines are elsewhere in the cluster.

Which worker makes a response is decided by Serve: the same one for all turns of a call while it lives and has room
(consistent hashing over the call's id), so that its prefix cache serves again. Requests carry the whole history; any
other worker makes the next turn just as well, only later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, RayServeException

from model.interface import EngineEvent, EngineFault, GenerateRequest, ResponseDone
from rtc_server import metrics
from rtc_server.inference.client import EngineClient, EngineSettings
from rtc_server.inference.gateway import EngineGateway
from rtc_server.inference.wire import Cancel, Command, Grant, Release, Submit

from .mailbox import Mailbox
from .messages import WORKERS, WORKERS_APP, WorkerDescription, WorkerEvents

log = logging.getLogger(__name__)

WATCH_SECONDS = 2.0
LOST = EngineFault("engine_lost", "The model worker stopped unexpectedly; the next turn goes to another.")
BUSY = EngineFault("engine_busy", "The model workers have no room for another response.")


class _Stream:
    """One response that is being made."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.worker_id: str | None = None
        self.early: list[Command] = []  # before it was known who makes it


class RayEngineClient(EngineClient):
    """See `EngineClient`. `mailbox_actor` is the actor that lets the workers take from `mailbox`."""

    def __init__(
        self,
        settings: EngineSettings,
        name: str,
        mailbox_actor: Any,
        machine: str,
        calls_per_node: Callable[[int], int] = lambda calls: calls,
    ) -> None:
        """`name` is the media node's, `machine` Ray's id of its machine. `calls_per_node` turns what one engine serves
        in time into what this node may admit."""
        super().__init__(settings)
        self.mailbox = Mailbox()
        self._name = name
        self._mailbox_actor = mailbox_actor
        self._machine = machine
        self._calls_per_node = calls_per_node
        self._streams: dict[str, _Stream] = {}
        self._lost: set[str] = set()  # workers, as far as a response told us
        self._workers: Any = None
        self._watching: asyncio.Task[None] | None = None
        self._gateway = None if settings.listen_path is None else EngineGateway(self, settings.listen_path)

    @property
    def max_calls(self) -> int | None:
        """This node's part of what the engines serve in time; None when they do not know."""
        calls = super().max_calls
        return None if calls is None else max(1, self._calls_per_node(calls))

    async def start(self) -> None:
        """Wait for the first warm worker; Serve goes on trying."""
        self._workers = serve.get_deployment_handle(WORKERS, WORKERS_APP)
        self._watching = asyncio.create_task(self._watch(), name="workers-watch")
        description: WorkerDescription = await self._workers.describe.remote()
        self._on_engine_ready(description.info, description.load_seconds)
        await self._tell_media_workers()

    async def close(self) -> None:
        """See `EngineClient`. The workers go on."""
        self._closing.set()
        if self._gateway is not None:
            await self._gateway.close()
        tasks = [stream.task for stream in self._streams.values() if stream.task is not None]
        tasks += [self._watching] if self._watching is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fail_live("engine_lost", "The server is closing.")

    def _send(self, command: Command) -> None:
        match command:
            case Submit(request):
                stream = self._streams[request.response_id] = _Stream()
                stream.task = asyncio.create_task(self._follow(request, stream), name=f"response-{request.response_id}")
            case Grant(response_id) | Release(response_id) | Cancel(response_id):
                self._post(response_id, command)
            case _:
                raise ValueError(f"a worker takes no {type(command).__name__}")

    def _post(self, response_id: str, command: Command) -> None:
        if (stream := self._streams.get(response_id)) is None:
            return  # it has ended
        if stream.worker_id is not None:
            self.mailbox.post(stream.worker_id, command)
        elif isinstance(command, Cancel):
            assert stream.task is not None
            stream.task.cancel()  # Serve drops it, or tells the worker that has just got it
        else:
            stream.early.append(command)

    async def _follow(self, request: GenerateRequest, stream: _Stream) -> None:
        """From the request to the last event. Whatever happens, the response ends."""
        response_id, fault = request.response_id, LOST
        messages = self._workers.options(stream=True, session_id=request.call_id).generate.remote(
            request, self._name, self._mailbox_actor
        )
        try:
            async for message in messages:
                self._take(message, stream)
        except asyncio.CancelledError:
            messages.cancel()
            raise
        except BackPressureError:
            fault = BUSY
        except RayActorError:
            self._count_lost(stream.worker_id)
        except (RayError, RayServeException) as error:  # of the worker's own code, or no worker is left
            log.error(
                "a response failed at its worker", extra={"response_id": response_id, "reason": type(error).__name__}
            )
        finally:
            del self._streams[response_id]
            if stream.worker_id is not None and all(s.worker_id != stream.worker_id for s in self._streams.values()):
                self.mailbox.forget(stream.worker_id)
        # Nothing if its last event was there.
        self._deliver(ResponseDone(response_id, "failed", asyncio.get_running_loop().time(), fault))

    def _take(self, message: WorkerEvents, stream: _Stream) -> None:
        if stream.worker_id is None:
            stream.worker_id = message.worker_id
            for command in stream.early:
                self.mailbox.post(message.worker_id, command)
        now = asyncio.get_running_loop().time()
        behind = 0.0 if message.machine == self._machine else now - message.sent_at
        for event in message.events:
            self._deliver(shifted(event, behind) if behind else event)

    def _count_lost(self, worker_id: str | None) -> None:
        if worker_id is not None and worker_id not in self._lost:
            self._lost.add(worker_id)
            self.restarts += 1
            metrics.ENGINE_RESTARTS.inc()
            log.warning("a model worker was lost", extra={"worker_id": worker_id})

    async def _watch(self) -> None:
        """Is a worker there at all? What Serve says decides whether new calls are taken."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                running = await asyncio.to_thread(running_workers)
            except (RayError, RayServeException):
                continue  # Serve's controller is away; the workers are not, so what was known stays
            if self._info is not None:
                self._set_ready(running > 0)
                await self._tell_media_workers()
                if running:
                    self._send_waiting()

    async def _tell_media_workers(self) -> None:
        if self._gateway is not None:
            await self._gateway.follow()


def running_workers() -> int:
    """How many are warm. Blocks for some milliseconds."""
    application = serve.status().applications.get(WORKERS_APP)
    deployment = None if application is None else application.deployments.get(WORKERS)
    return (
        0 if deployment is None else sum(num for state, num in deployment.replica_states.items() if state == "RUNNING")
    )


def shifted(event: EngineEvent, seconds: float) -> EngineEvent:
    """The event on this machine's clock: `time.monotonic` of two machines has nothing in common. What the network took
    is lost by it, which is some milliseconds; the stages of a turn keep their lengths."""
    return replace(event, at=event.at + seconds)
