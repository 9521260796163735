"""When the server ends: at once, or after the calls that it has (a drain)."""

from __future__ import annotations

import asyncio


class Lifecycle:
    """Owns the decision to end. It is never taken back."""

    def __init__(self, hurry: asyncio.Event | None = None) -> None:
        """`hurry` ends the server at once when somebody sets it."""
        self.hurry = hurry or asyncio.Event()
        """No call is waited for any more."""
        self._drain = asyncio.Event()
        self._num_terms = 0

    @property
    def is_ending(self) -> bool:
        """The server ends, now or after its calls."""
        return self._drain.is_set() or self.hurry.is_set()

    def drain(self) -> None:
        """Finish the calls, then end. Idempotent."""
        self._drain.set()

    def interrupt(self) -> None:
        """SIGINT (Ctrl-C): end at once."""
        self.hurry.set()

    def terminate(self) -> None:
        """SIGTERM: the first one drains, also where a drain was asked for before (Kubernetes sends it after the preStop
        hook); the second one ends at once."""
        self._num_terms += 1
        if self._num_terms > 1:
            self.hurry.set()
        self._drain.set()

    async def wait_ending(self) -> None:
        """Until `is_ending`."""
        waits = {asyncio.create_task(event.wait(), name="ending-wait") for event in (self._drain, self.hurry)}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
