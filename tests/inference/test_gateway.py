"""Media workers use the engine client of another process through its gateway."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from model.interface import AudioDelta, EngineEvent, GenerateRequest, ResponseDone
from rtc_server.inference.client import EngineSettings
from rtc_server.inference.gateway import EngineGateway
from rtc_server.inference.remote import RemoteEngineClient
from rtc_server.inference.thread import ThreadEngineClient

ECHO = EngineSettings("echo", {}, restart_backoff_seconds=0.01)


class Inbox:
    def __init__(self) -> None:
        self.events: list[EngineEvent] = []
        self.changed = asyncio.Event()

    def __call__(self, event: EngineEvent) -> None:
        self.events.append(event)
        self.changed.set()

    @property
    def num_samples(self) -> int:
        return sum(len(event.pcm) for event in self.events if isinstance(event, AudioDelta))

    async def until(self, num_samples: int) -> None:
        async with asyncio.timeout(10):
            while self.num_samples < num_samples:
                self.changed.clear()
                await self.changed.wait()

    async def done(self) -> ResponseDone:
        async with asyncio.timeout(10):
            while not (self.events and isinstance(self.events[-1], ResponseDone)):
                self.changed.clear()
                await self.changed.wait()
        return self.events[-1]


def request(response_id: str, credit_ms: int) -> GenerateRequest:
    return GenerateRequest("call", response_id, "turn", (), np.zeros(48_000, np.int16), audio_credit_ms=credit_ms)


@pytest.fixture
async def path() -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        yield str(Path(folder) / "engine.sock")


@pytest.fixture
async def engine() -> AsyncIterator[ThreadEngineClient]:
    client = ThreadEngineClient(ECHO)
    await client.start()
    yield client
    await client.close()


@pytest.fixture
async def gateway(engine: ThreadEngineClient, path: str) -> AsyncIterator[EngineGateway]:
    gateway = EngineGateway(engine, path)
    await gateway.follow()
    yield gateway
    await gateway.close()


@pytest.fixture
async def worker(gateway: EngineGateway, path: str) -> AsyncIterator[RemoteEngineClient]:
    client = RemoteEngineClient(ECHO, path)
    await client.start()
    yield client
    await client.close()


async def test_a_worker_sees_the_engine_and_its_credit(worker: RemoteEngineClient) -> None:
    assert worker.info.name == "echo"
    inbox = Inbox()
    worker.submit(request("r1", credit_ms=500), inbox)
    await inbox.until(8_000)
    assert inbox.num_samples == 8_000
    worker.grant("r1", 10_000)
    assert (await inbox.done()).status == "completed"
    assert inbox.num_samples == 48_000


async def test_what_a_worker_cancels_or_leaves_behind_is_freed(
    worker: RemoteEngineClient, engine: ThreadEngineClient
) -> None:
    inboxes = [Inbox(), Inbox()]
    for number, inbox in enumerate(inboxes):
        worker.submit(request(f"r{number}", credit_ms=500), inbox)
        await inbox.until(8_000)
    assert engine.num_live_responses == 2
    worker.cancel("r0")
    third = Inbox()
    worker.submit(request("r3", credit_ms=10_000), third)
    await third.done()  # in order: the cancel was read before it
    assert engine.num_live_responses == 1
    await worker.close()
    async with asyncio.timeout(10):
        while engine.num_live_responses:  # noqa: ASYNC110 - the other end of a socket
            await asyncio.sleep(0)


async def test_a_client_that_is_not_ready_looks_like_a_lost_engine(
    worker: RemoteEngineClient, engine: ThreadEngineClient, gateway: EngineGateway
) -> None:
    changes: asyncio.Queue[bool] = asyncio.Queue()
    worker.on_ready_changed = changes.put_nowait
    inbox = Inbox()
    worker.submit(request("r1", credit_ms=500), inbox)
    await inbox.until(8_000)
    await engine.close()
    await gateway.follow()
    fault = (await inbox.done()).fault
    assert fault is not None
    assert fault.code == "engine_lost"
    assert await asyncio.wait_for(changes.get(), 10) is False
