"""Whose calls they are: who may control a call, and how many somebody holds.

An owner is a path, such as ("key", "9f86d081884c7d65", "secret", "Xq3v"): whoever is above controls what is below, so a
back end controls the calls that browsers make with the secrets it handed out, and no two browsers control each other's.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from rtc_server.errors import RateLimitedError

Owner: TypeAlias = tuple[str, ...]

RETRY_AFTER_SECONDS = 10  # a spoken call lasts minutes; asking more often than this only adds load
MAX_KNOWN_CALLS = 20_000  # whose calls are, ended ones included until they are this many


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for a call."""

    owner: Owner
    quotas: tuple[tuple[str, int], ...] = ()
    """What it counts against, and the most calls at once of each: (("key 9f86", 20), ("address 192.0.2.1", 8))."""
    has_priority: bool = False
    """Its calls may take the places that are kept for some (`admission.priority_keys`)."""


def controls(owner: Owner, other: Owner) -> bool:
    """`owner` may control the calls of `other`: it is the same, or above it."""
    return other[: len(owner)] == owner


def account(owner: Owner) -> Owner:
    """Who stands behind `owner`: a browser may come back with another secret of the key that its first one was of."""
    return owner[: owner.index("secret")] if "secret" in owner[1:] else owner


class CallOwners:
    """The calls of one router. `is_live` tells whether a call goes on; others are forgotten by themselves."""

    def __init__(self, is_live: Callable[[str], bool]) -> None:
        self._is_live = is_live
        self._owners: OrderedDict[str, Owner] = OrderedDict()
        self._live: dict[str, Caller] = {}
        self._starting: Counter[str] = Counter()

    def of(self, call_id: str) -> Owner | None:
        """Whose call it is or was; None = there was no such call."""
        return self._owners.get(call_id)

    def share(self, call_id: str, listener_id: str) -> None:
        """A listener belongs to whom its call belongs; it counts against no quota."""
        owner = self._owners.get(call_id)
        if owner is not None:
            self._remember(listener_id, owner)

    def give(self, call_id: str, owner: Owner) -> None:
        """From now on it is somebody else's; it counts against no quota of theirs."""
        if call_id in self._owners:
            self._remember(call_id, owner)

    def count(self, quota: str) -> int:
        """Live and starting calls that count against `quota`."""
        for call_id in [call_id for call_id in self._live if not self._is_live(call_id)]:
            del self._live[call_id]
        live = sum(name == quota for caller in self._live.values() for name, _ in caller.quotas)
        return live + self._starting[quota]

    @contextmanager
    def admit(self, caller: Caller) -> Iterator[Callable[[str], None]]:
        """While a call is set up; what is yielded takes its id once there is one. Raises RateLimitedError."""
        for quota, most in caller.quotas:
            if self.count(quota) >= most:
                message = f"{most} calls at once are the most here; end one first."
                raise RateLimitedError(message, retry_after=RETRY_AFTER_SECONDS)
        names = [name for name, _ in caller.quotas]
        self._starting.update(names)
        try:
            yield lambda call_id: self._add(call_id, caller)
        finally:
            self._starting.subtract(names)
            self._starting += Counter()  # drops the zeros

    def _add(self, call_id: str, caller: Caller) -> None:
        self._live[call_id] = caller
        self._remember(call_id, caller.owner)

    def _remember(self, call_id: str, owner: Owner) -> None:
        self._owners[call_id] = owner
        while len(self._owners) > MAX_KNOWN_CALLS:
            self._owners.popitem(last=False)
