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
from rtc_server.audio.pcm import FRAME_MS
from rtc_server.config import Settings
from rtc_server.errors import CallNotFoundError, NotReadyError
from rtc_server.inference.client import EngineClient
from rtc_server.logs import BoundLogger, call_logger
from rtc_server.recording.store import RecordingStore
from rtc_server.tracing import CallTrace
from rtc_server.transports.base import MediaTransport
from rtc_server.turns.judge import NoTurnJudge, TurnJudgeFactory
from rtc_server.turns.vad import VadFactory

from .admission import CallLimits
from .call import Call, new_id
from .call_spans import call_over
from .early_media import EarlyMedia
from .echo import EchoCall
from .leases import Leases
from .sessions import DEFAULT_OPTIONS, CallOptions
from .snapshot_timer import SaveSnapshot
from .status import CallStatus
from .turn_records import TurnRecord

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

    def status(self, now: float) -> list[CallStatus]:
        """Every call that goes on, the oldest first."""
        return [call.status(now) for call in self._calls.values()]

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

    def start(
        self,
        lease: int,
        transport: MediaTransport,
        kind: CallKind,
        options: CallOptions,
        call_id: str | None = None,
        early_media: EarlyMedia | None = None,
    ) -> AnyCall:
        """Begin a call on an answered transport; it ends by itself, and gives its place back. Called by `Slot.start`.
        Raises NotReadyError when the place is gone."""
        call_id = call_id or new_id("rtc")
        if not self._leases.start(lease, asyncio.get_running_loop().time()):
            raise NotReadyError("Setting up the call took too long; try again in a moment.", retry_after=3)
        call: AnyCall
        if kind == "echo":
            call = EchoCall(call_id, self._settings, transport, self._make_vad)
        else:
            call = Call(
                call_id,
                self._settings,
                transport,
                self._engine,
                self._make_vad,
                options,
                self._make_judge,
                save_snapshot=self._save_snapshot,
                on_turn=self._on_turn,
                recordings=self._recordings,
                early_media=early_media,
            )
        self._calls[call.call_id] = call
        trace = options.trace
        task = self._tasks.create_task(self._run(call, trace), name=f"call-{call.call_id}")
        self._running[call.call_id] = task
        task.add_done_callback(lambda done: self._end(call, lease, trace, done))
        if self._ends_at is not None:
            call.announce_drain(self._ends_at)
        metrics.CALLS_STARTED.inc()
        return call

    def give_back(self, lease: int) -> None:
        """The place is free. Idempotent."""
        self._leases.give_back(lease)
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

    def use_settings(self, settings: Settings) -> None:
        """For calls from now on."""
        self._settings = settings

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
            for call_id, task in self._running.items():
                log.warning("the call did not end in time", extra={"call_id": call_id})
                task.cancel()

    async def _run(self, call: AnyCall, trace: CallTrace | None) -> str:
        about = _about(call, trace)
        try:
            about.info("call started")
            return await call.run()
        except Exception:  # a bug in one call must not take the others down: it ends here, counted and logged once
            about.exception("call failed")
            return "internal_error"

    def _end(self, call: AnyCall, lease: int, trace: CallTrace | None, task: asyncio.Task[str]) -> None:
        """The one place where a call's slot becomes free: reached even when its task is cancelled before it begins."""
        reason = "internal_error" if task.cancelled() else task.result()
        del self._calls[call.call_id], self._running[call.call_id]
        self._underruns += call.underruns
        self._played_frames += call.played_frames
        self.give_back(lease)
        metrics.CALLS_ENDED.labels(metrics.bounded("reason", reason)).inc()
        if self._on_end is not None:
            self._on_end(call.call_id)
        _about(call, trace).info("call ended", extra={"reason": reason})
        if trace is not None:
            call_over(trace, call.call_id, reason, time.time())

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
        self,
        transport: MediaTransport,
        kind: CallKind = "conversation",
        options: CallOptions = DEFAULT_OPTIONS,
        call_id: str | None = None,
        early_media: EarlyMedia | None = None,
    ) -> AnyCall:
        """Turn the reservation into a call. Raises NotReadyError when it took so long that the place is gone."""
        call = self._registry.start(self._lease, transport, kind, options, call_id, early_media)
        self._has_started = True
        return call

    def release(self) -> None:
        """Give the place back if no call was started. Idempotent."""
        if not self._has_started:
            self._registry.give_back(self._lease)


def _about(call: AnyCall, trace: CallTrace | None) -> BoundLogger:
    return call_logger(log, call.call_id, None if trace is None else trace.context.trace_name)
