"""A call that goes on while something else happens: a telephone in a thread of its own that repeats its tones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.support.telephone import Line, TelephoneCall, telephone_call
from benchmarks.support.tone_bursts import FRAME, bursts, heard_onsets
from tests.support.namespaces import Namespace

SILENCE = b"\xff" * FRAME
START_SECONDS = 20.0


class LiveCall:
    """See the module's docstring; made by `live_call`."""

    def __init__(self, machine: Namespace, line: Line, target: str) -> None:
        self._machine, self._line, self._target = machine, line, target
        self._is_up = threading.Event()
        self._is_over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="live-call")
        self.call: TelephoneCall | None = None

    def start(self) -> None:
        """Raises what went wrong with setting it up."""
        self._thread.start()
        self._is_up.wait(START_SECONDS)
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Hang up. Raises what went wrong."""
        self._is_over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    @property
    def num_echoes(self) -> int:
        """Tones that have come back."""
        return 0 if self.call is None else len(heard_onsets(list(self.call.heard)))

    @property
    def is_up(self) -> bool:
        """Nobody has hung up."""
        return self.call is not None and not self.call.is_ended.is_set()

    def wait_for_echoes(self, more: int, timeout_seconds: float = 10.0) -> None:
        """Wait until `more` tones than now have come back. Raises AssertionError."""
        wanted = self.num_echoes + more
        deadline = threading.Event()
        for _ in range(int(timeout_seconds / 0.1)):
            if self.num_echoes >= wanted:
                return
            deadline.wait(0.1)
        raise AssertionError(f"the live call heard {self.num_echoes} tones, not {wanted}; is up: {self.is_up}")

    def _run(self) -> None:
        try:
            with self._machine.entered():
                asyncio.run(self._talk())
        except BaseException as error:  # to the thread that asks; nothing is lost
            self._error = error
        finally:
            self._is_up.set()

    async def _talk(self) -> None:
        payloads, _ = bursts(1)
        async with telephone_call(self._line, self._target) as call:
            self.call = call
            self._is_up.set()
            while not self._is_over.is_set() and not call.is_ended.is_set():
                await call.say(payloads)


@contextmanager
def live_call(machine: Namespace, line: Line, target: str) -> Iterator[LiveCall]:
    """A call from `machine` that talks until the block ends."""
    call = LiveCall(machine, line, target)
    call.start()
    try:
        yield call
    finally:
        call.stop()
