"""Commands on their way to the workers: each worker fetches its own with a long poll.

A response streams from worker to media node; what goes the other way meanwhile (grants of audio, releases, cancels) has
to reach the same worker, and a Serve handle cannot name one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from rtc_server.inference.wire import Command

POLL_SECONDS = 10.0
"""A poll with nothing to fetch comes back after this; a worker that hears nothing for longer knows that we are gone."""


class Mailbox:
    """Belongs to one event loop. Holds only commands of live responses, so their number bounds it."""

    def __init__(self) -> None:
        self._boxes: dict[str, list[Command]] = {}
        self._news: dict[str, asyncio.Event] = {}

    def post(self, worker_id: str, command: Command) -> None:
        """Let a worker have a command, soon."""
        self._boxes.setdefault(worker_id, []).append(command)
        if worker_id in self._news:
            self._news[worker_id].set()

    def forget(self, worker_id: str) -> None:
        """Nothing of that worker lives here any more."""
        self._boxes.pop(worker_id, None)

    async def take(self, worker_id: str, wait_seconds: float = POLL_SECONDS) -> tuple[Command, ...]:
        """What is there, or the next that comes; () after `wait_seconds`. One poll of a worker at a time."""
        if worker_id not in self._boxes:
            news = self._news[worker_id] = asyncio.Event()
            try:
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), wait_seconds)
            finally:
                if self._news.get(worker_id) is news:
                    del self._news[worker_id]
        return tuple(self._boxes.pop(worker_id, ()))
