"""A call's events, watched over the WebSocket that applications use, from a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp

from .namespaces import Namespace

WAIT_SECONDS = 30.0


class Sideband:
    """Events as they come; made by `sideband`."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.errors: list[BaseException] = []
        """Why nothing comes any more."""
        self._news = threading.Condition()

    def wait_for(self, kind: str, count: int = 1, timeout_seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """The `count`-th event of a kind. Raises AssertionError with the kinds that came."""
        deadline = time.monotonic() + timeout_seconds
        with self._news:
            while len(found := self.of(kind)) < count:
                left = deadline - time.monotonic()
                assert not self.errors, self.errors
                assert left > 0, f"{len(found)} {kind}, not {count}: {[event['type'] for event in self.events]}"
                self._news.wait(left)
        return found[count - 1]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """All events of a kind so far."""
        return [event for event in self.events if event["type"] == kind]

    def add(self, event: dict[str, Any]) -> None:
        """One came."""
        with self._news:
            self.events.append(event)
            self._news.notify_all()

    def fail(self, error: BaseException) -> None:
        """Nothing comes any more."""
        with self._news:
            self.errors.append(error)
            self._news.notify_all()


@contextmanager
def sideband(machine: Namespace, url: str, call_id: str) -> Iterator[Sideband]:
    """`with sideband(stand.machine, stand.server.url, call_id) as watched: watched.wait_for("response.done")`."""
    watched, stopping = Sideband(), threading.Event()

    async def watch() -> None:
        async with aiohttp.ClientSession() as http, http.ws_connect(f"{url}/v1/realtime?call_id={call_id}") as socket:
            while not stopping.is_set():
                try:
                    message = await socket.receive(timeout=0.2)
                except TimeoutError:
                    continue
                if message.type is not aiohttp.WSMsgType.TEXT:
                    return
                watched.add(json.loads(message.data))

    def run() -> None:
        try:
            with machine.entered():
                asyncio.run(watch())
        except BaseException as error:  # to the test
            watched.fail(error)

    thread = threading.Thread(target=run, name="sideband")
    thread.start()
    try:
        yield watched
    finally:
        stopping.set()
        thread.join()
    if watched.errors:
        raise watched.errors[0]
