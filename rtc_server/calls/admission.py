"""How many calls there may be at once, and what the next one is told. Pure.

The operator sets one limit (`server.max_calls`); an engine that measured how many calls it serves in time may set a
lower one. The machine's router and each process's registry ask here, so that both refuse in the same words.
"""

from __future__ import annotations

from dataclasses import dataclass

from rtc_server.errors import ServerFullError

RETRY_AFTER_SECONDS = 10  # a spoken call lasts minutes; asking more often than this only adds load


@dataclass(frozen=True, slots=True)
class CallLimit:
    """Both limits as they are now."""

    server_calls: int
    """What the operator allows."""
    engine_calls: int | None = None
    """What the engine can do; None while it does not say."""

    @property
    def max_calls(self) -> int:
        """The limit in force."""
        return self.server_calls if self.engine_calls is None else min(self.server_calls, self.engine_calls)

    def check(self, num_calls: int) -> None:
        """Is there room for one more call than `num_calls`? Raises ServerFullError."""
        if num_calls < self.max_calls:
            return
        message = f"All {self.max_calls} lines are busy."
        if self.max_calls < self.server_calls:
            message = f"All {self.max_calls} lines are busy: the engine serves no more calls in time on this machine."
        raise ServerFullError(message, retry_after=RETRY_AFTER_SECONDS)
