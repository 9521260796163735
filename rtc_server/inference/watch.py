"""Ends an engine process that stands still, so that its server starts another.

A GPU can stop answering, a library can deadlock: no exception is raised then, and no Python runs that could raise one.
"""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Callable

REARM_SECONDS = 1.0
"""Steps come hundreds of times a second; the clock is wound up once in so long."""


class StepWatch:
    """At most `limit` seconds pass between two calls of `alive`, or of `alive` and `rest`; else the process ends with
    status 1, after saying on standard error where each of its threads stands (no values, so nothing that was said).

    For a process that belongs to one engine. The clock is C's (`faulthandler`): it needs neither the interpreter nor
    its lock."""

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._wound_up: float | None = None

    def alive(self) -> None:
        """A step begins."""
        now = self._clock()
        if self._wound_up is None or now - self._wound_up >= REARM_SECONDS:
            faulthandler.dump_traceback_later(self._limit + REARM_SECONDS, exit=True)
            self._wound_up = now

    def rest(self) -> None:
        """Nothing is to be done, for as long as it may be."""
        if self._wound_up is not None:
            faulthandler.cancel_dump_traceback_later()
            self._wound_up = None
