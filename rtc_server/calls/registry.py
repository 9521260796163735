"""All calls of this process: admission, the slot each call holds, and their end.

A slot is taken before the offer is answered and given back in one place, when the call's task ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Literal, TypeAlias

from rtc_server import metrics
from rtc_server.audio.pcm import FRAME_MS
from rtc_server.config import Settings
from rtc_server.errors import CallNotFoundError, NotReadyError
from rtc_server.inference.client import EngineClient
from rtc_server.transports.base import MediaTransport
from rtc_server.turns.judge import NoTurnJudge, TurnJudgeFactory
from rtc_server.turns.vad import VadFactory

from .admission import CallLimits
from .call import Call, new_id
from .echo import EchoCall
from .leases import Leases
from .sessions import DEFAULT_OPTIONS, CallOptions

log = logging.getLogger(__name__)

FINISH_POLL_SECONDS = 0.05  # only while the server ends; no call has to tell when its reply is over

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
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._make_vad = make_vad
        self._make_judge = make_judge
        self._tasks = tasks
        self._on_end = on_end
        self._calls: dict[str, AnyCall] = {}
        self._running: dict[str, asyncio.Task[str]] = {}
        self._leases = Leases()
        self._is_closing = False
        self._ends_at: float | None = None
        self._underruns = 0  # of calls that are over
        self._played_frames = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        """Places held, by calls that are set up too."""
        return len(self._leases)

    def __contains__(self, call_id: object) -> bool:
        return call_id in self._calls

    def get(self, call_id: str) -> AnyCall:
        """Raises CallNotFoundError."""
        try:
            return self._calls[call_id]
        except KeyError:
            raise CallNotFoundError(f"There is no call '{call_id[:64]}'.") from None

    @property
    def underruns(self) -> int:
        """How often replies ran dry, in all calls so far."""
        return self._underruns + sum(call.underruns for call in self._calls.values())

    @property
    def played_seconds(self) -> float:
        """How much of replies was played, in all calls so far."""
        return (self._played_frames + sum(call.played_frames for call in self._calls.values())) * FRAME_MS / 1e3

    def reserve(self) -> Slot:
        """Take a slot before any work is done for a caller. Raises NotReadyError or ServerFullError."""
        if self._is_closing or not self._engine.is_ready:
            raise NotReadyError("The models are still loading; try again in a moment.", retry_after=3)
        limits = CallLimits(self._settings.server.max_calls, self._engine.max_calls)
        now = asyncio.get_running_loop().time()
        self._leases.expire(now)
        if len(self._leases) >= limits.max_calls:
            raise limits.refusal()
        slot = Slot(self, self._leases.take(now))
        self._count()
        return slot

    def start(self, lease: int, transport: MediaTransport, kind: CallKind, options: CallOptions) -> AnyCall:
        """Begin a call on an answered transport; it ends by itself, and gives its place back. Called by `Slot.start`.
        Raises NotReadyError when the place is gone."""
        if not self._leases.start(lease, asyncio.get_running_loop().time()):
            raise NotReadyError("Setting up the call took too long; try again in a moment.", retry_after=3)
        call: AnyCall
        if kind == "echo":
            call = EchoCall(new_id("rtc"), self._settings, transport, self._make_vad)
        else:
            call = Call(
                new_id("rtc"), self._settings, transport, self._engine, self._make_vad, options, self._make_judge
            )
        self._calls[call.call_id] = call
        task = self._tasks.create_task(self._run(call), name=f"call-{call.call_id}")
        self._running[call.call_id] = task
        if self._ends_at is not None:
            call.announce_drain(self._ends_at)
        task.add_done_callback(lambda done: self._end(call, lease, done))
        metrics.CALLS_STARTED.inc()
        return call

    def give_back(self, lease: int) -> None:
        """The place is free. Idempotent."""
        self._leases.give_back(lease)
        self._count()

    def announce_drain(self, seconds: float) -> None:
        """Tell every call, and those that are being set up, that the server ends in so many seconds."""
        self._ends_at = asyncio.get_running_loop().time() + seconds
        for call in list(self._calls.values()):
            call.announce_drain(self._ends_at)

    async def finish_replies(self, timeout_seconds: float) -> None:
        """End every call as soon as nobody waits for a reply on it. After the timeout some may be left for `close`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        while self._calls and loop.time() < deadline:
            quiet = [call for call in self._calls.values() if not call.is_answering]
            await asyncio.gather(*(call.hang_up("shutdown") for call in quiet))
            if self._calls:
                await asyncio.sleep(FINISH_POLL_SECONDS)

    async def close(self, timeout_seconds: float) -> None:
        """End every call and wait until the last slot is free; what has not ended in time is cancelled."""
        self._is_closing = True
        try:
            async with asyncio.timeout(timeout_seconds):
                await asyncio.gather(*(call.hang_up("shutdown") for call in list(self._calls.values())))
                await self._idle.wait()
        except TimeoutError:
            log.warning("calls did not end in time", extra={"calls": len(self)})
            for task in self._running.values():
                task.cancel()

    async def _run(self, call: AnyCall) -> str:
        try:
            log.info("call started", extra={"call_id": call.call_id})
            return await call.run()
        except Exception:  # a bug in one call must not take the others down: it ends here, counted and logged once
            log.exception("call failed", extra={"call_id": call.call_id})
            return "internal_error"

    def _end(self, call: AnyCall, lease: int, task: asyncio.Task[str]) -> None:
        """The one place where a call's slot becomes free: reached even when its task is cancelled before it begins."""
        reason = "internal_error" if task.cancelled() else task.result()
        del self._calls[call.call_id], self._running[call.call_id]
        self._underruns += call.underruns
        self._played_frames += call.played_frames
        self.give_back(lease)
        metrics.CALLS_ENDED.labels(reason).inc()
        if self._on_end is not None:
            self._on_end(call.call_id)
        log.info("call ended", extra={"call_id": call.call_id, "reason": reason})

    def _count(self) -> None:
        metrics.CALLS.set(len(self))
        if len(self):
            self._idle.clear()
        else:
            self._idle.set()


class Slot:
    """A place for one call, held from admission until set-up fails or the call, which holds it from then on, ends."""

    def __init__(self, registry: CallRegistry, lease: int) -> None:
        self._registry = registry
        self._lease = lease
        self._has_started = False

    def start(
        self, transport: MediaTransport, kind: CallKind = "conversation", options: CallOptions = DEFAULT_OPTIONS
    ) -> AnyCall:
        """Turn the reservation into a call. Raises NotReadyError when it took so long that the place is gone."""
        call = self._registry.start(self._lease, transport, kind, options)
        self._has_started = True
        return call

    def release(self) -> None:
        """Give the place back if no call was started. Idempotent."""
        if not self._has_started:
            self._registry.give_back(self._lease)
