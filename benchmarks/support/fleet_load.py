"""Who calls a fleet, when, and for how long: from a seed. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

CHUNK_SECONDS = 10.0
"""So many seconds of arrivals are drawn at once; within them the rate is taken as constant."""
DAY_SECONDS = 86_400.0
HOURLY = (30, 20, 15, 12, 12, 18, 30, 50, 75, 90, 97, 100, 95, 93, 95, 97, 95, 90, 85, 80, 72, 62, 50, 40)
"""Calls at each hour of a day, 100 = the busiest: an assumed shape, low at night and high through office hours."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long calls last: lognormal, cut where the server ends them."""

    median: float = 120.0
    sigma: float = 0.9
    longest: float = 3600.0

    def draw(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Seconds of so many new calls."""
        return np.minimum(random.lognormal(math.log(self.median), self.sigma, count), self.longest)

    def residual(self, random: np.random.Generator, count: int) -> np.ndarray:
        """What is left of so many calls that run at a random moment: long ones are met more often."""
        seen = random.lognormal(math.log(self.median) + self.sigma**2, self.sigma, count)
        return np.minimum(seen, self.longest) * random.random(count)

    @property
    def mean(self) -> float:
        """Seconds; of the cut distribution."""
        place = math.log(self.longest / self.median) / self.sigma
        whole = self.median * math.exp(self.sigma**2 / 2)
        return whole * _normal(place - self.sigma) + self.longest * (1 - _normal(place))


def _normal(value: float) -> float:
    """Share of the normal distribution below `value`."""
    return (1 + math.erf(value / math.sqrt(2))) / 2


@dataclass(frozen=True, slots=True)
class Rate:
    """New calls per second, by straight lines between points of time."""

    times: tuple[float, ...]
    rates: tuple[float, ...]

    def at(self, moment: float) -> float:
        return float(np.interp(moment, self.times, self.rates))

    def arrivals(self, random: np.random.Generator, until: float) -> Iterator[float]:
        """Moments at which a new caller comes, rising: a Poisson process of that rate."""
        begin = 0.0
        while begin < until:
            length = min(CHUNK_SECONDS, until - begin)
            count = random.poisson(self.at(begin + length / 2) * length)
            yield from (begin + np.sort(random.random(count)) * length).tolist()
            begin += length


def steady(rate: float) -> Rate:
    """Always the same."""
    return Rate((0.0,), (rate,))


def day(peak: float) -> Rate:
    """One day of `HOURLY`, midnight to midnight."""
    hours = (*HOURLY, HOURLY[0])
    return Rate(tuple(3600.0 * hour for hour in range(25)), tuple(peak * share / 100 for share in hours))


def wave(rate: float, times_as_many: float, begin: float, rise: float, length: float) -> Rate:
    """`rate`, and for a while many times as many: the whistle in a stadium, a mention on television."""
    high = rate * times_as_many
    points = [(begin, rate), (begin + rise, high), (begin + rise + length, high), (begin + 2 * rise + length, rate)]
    return Rate(tuple(at for at, _ in points), tuple(value for _, value in points))


@dataclass(frozen=True, slots=True)
class Manners:
    """What a caller does who is refused."""

    patience: float = 180.0
    """Seconds from his first try on; if the next one would be later he gives up. 0: he never tries again."""
    spread: float = 0.2
    """He waits as long as he was told and up to so much of it more: no two programs sleep equally long."""
    connect_retry: float = 5.0
    """Seconds until the next try where nobody answered at all."""


def erlang_b(offered: float, slots: int) -> float:
    """Share of the callers whom a system without waiting refuses; `offered`: arrivals per second times mean length."""
    blocked = 1.0
    for number in range(1, slots + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked


def slots_for(offered: float, refused: float) -> int:
    """Fewest slots with which at most that share is refused."""
    blocked, slots = 1.0, 0
    while blocked > refused:
        slots += 1
        blocked = offered * blocked / (slots + offered * blocked)
    return slots
