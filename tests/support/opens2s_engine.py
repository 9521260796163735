"""The insides of a driven OpenS2S engine, for tests that look at them."""

from __future__ import annotations

from model.backends.opens2s.engine import OpenS2SEngine
from model.engine.sequence import Sequence
from tests.support.engine_contract import Driver

REPLY_ENDS = ("completed", "incomplete")
"""How a reply ends whose weights know no end, or know one."""


def engine_of(driver: Driver) -> OpenS2SEngine:
    """The engine that it drives."""
    assert isinstance(driver.engine, OpenS2SEngine)
    return driver.engine


def sequence_of(driver: Driver, key: str) -> Sequence:
    """Where the engine's core is with a response."""
    sequence = engine_of(driver)._live[key].sequence
    assert sequence is not None
    return sequence


def forget(driver: Driver) -> None:
    """What was heard and read before."""
    engine_of(driver).forget()
