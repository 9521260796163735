"""Whether one more call may come, and what a caller who may not is told. Pure; `now` is monotonic seconds.

Three limits, of which the lowest holds: what the operator allows (`server.max_calls`), what the engine measured when it
started, and what the calls that run have shown lately: replies that run dry mean that there are too many. The machine's
router and each process's registry ask here, so that both refuse in the same words.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from rtc_server.errors import ServerFullError

Lane: TypeAlias = Literal["standard", "priority"]

RETRY_AFTER_SECONDS = 10  # while nothing is known: a spoken call lasts minutes, and asking more often only adds load
MAX_RETRY_AFTER_SECONDS = 120  # nobody should sleep through a server that has become free
MEMORY_SECONDS = 3600.0  # how far back the length of calls is looked at; what is older weighs less and less
MIN_ENDS = 3.0  # fewer calls than this tell nothing about how long calls last

WINDOW_SECONDS = 10.0  # over which underruns are counted: two replies of each call
MIN_PLAYED_SECONDS = 10.0  # less sound than this tells nothing
MIN_UNDERRUNS = 3  # one reply that stumbles is not a server that is too full
FALL = 0.9  # the limit becomes this share of the calls there are
RECOVERY_SECONDS = 30.0  # of sound without gaps, before each step up: overload is told at once, relief must last
RECOVERY_STEP = 0.05  # of the calls there may be, at least one


class Turnover:
    """How long calls last, and so how soon a place becomes free."""

    def __init__(self) -> None:
        self._ended = 0.0
        self._call_seconds = 0.0
        self._last: float | None = None

    def observe(self, num_calls: int, num_ended: int, now: float) -> None:
        """Since the last time `num_ended` calls have ended, and `num_calls` go on."""
        if self._last is not None:
            elapsed = max(0.0, now - self._last)
            kept = math.exp(-elapsed / MEMORY_SECONDS)
            self._ended *= kept
            self._call_seconds = self._call_seconds * kept + elapsed * (num_calls + num_ended / 2)
        self._ended += num_ended
        self._last = now

    def seconds_per_place(self, num_calls: int) -> float | None:
        """How long it takes until one of `num_calls` calls ends, by the ends seen so far; None = too few."""
        if self._ended < MIN_ENDS or num_calls < 1:
            return None
        return self._call_seconds / self._ended / num_calls


class _Second(NamedTuple):
    now: float
    num_calls: int
    underruns: int
    played_seconds: float


class LiveLimit:
    """A limit that falls when replies run dry, and rises again slowly.

    Gaps tell about the calls that there are: while more go on than the limit allows, it falls no further."""

    def __init__(self, underruns_per_minute: float) -> None:
        self.underruns_per_minute = underruns_per_minute
        """Gaps per minute of played speech that are too many; a quarter of it is few enough to allow more calls.
        0 = no such limit."""
        self._seen: deque[_Second] = deque()
        self._calm_since = 0.0
        self.max_calls: int | None = None
        """None = as many as the other limits allow."""

    def observe(self, num_calls: int, others: int, underruns: int, played_seconds: float, now: float) -> None:
        """Since the last time `played_seconds` of replies were played and ran dry `underruns` times, with `num_calls`
        calls; `others` is the limit without this one. Call it about once a second."""
        if not self.underruns_per_minute:
            self.max_calls = None
            return
        most = self.underruns_per_minute / 60.0
        self._seen.append(_Second(now, num_calls, underruns, played_seconds))
        while self._seen[0].now <= now - WINDOW_SECONDS:
            self._seen.popleft()
        gaps = sum(second.underruns for second in self._seen)
        played = sum(second.played_seconds for second in self._seen)
        if gaps > most / 4 * max(played, MIN_PLAYED_SECONDS):
            self._calm_since = now
        if gaps >= MIN_UNDERRUNS and gaps > most * max(played, MIN_PLAYED_SECONDS):
            enough = max(1, math.floor(FALL * max(second.num_calls for second in self._seen if second.underruns)))
            if enough < (others if self.max_calls is None else self.max_calls):
                self.max_calls = enough
        elif self.max_calls is not None and now >= self._calm_since + RECOVERY_SECONDS:
            self.max_calls += max(1, math.floor(self.max_calls * RECOVERY_STEP))
            self._calm_since = now
            if self.max_calls >= others:
                self.max_calls = None


@dataclass(frozen=True, slots=True)
class CallLimits:
    """The limits as they are now."""

    server_calls: int
    """What the operator allows."""
    engine_calls: int | None = None
    """What the engine can do; None while it does not say."""
    live_calls: int | None = None
    """What the running calls have shown; None while nothing speaks against more."""
    reserved_calls: int = 0
    """Of all these, kept for the priority lane."""

    @property
    def max_calls(self) -> int:
        """The limit in force."""
        return min(limit for limit in (self.server_calls, self.engine_calls, self.live_calls) if limit is not None)

    def of_lane(self, lane: Lane) -> int:
        """How many calls there may be, of either lane, for one more of `lane` to be let in."""
        return self.max_calls if lane == "priority" else max(0, self.max_calls - self.reserved_calls)

    def refusal(self, seconds: int = RETRY_AFTER_SECONDS, lane: Lane = "priority") -> ServerFullError:
        """What a caller is told for whom there is no place before `seconds` have passed."""
        return ServerFullError(f"{self._why(lane)} Try again in {seconds} s.", retry_after=seconds)

    def _why(self, lane: Lane) -> str:
        most = self.max_calls
        if most == self.server_calls:
            reason = "."
        elif most == self.engine_calls:
            reason = ": the engine serves no more calls in time on this machine."
        else:
            reason = ": with more calls than now, replies stumble."
        if lane == "standard" and self.reserved_calls:
            kept = min(self.reserved_calls, most)
            return f"All {self.of_lane(lane)} lines are busy ({kept} more are kept for priority callers){reason}"
        return f"All {most} lines are busy{reason}"


class Admission:
    """Decides for one machine. Whoever holds the places says how many there are: nothing is counted twice.

    Priority callers find `reserved_calls` places that others do not get. Both lanes share the rest, so a place is never
    empty because of whom it is for, beyond those."""

    def __init__(self, max_calls: int, reserved_calls: int = 0, underruns_per_minute: float = 0.0) -> None:
        self._server_calls = max_calls
        self._reserved_calls = reserved_calls
        self._live = LiveLimit(underruns_per_minute)
        self._turnover = Turnover()
        self._num_calls = 0
        self._admitted = 0
        self._promised = 0.0  # when the last caller who was refused has been told to come back
        self.engine_calls: int | None = None
        """What the engine measured; set it as soon as it says so."""

    @property
    def limits(self) -> CallLimits:
        """As they are now."""
        return CallLimits(self._server_calls, self.engine_calls, self._live.max_calls, self._reserved_calls)

    def configure(self, max_calls: int, reserved_calls: int, underruns_per_minute: float) -> None:
        """Other limits from now on; calls that are too many go on."""
        self._server_calls = max_calls
        self._reserved_calls = reserved_calls
        self._live.underruns_per_minute = underruns_per_minute

    def observe(self, num_calls: int, now: float, underruns: int = 0, played_seconds: float = 0.0) -> None:
        """There are `num_calls` calls now; since the last time their replies were played for `played_seconds` and ran
        dry `underruns` times. Call it about once a second."""
        self._see(num_calls, now)
        others = CallLimits(self._server_calls, self.engine_calls).max_calls
        self._live.observe(num_calls, others, underruns, played_seconds, now)

    def admit(self, num_calls: int, now: float, lane: Lane = "standard") -> None:
        """Let one more call in, beside `num_calls`. Raises ServerFullError, which says when to come back."""
        self._see(num_calls, now)
        limits = self.limits
        if num_calls < limits.of_lane(lane):
            self._admitted += 1
            return
        raise limits.refusal(self._retry_after(num_calls, num_calls - limits.of_lane(lane) + 1, now), lane)

    def _see(self, num_calls: int, now: float) -> None:
        """Ends follow from what was let in and what is left, whoever holds the places."""
        ended = max(0, self._num_calls + self._admitted - num_calls)
        self._turnover.observe(num_calls, ended, now)
        self._num_calls, self._admitted = num_calls, 0

    def _retry_after(self, num_calls: int, num_missing: int, now: float) -> int:
        """Whole seconds until `num_missing` places are free and those who were refused before have had theirs."""
        each = self._turnover.seconds_per_place(num_calls)
        if each is None:
            return RETRY_AFTER_SECONDS
        promised = max(now + num_missing * each, self._promised + each)
        self._promised = min(promised, now + MAX_RETRY_AFTER_SECONDS)
        return min(max(1, math.ceil(self._promised - now)), MAX_RETRY_AFTER_SECONDS)  # the sum is rounded
