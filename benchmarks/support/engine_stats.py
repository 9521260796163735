"""What an engine counts of itself, as plain data, and what it counted between two readings. No engine needs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass

Stats = dict[str, float | dict[int, int]]
"""Numbers, and numbers by size: of batches, for example."""

ROUNDS = "rounds"
"""The OpenS2S engine's: rounds of generation by number of replies in them."""


def stats_of(engine: object) -> Stats:
    """A copy of `engine.stats` (or `engine.stats()`), since the engine is warm."""
    said = getattr(engine, "stats", None)
    said = said() if callable(said) else said
    if not is_dataclass(said) or isinstance(said, type):
        return {}
    found: Stats = {}
    for key, value in ((field.name, getattr(said, field.name)) for field in fields(said)):
        if isinstance(value, Mapping):
            found[key] = {int(size): int(count) for size, count in value.items()}
        elif isinstance(value, int | float):
            found[key] = value
    return found


def between(before: Stats, after: Stats) -> Stats:
    """What came between two readings."""
    found: Stats = {}
    for key, value in after.items():
        earlier = before.get(key, 0)
        if isinstance(value, dict):
            old = earlier if isinstance(earlier, dict) else {}
            counts = {size: count - old.get(size, 0) for size, count in sorted(value.items())}
            found[key] = {size: count for size, count in counts.items() if count}
        else:
            found[key] = round(value - (0 if isinstance(earlier, dict) else earlier), 4)
    return found


def mean_batch(stats: Stats) -> float | None:
    """Replies in a round, on average; None where the engine does not count them."""
    rounds = stats.get(ROUNDS)
    if not isinstance(rounds, dict) or not rounds:
        return None
    return round(sum(size * count for size, count in rounds.items()) / sum(rounds.values()), 2)
