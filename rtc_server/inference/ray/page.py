"""Status and metrics of a machine's model workers over HTTP: one page for all of them, wherever Ray puts them.

The page is an actor of its own on each machine, because several replicas cannot share a port; they report to it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ray
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rtc_server import metrics, process_metrics
from rtc_server.media.merge import Merged, merge

from .messages import NAMESPACE

log = logging.getLogger(__name__)

REPORT_SECONDS = 2.0
FORGET_SECONDS = 10.0
"""A worker that has not reported for so long is gone."""


class Report(NamedTuple):
    """What a worker said last."""

    at: float
    status: Mapping[str, object]
    pages: Sequence[tuple[str, bytes]]


class WorkerPage:
    """The actor. `GET /healthz`, `/status` (JSON) and `/metrics` (Prometheus)."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._reports: dict[str, Report] = {}
        self._runner: web.AppRunner | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> int:
        """Listen, if it does not yet. Returns the port. Raises OSError."""
        async with self._opening:
            if self._runner is None:
                app = web.Application()
                app.add_routes(
                    [
                        web.get("/healthz", self._health),
                        web.get("/status", self._status),
                        web.get("/metrics", self._metrics),
                    ]
                )
                runner = web.AppRunner(app, access_log=None)
                await runner.setup()
                try:
                    await web.TCPSite(runner, self._host, self._port).start()
                except OSError:
                    await runner.cleanup()
                    raise
                self._runner = runner
        return int(self._runner.addresses[0][1])

    async def report(self, worker_id: str, status: Mapping[str, object], pages: Sequence[tuple[str, bytes]]) -> None:
        """A worker says how it is; `pages` are metrics of its processes, by name."""
        self._reports[worker_id] = Report(time.monotonic(), status, pages)

    def _live(self) -> list[Report]:
        limit = time.monotonic() - FORGET_SECONDS
        self._reports = {key: report for key, report in self._reports.items() if report.at >= limit}
        return [*self._reports.values()]

    async def _health(self, request: web.Request) -> web.Response:
        """200 while a worker of this machine is ready."""
        is_ready = any(report.status["ready"] for report in self._live())
        return web.json_response({"ready": is_ready}, status=200 if is_ready else 503)

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response({"workers": [dict(report.status) for report in self._live()]})

    async def _metrics(self, request: web.Request) -> web.Response:
        registry = CollectorRegistry()
        pages = [page for report in self._live() for page in report.pages]
        registry.register(Merged(merge(pages, metrics.OF_PROCESS)))
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


class PageReporter:
    """A worker's side: keeps the machine's page alive, and reports to it."""

    def __init__(
        self,
        host: str,
        port: int,
        worker_id: str,
        status: Callable[[], Mapping[str, object]],
        engine_page: Callable[[], Awaitable[bytes]],
    ) -> None:
        """`engine_page` gives the metrics of the worker's engine process; empty when it does not answer."""
        self._engine_page = engine_page
        self._host, self._port = host, port
        self._worker_id = worker_id
        self._status = status
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. On the event loop."""
        self._task = asyncio.create_task(self._run(), name="worker-page")

    async def close(self) -> None:
        """Report no more; the page forgets the worker soon. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        page: Any = None
        is_warned = False
        while True:
            try:
                if page is None:
                    page = page_actor(self._host, self._port)
                    await page.open.remote()
                pages = [(f"worker-{self._worker_id}", process_metrics.page())]
                if engine := await self._engine_page():
                    pages.append((f"engine-{self._worker_id}", engine))
                await page.report.remote(self._worker_id, self._status(), pages)
            except (RayError, OSError) as error:  # the port is taken, or the page was lost: it is made anew
                page = None
                if not is_warned:
                    is_warned = True
                    log.warning("the page of the workers is away", extra={"port": self._port, "reason": repr(error)})
            await asyncio.sleep(REPORT_SECONDS)


def page_actor(host: str, port: int) -> Any:
    """The page of this machine; made if there is none. It outlives the worker that made it, for the others."""
    machine = ray.get_runtime_context().get_node_id()
    return (
        ray.remote(WorkerPage)
        .options(
            name=f"{PAGE_PREFIX}{machine}",
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            scheduling_strategy=NodeAffinitySchedulingStrategy(machine, soft=False),
        )
        .remote(host, port)
    )


PAGE_PREFIX = "workers-page-"
