"""One engine under so many calls, on virtual time: the real scheduler, the measured costs, callers who talk.

Callers wait for their reply, hear it to its end, think, speak and ask again, as `workload.TALK` has it; a guess is
asked for in the pause before the turn is over, as the server does. What is counted begins after a warming-up, in which
the callers come in.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.support.engine_time import GRANT_MS, UNIT_MS, Listener, Reply, Times, World
from benchmarks.support.workload import TALK, TEXT_TOKENS_PER_SECOND, Mix

HOLD_SECONDS = 0.28
"""Between the request for a guess and the end of its turn: silence_duration_ms less speculation_silence_ms."""
ENDPOINT_MS = 400.0
"""From the last voiced sample to the end of the turn, with the default `server_vad`."""
WAY_MS = 40.0
"""From the engine's event to the first frame on the wire: what the embedded engine's turns take beside the endpoint (a
measured turn: 440 ms at the server, its reply ready before the endpoint at 402)."""
WARM_UP_SECONDS = 20.0
HARVEST_SECONDS = 20.0
MAX_SEQUENCES = 64


@dataclass(frozen=True, slots=True)
class EnginePoint:
    """What one engine gave its callers."""

    calls: int
    turns: int
    p50_ms: float
    """Response latency: from the last voiced sample to the first sound of the reply leaving the server."""
    p95_ms: float
    p99_ms: float
    refused: float
    """Share of the turns that waited too long for a place and got `engine_busy`."""
    gaps: float
    """Share of the replies in which the listener ran dry."""


@dataclass(slots=True)
class _Caller:
    random: random.Random
    speaks_until: float
    """When his turn is over."""
    reply: Reply
    listener: Listener | None = None
    is_released: bool = False


@dataclass(slots=True)
class Talk:
    """So many callers of one engine."""

    world: World
    mix: Mix
    callers: list[_Caller] = field(default_factory=list)

    def begin(self, calls: int, seed: int) -> None:
        """They come in spread over one cycle of conversation."""
        for number in range(calls):
            generator = random.Random(f"{seed}-{number}")
            caller = _Caller(generator, 0.0, self._reply(generator))
            caller.speaks_until = self.world.clock.now + generator.uniform(0.5, self.mix.cycle)
            self.callers.append(caller)

    def run(self, seconds: float) -> None:
        """Let them talk for so long."""
        world, end = self.world, self.world.clock.now + seconds
        while world.clock.now < end:
            for caller in self.callers:
                self._advance(caller, world.clock.now)
            world.run_until(world.clock.now + GRANT_MS / 1000)

    def _advance(self, caller: _Caller, now: float) -> None:
        listener = caller.listener
        if listener is None:
            if now >= caller.speaks_until - HOLD_SECONDS:
                caller.listener = self.world.ask(caller.reply, is_held=True)
                caller.is_released = False
            return
        if not caller.is_released:
            if now >= caller.speaks_until:
                self.world.release(listener)
                caller.is_released = True
            return
        if not listener.outcome:
            return
        if listener.outcome == "done" and listener.started is not None:
            heard_until = listener.started + listener.produced_ms / 1000
            if now < heard_until:
                return
        think = caller.random.expovariate(1 / self.mix.think)
        caller.speaks_until = now + think + _length(caller.random, self.mix.utterance)
        caller.reply, caller.listener = self._reply(caller.random), None

    def _reply(self, generator: random.Random) -> Reply:
        seconds = _length(generator, self.mix.reply)
        return Reply(max(2, round(seconds * TEXT_TOKENS_PER_SECOND)), max(1, round(seconds * 1000 / UNIT_MS)))


def _length(generator: random.Random, lengths: tuple[float, float, float]) -> float:
    least, mean, most = lengths
    place = (mean - least) / (most - least)
    return least + (most - least) * generator.betavariate(4 * place, 4 * (1 - place))


def measure_engine(
    times: Times, calls: int, seconds: float, seed: int, *, capacity: int = MAX_SEQUENCES, mix: Mix = TALK
) -> EnginePoint:
    """`calls` callers on one engine for `seconds` of virtual time after the warming-up."""
    world = World(times, max_sequences=capacity, seed=seed)
    talk = Talk(world, mix)
    talk.begin(calls, seed)
    talk.run(WARM_UP_SECONDS)
    before = set(world.listeners)
    counted: list[Listener] = []
    while seconds > 0:
        talk.run(min(HARVEST_SECONDS, seconds))
        seconds -= HARVEST_SECONDS
        for name, listener in list(world.listeners.items()):
            if listener.outcome == "refused" or (listener.outcome and listener.first_sound is not None):
                del world.listeners[name]  # looking at it in every step would only take time
                if name not in before:
                    counted.append(listener)
    refused = sum(listener.outcome == "refused" for listener in counted)
    done = [listener for listener in counted if listener.first_sound is not None]
    waits = [(listener.first_sound - listener.asked) * 1000 for listener in done if listener.first_sound is not None]
    p50, p95, p99 = (float(value) for value in np.percentile(waits, (50, 95, 99))) if waits else (float("nan"),) * 3
    base = ENDPOINT_MS + WAY_MS
    return EnginePoint(
        calls,
        len(counted),
        round(base + p50, 1),
        round(base + p95, 1),
        round(base + p99, 1),
        refused / max(1, len(counted)),
        sum(bool(listener.gaps_ms) for listener in done) / max(1, len(done)),
    )


@dataclass(frozen=True, slots=True)
class LatencyCurve:
    """Points of one engine, looked up by how many calls each has."""

    points: tuple[EnginePoint, ...]
    """By rising number of calls."""

    def p95_ms(self, calls_per_engine: float) -> float:
        """Between two points on the line between them; beyond the last one, that one: at least so much."""
        return self._at(calls_per_engine, [point.p95_ms for point in self.points])

    def refused(self, calls_per_engine: float) -> float:
        """Share of the turns that find no place."""
        return self._at(calls_per_engine, [point.refused for point in self.points])

    def _at(self, calls: float, values: Sequence[float]) -> float:
        return float(np.interp(calls, [point.calls for point in self.points], values))


def largest_in_time(points: Sequence[EnginePoint], limit_ms: float) -> int:
    """The most calls up to which every point holds: p95 within the limit, nobody refused, nobody dry."""
    best = 0
    for point in sorted(points, key=lambda point: point.calls):
        if point.p95_ms > limit_ms or point.refused or point.gaps:
            break
        best = point.calls
    return best
