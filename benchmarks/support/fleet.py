"""A fleet of regions under calls, event by event, on virtual time. Pure: everything happens as a seed says.

A call holds a slot on a media node, as in the server, and is refused by the server's own admission where all slots are
taken: those of the media nodes, or those that the engines say they serve in time. Replies are made by whichever
engine of the region is free, so engines are counted and not told apart. A caller who is refused waits as long as the
server told him, and tries again until his patience ends.

    arrival -> admitted -> ended
            -> refused -> waiting -> ... -> admitted, or gave up
    admitted -> its media node is lost -> interrupted -> resumed (a new admission), or lost
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np

from benchmarks.support.fleet_admission import Doorman
from benchmarks.support.fleet_autoscale import Autoscaler, ScalingRule
from benchmarks.support.fleet_load import Lengths, Manners, Rate
from benchmarks.support.fleet_nodes import MediaNodes

END, TRY, LOSS, MEDIA_READY, ENGINE_READY, SCALE, SAMPLE, FAULT = range(8)
SCALE_SECONDS = 15.0
SAMPLE_SECONDS = 10.0
RESUME_SECONDS = (0.5, 3.0)
"""Until the client of a call whose media node was lost has noticed and asks to be resumed."""
NO_NODE_SECONDS = 3.0
"""What the router tells a caller for whom there is no ready node (`NotReadyError`)."""
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the fleet's parts carry and how long they take to come."""

    media_slots: int = 60
    """Calls per media node."""
    engine_slots: int = 12
    """Calls per engine (`EngineInfo.max_calls`)."""
    media_start: float = 20.0
    """Seconds from the wish for a media node until it takes calls."""
    engine_start: float = 120.0
    """Of an engine: container, model, warming up; more where a machine has to be found first."""
    media_hours: float = 2_000.0
    """Mean hours until a media node fails; 0: never."""
    engine_hours: float = 1_000.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something large breaks."""

    at: float
    region: int
    zone: int | None = None
    """None: the whole region, and nobody answers there any more."""
    only_engines: bool = False
    """The media nodes are elsewhere and stay up: calls go on, with fewer engines for them."""
    noticed: float = 60.0
    """Seconds until new callers are sent to another region (health checks, and what names are cached)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One region at the beginning."""

    media: int
    engines: int
    zones: int = 3
    share: float = 1.0
    """Of the arrivals."""
    media_rule: ScalingRule | None = None
    """None: as many as there are, and what is lost is replaced."""
    engine_rule: ScalingRule | None = None
    reserved: int = 0
    """Places that only callers get who were interrupted; 0: they are callers like others."""


@dataclass(slots=True)
class Sample:
    """One region over the last `SAMPLE_SECONDS`."""

    at: float
    region: int
    calls: int
    waiting: int
    """Callers of this region who were refused and will try again."""
    attempts: int
    refused: int
    media: int
    engines: int


@dataclass(slots=True)
class Totals:
    """People, each counted once; and what they tried."""

    initial: int = 0
    """Calls that ran at the beginning."""
    arrivals: int = 0
    admitted: int = 0
    gave_up: int = 0
    ended: int = 0
    interrupted: int = 0
    resumed: int = 0
    lost: int = 0
    """Interrupted and not resumed before their patience ended."""
    attempts: int = 0
    refused: int = 0
    unreachable: int = 0
    """Attempts that nobody answered."""
    live: int = 0
    waiting: int = 0
    """To be admitted for the first time."""
    waiting_to_resume: int = 0
    waits: list[float] = field(default_factory=list)
    """Seconds from the first try to the admission, of those who were refused at first."""
    resume_waits: list[float] = field(default_factory=list)
    """Seconds without a call, of those who were resumed."""
    events: int = 0


@dataclass(slots=True)
class _Caller:
    region: int
    """Where he calls."""
    length: float
    """Of what is left of his call, once he is admitted."""
    first_try: float
    tries: int = 0
    is_waiting: bool = False
    """Will try again."""
    is_resuming: bool = False
    node: int = -1
    """Where his call is; -1: nowhere."""
    ends_at: float = 0.0
    placed: int = 0
    """How often he was given a place: the end that was planned at an earlier one is not his any more."""


class _Region:
    """What is there now."""

    def __init__(self, plan: Plan, sizes: Sizes, doorman: Doorman) -> None:
        self.plan, self.sizes, self.doorman = plan, sizes, doorman
        self.media = MediaNodes(sizes.media_slots)
        for number in range(plan.media):
            self.media.add(number % plan.zones)
        self.engines = [len(range(zone, plan.engines, plan.zones)) for zone in range(plan.zones)]
        self.zones = list(range(plan.zones))
        """Those that are up."""
        self.is_down = False
        self.calls = self.waiting = self.attempts = self.refused = 0
        self.starting: tuple[list[int], list[int]] = ([0] * plan.zones, [0] * plan.zones)
        """Media nodes and engines on their way, by zone."""
        self.refused_since_scaling = 0
        rules = (plan.media_rule, plan.engine_rule)
        self.scalers = tuple(Autoscaler(rule) if rule else None for rule in rules)

    @property
    def num_engines(self) -> int:
        return sum(self.engines)

    def emptiest_zone(self, of_engines: bool) -> int:
        """Where the next one starts."""
        starting = self.starting[of_engines]
        if of_engines:
            return min(self.zones, key=lambda zone: self.engines[zone] + starting[zone])
        return min(self.zones, key=lambda zone: self.media.num_present.get(zone, 0) + starting[zone])


class Fleet:
    """One run."""

    def __init__(
        self,
        plans: Sequence[Plan],
        rate: Rate,
        *,
        is_honest: bool = True,
        sizes: Sizes | None = None,
        lengths: Lengths | None = None,
        manners: Manners | None = None,
        faults: Sequence[Fault] = (),
        seed: int = 1,
    ) -> None:
        self.sizes = sizes or Sizes()
        self.lengths, self.manners, self.rate = lengths or Lengths(), manners or Manners(), rate
        self.regions = [
            _Region(plan, self.sizes, Doorman(is_honest=is_honest, reserved=plan.reserved)) for plan in plans
        ]
        self.totals = Totals()
        self.samples: list[Sample] = []
        self._random = np.random.default_rng(seed)
        self._arrivals_random = np.random.default_rng((seed, 1))
        self._shares = np.cumsum([plan.share for plan in plans]) / sum(plan.share for plan in plans)
        self._drawn: Iterator[float] = iter(())
        self._callers: dict[int, _Caller] = {}
        self._next_caller = self._num_pushed = 0
        self._heap: list[tuple[float, int, int, int, int]] = []
        self._faults = tuple(faults)
        self._redirect: dict[int, float] = {}  # region that is down -> when new callers no longer go there
        self.now = 0.0

    # --- the run

    def run(self, seconds: float) -> Totals:
        """From the state that a long time at the first rate would have led to, for so long."""
        for number, fault in enumerate(self._faults):
            self._push(fault.at, FAULT, number)
        self._push(SCALE_SECONDS, SCALE)
        self._push(SAMPLE_SECONDS, SAMPLE)
        self._begin()
        self._plan_losses()
        heap, totals = self._heap, self.totals
        arrivals = self.rate.arrivals(self._arrivals_random, seconds)
        arrival = next(arrivals, float("inf"))
        while True:
            at = heap[0][0]
            if arrival <= at:
                if arrival > seconds:
                    break
                self.now = arrival
                self._arrive()
                arrival = next(arrivals, float("inf"))
                continue
            if at > seconds:
                break
            self.now = at
            _, _, kind, one, other = heappop(heap)
            totals.events += 1
            if kind == END:
                self._end(one, other)
            elif kind == TRY:
                self._try(one)
            else:
                self._happen(kind, one, other)
        totals.live = sum(region.calls for region in self.regions)
        waiting = [caller for caller in self._callers.values() if caller.node < 0]
        totals.waiting_to_resume = sum(caller.is_resuming for caller in waiting)
        totals.waiting = len(waiting) - totals.waiting_to_resume
        return totals

    def _push(self, at: float, kind: int, one: int = 0, other: int = 0) -> None:
        self._num_pushed += 1
        heappush(self._heap, (at, self._num_pushed, kind, one, other))

    def _happen(self, kind: int, one: int, other: int) -> None:
        if kind == SAMPLE:
            self._sample()
            self._push(self.now + SAMPLE_SECONDS, SAMPLE)
        elif kind == SCALE:
            for number, region in enumerate(self.regions):
                if not region.is_down:
                    self._scale(number, region)
            self._push(self.now + SCALE_SECONDS, SCALE)
        elif kind == MEDIA_READY:
            self._ready(one, other, of_engines=False)
        elif kind == ENGINE_READY:
            self._ready(one, other, of_engines=True)
        elif kind == LOSS:
            self._lose_one(one, of_engines=bool(other))
        elif kind == FAULT:
            self._break(self._faults[one])

    # --- calls

    def _begin(self) -> None:
        """The calls that run already."""
        for number, region in enumerate(self.regions):
            mean = self.rate.at(0.0) * self._share(number) * self.lengths.mean
            count = min(int(self._random.poisson(mean)), region.media.max_calls, self._engine_calls(region))
            for length in self.lengths.residual(self._random, count).tolist():
                caller = self._new_caller(number, length)
                node = region.media.choose()
                assert node is not None, "there is room for all of them"
                self._place(caller, node)
            region.doorman.observe(0.0, region.calls)
        self.totals.initial = len(self._callers)

    def _share(self, number: int) -> float:
        return float(self._shares[number] - (self._shares[number - 1] if number else 0.0))

    def _engine_calls(self, region: _Region) -> int:
        return region.num_engines * self.sizes.engine_slots

    def _new_caller(self, region: int, length: float) -> int:
        number = self._next_caller
        self._next_caller += 1
        self._callers[number] = _Caller(region, length, self.now)
        return number

    def _arrive(self) -> None:
        draw = self._drawn_length()
        home = 0 if len(self.regions) == 1 else int(np.searchsorted(self._shares, self._random.random()))
        self.totals.arrivals += 1
        self._try(self._new_caller(self._reachable(home), draw))

    def _drawn_length(self) -> float:
        length = next(self._drawn, None)
        if length is None:
            self._drawn = iter(self.lengths.draw(self._random, 4_096).tolist())
            length = next(self._drawn)
        return length

    def _reachable(self, region: int) -> int:
        """Where a caller of this region is sent by now."""
        if self._redirect.get(region, float("inf")) > self.now:
            return region
        others = [number for number, other in enumerate(self.regions) if not other.is_down]
        return min(others, key=lambda number: self.regions[number].calls, default=region)

    def _try(self, number: int) -> None:
        caller = self._callers[number]
        if caller.is_waiting:
            caller.is_waiting = False
            self.regions[caller.region].waiting -= 1
            caller.region = self._reachable(caller.region)
        region, totals, now = self.regions[caller.region], self.totals, self.now
        caller.tries += 1
        totals.attempts += 1
        region.attempts += 1
        if region.is_down:
            totals.unreachable += 1
            self._wait(number, caller, region, self.manners.connect_retry)
            return
        told = region.doorman.admit(
            now,
            region.calls,
            region.media.max_calls,
            self._engine_calls(region),
            is_resuming=caller.is_resuming,
        )
        node = region.media.choose()
        if told is None and node is not None:
            if caller.is_resuming:
                totals.resumed += 1
                totals.resume_waits.append(now - caller.first_try)
            else:
                totals.admitted += 1
                if caller.tries > 1:
                    totals.waits.append(now - caller.first_try)
            self._place(number, node)
            return
        totals.refused += 1
        region.refused += 1
        region.refused_since_scaling += 1
        self._wait(number, caller, region, NO_NODE_SECONDS if told is None else told)

    def _wait(self, number: int, caller: _Caller, region: _Region, told: float) -> None:
        """He tries again when he was told to, unless that is too late for him."""
        wait = told * (1 + self.manners.spread * float(self._random.random()))
        if self.now + wait - caller.first_try > self.manners.patience:
            if caller.is_resuming:
                self.totals.lost += 1
            else:
                self.totals.gave_up += 1
            del self._callers[number]
            return
        caller.is_waiting = True
        region.waiting += 1
        self._push(self.now + wait, TRY, number)

    def _place(self, number: int, node: int) -> None:
        caller = self._callers[number]
        region = self.regions[caller.region]
        region.media.take(node, number)
        region.calls += 1
        caller.node, caller.ends_at = node, self.now + caller.length
        caller.placed += 1
        self._push(caller.ends_at, END, number, caller.placed)

    def _end(self, number: int, placed: int) -> None:
        caller = self._callers.get(number)
        if caller is None or caller.node < 0 or caller.placed != placed:
            return  # the end of a call that was interrupted since
        region = self.regions[caller.region]
        region.media.leave(caller.node, number)
        region.calls -= 1
        self.totals.ended += 1
        del self._callers[number]

    def _interrupt(self, region: _Region, calls: set[int]) -> None:
        for number in sorted(calls):
            caller = self._callers[number]
            region.calls -= 1
            caller.length = caller.ends_at - self.now
            caller.node, caller.is_resuming, caller.is_waiting, caller.first_try = -1, True, True, self.now
            region.waiting += 1
            self.totals.interrupted += 1
            self._push(self.now + float(self._random.uniform(*RESUME_SECONDS)), TRY, number)

    # --- nodes

    def _plan_losses(self) -> None:
        for number in range(len(self.regions)):
            for of_engines in (False, True):
                self._plan_loss(number, of_engines)

    def _plan_loss(self, number: int, of_engines: bool) -> None:
        region, sizes = self.regions[number], self.sizes
        hours = sizes.engine_hours if of_engines else sizes.media_hours
        count = region.num_engines if of_engines else region.media.num_ready
        if hours:
            wait = float(self._random.exponential(hours * HOUR / max(1, count)))
            self._push(self.now + wait, LOSS, number, int(of_engines))

    def _lose_one(self, number: int, *, of_engines: bool) -> None:
        region = self.regions[number]
        if not region.is_down:
            if of_engines and region.num_engines:
                zones = np.repeat(np.arange(len(region.engines)), region.engines)
                region.engines[int(self._random.choice(zones))] -= 1
                self._start(number, 1, of_engines=True)
            elif not of_engines and (present := region.media.present()):
                self._interrupt(region, region.media.lose(int(self._random.choice(present))))
                self._start(number, 1, of_engines=False)
        self._plan_loss(number, of_engines)

    def _start(self, number: int, count: int, *, of_engines: bool) -> None:
        region = self.regions[number]
        for _ in range(count):
            zone = region.emptiest_zone(of_engines)
            region.starting[of_engines][zone] += 1
            seconds = self.sizes.engine_start if of_engines else self.sizes.media_start
            self._push(self.now + seconds, ENGINE_READY if of_engines else MEDIA_READY, number, zone)

    def _ready(self, number: int, zone: int, *, of_engines: bool) -> None:
        region = self.regions[number]
        region.starting[of_engines][zone] -= 1
        if region.is_down or zone not in region.zones:
            return
        if of_engines:
            region.engines[zone] += 1
        else:
            region.media.add(zone)

    def _scale(self, number: int, region: _Region) -> None:
        region.doorman.observe(self.now, region.calls)
        refused, region.refused_since_scaling = region.refused_since_scaling / SCALE_SECONDS, 0
        for of_engines, scaler in enumerate(region.scalers):
            if scaler is None:
                continue
            ready = region.num_engines if of_engines else region.media.num_ready
            slots = self.sizes.engine_slots if of_engines else self.sizes.media_slots
            starting = sum(region.starting[of_engines])
            wanted = scaler.desired(self.now, region.calls, slots, ready, starting, refused)
            change = wanted - ready - starting
            if change > 0:
                self._start(number, change, of_engines=bool(of_engines))
            for _ in range(min(-change, ready - 1)):
                if of_engines:
                    region.engines[max(region.zones, key=lambda zone: region.engines[zone])] -= 1
                else:
                    region.media.drain()

    def _break(self, fault: Fault) -> None:
        region = self.regions[fault.region]
        zones = list(region.zones) if fault.zone is None else [fault.zone]
        if fault.zone is None:
            region.is_down = True
            self._redirect[fault.region] = self.now + fault.noticed
        for zone in zones:
            region.engines[zone] = 0
            if fault.only_engines:
                continue
            region.zones.remove(zone)
            for node in region.media.present(zone):
                self._interrupt(region, region.media.lose(node))

    def _sample(self) -> None:
        for number, region in enumerate(self.regions):
            self.samples.append(
                Sample(
                    self.now,
                    number,
                    region.calls,
                    region.waiting,
                    region.attempts,
                    region.refused,
                    region.media.num_ready,
                    region.num_engines,
                )
            )
            region.attempts = region.refused = 0
