"""From what whole runs cost to what one set-up and one second of call cost. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spent:
    """What one process spent on one run."""

    calls: int
    call_seconds: float
    cpu_seconds: float


def set_up_and_second(short: Spent, long: Spent) -> tuple[float, float]:
    """Milliseconds of CPU of one set-up (with its hang-up), and of one second of call, from two runs with as many
    calls of different length. Raises ValueError where the runs cannot tell the two apart."""
    if short.calls != long.calls or long.call_seconds <= short.call_seconds:
        raise ValueError(
            f"Two runs with as many calls, the second longer, were expected; these are {short} and {long}."
        )
    second = (long.cpu_seconds - short.cpu_seconds) / (long.call_seconds - short.call_seconds)
    set_up = (short.cpu_seconds - second * short.call_seconds) / short.calls
    return 1000 * set_up, 1000 * second
