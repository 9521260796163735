"""All calls of this process: admission, the slot each call holds, and their end.

A slot is taken before the offer is answered and given back in one place, when the call's task ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

from rtc_server import metrics
from rtc_server.config import Settings
from rtc_server.errors import CallNotFoundError, NotReadyError
from rtc_server.inference.client import EngineClient
from rtc_server.logs import call_logger
from rtc_server.recording.store import RecordingStore
from rtc_server.tracing import CallTrace
from rtc_server.transports.base import MediaTransport
from rtc_server.turns.judge import NoTurnJudge, TurnJudgeFactory
from rtc_server.turns.vad import VadFactory

from .admission import CallLimit
from .call import Call, new_id
from .call_spans import call_over
from .echo import EchoCall
from .sessions import DEFAULT_OPTIONS, CallOptions
from .snapshot_timer import SaveSnapshot
from .turn_records import TurnRecord

log = logging.getLogger(__name__)

CallKind: TypeAlias = Literal["conversation", "echo"]
AnyCall: TypeAlias = Call | EchoCall


class CallRegistry:
    """Owns every `Call` and its task, inside the task group given to it."""

    def __init__(
        self,
        settings: Settings,
        engine: EngineClient,
        make_vad: VadFactory,
        tasks: asyncio.TaskGroup,
        on_end: Callable[[str], None] | None = None,
        make_judge: TurnJudgeFactory = NoTurnJudge,
        save_snapshot: SaveSnapshot | None = None,
        on_turn: Callable[[TurnRecord], None] | None = None,
        recordings: RecordingStore | None = None,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._make_vad = make_vad
        self._make_judge = make_judge
        self._recordings = recordings
        self._tasks = tasks
        self._on_end = on_end
        self._save_snapshot = save_snapshot
        self._on_turn = on_turn
        self._calls: dict[str, AnyCall] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._num_reserved = 0
        self._is_closing = False
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._calls) + self._num_reserved

    def __contains__(self, call_id: object) -> bool:
        return call_id in self._calls

    def get(self, call_id: str) -> AnyCall:
        """Raises CallNotFoundError."""
        try:
            return self._calls[call_id]
        except KeyError:
            raise CallNotFoundError(f"There is no call '{call_id[:64]}'.") from None

    def reserve(self) -> Slot:
        """Take a slot before any work is done for a caller. Raises NotReadyError or ServerFullError."""
        if self._is_closing or not self._engine.is_ready:
            raise NotReadyError("The models are still loading; try again in a moment.", retry_after=3)
        CallLimit(self._settings.server.max_calls, self._engine.max_calls).check(len(self))
        self._num_reserved += 1
        self._count()
        return Slot(self)

    def start(self, transport: MediaTransport, kind: CallKind, options: CallOptions) -> AnyCall:
        """Begin a call on an answered transport; it ends by itself. Called by `Slot.start`."""
        call: AnyCall
        if kind == "echo":
            call = EchoCall(new_id("rtc"), self._settings, transport, self._make_vad)
        else:
            call = Call(
                new_id("rtc"),
                self._settings,
                transport,
                self._engine,
                self._make_vad,
                options,
                self._make_judge,
                save_snapshot=self._save_snapshot,
                on_turn=self._on_turn,
                recordings=self._recordings,
            )
        self._calls[call.call_id] = call
        running = self._run(call, options.trace)
        self._running[call.call_id] = self._tasks.create_task(running, name=f"call-{call.call_id}")
        metrics.CALLS_STARTED.inc()
        return call

    def release(self) -> None:
        """Give a reserved slot back."""
        self._num_reserved -= 1
        self._count()

    async def hand_over(self, call_id: str) -> bytes | None:
        """The last snapshot of a call, which is over and has given its slot back by then. Raises CallNotFoundError."""
        call = self.get(call_id)
        if not isinstance(call, Call):
            raise CallNotFoundError("An echo test has no session.")
        task, snapshot = self._running[call_id], call.hand_over()
        await call.hang_up("resumed")
        await asyncio.wait({task})
        return snapshot

    async def close(self, timeout_seconds: float) -> None:
        """End every call and wait until the last slot is free; what has not ended in time is cancelled."""
        self._is_closing = True
        try:
            async with asyncio.timeout(timeout_seconds):
                await asyncio.gather(*(call.hang_up("shutdown") for call in list(self._calls.values())))
                await self._idle.wait()
        except TimeoutError:
            for call_id, task in self._running.items():
                log.warning("the call did not end in time", extra={"call_id": call_id})
                task.cancel()

    async def _run(self, call: AnyCall, trace: CallTrace | None) -> None:
        about = call_logger(log, call.call_id, None if trace is None else trace.context.trace_name)
        reason = "internal_error"
        try:
            about.info("call started")
            reason = await call.run()
        except Exception:  # a bug in one call must not take the others down: it ends here, counted and logged once
            about.exception("call failed")
        finally:
            del self._calls[call.call_id], self._running[call.call_id]
            self._count()
            metrics.CALLS_ENDED.labels(metrics.bounded("reason", reason)).inc()
            if self._on_end is not None:
                self._on_end(call.call_id)
            about.info("call ended", extra={"reason": reason})
            if trace is not None:
                call_over(trace, call.call_id, reason, time.time())

    def _count(self) -> None:
        metrics.CALLS.set(len(self))
        if len(self):
            self._idle.clear()
        else:
            self._idle.set()


class Slot:
    """A place for one call, held from admission until the call starts or set-up fails."""

    def __init__(self, registry: CallRegistry) -> None:
        self._registry: CallRegistry | None = registry

    def start(
        self, transport: MediaTransport, kind: CallKind = "conversation", options: CallOptions = DEFAULT_OPTIONS
    ) -> AnyCall:
        """Turn the reservation into a call."""
        assert self._registry is not None, "the slot was used already"
        call = self._registry.start(transport, kind, options)
        self.release()
        return call

    def release(self) -> None:
        """Give the place back if no call was started. Idempotent."""
        registry, self._registry = self._registry, None
        if registry is not None:
            registry.release()
