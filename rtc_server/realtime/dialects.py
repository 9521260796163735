"""What a client of the event channel speaks. The call's core knows the Realtime API's own (GA) words only; a dialect
stands between it and the transport. Pure; one object per call, as a dialect may remember what it has said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .beta import downgrade_event
from .words import Event


@dataclass(frozen=True, slots=True)
class Inbound:
    """One message of the client, understood."""

    events: Sequence[str | bytes] = ()
    """Client events of the Realtime API as the client would send them, valid or not: the core judges."""
    replies: Sequence[Event] = ()
    """What the dialect answers itself, in the client's words."""
    ends_call: bool = False


class Dialect(Protocol):
    """Neither direction ever raises."""

    def to_client(self, event: Event) -> list[Event]:
        """A server event -> the messages that say it, none when there is no word for it."""

    def from_client(self, data: str | bytes) -> Inbound:
        """One message of the event channel, as it came."""

    def farewell(self) -> list[Event]:
        """What the client is told before the server ends the call."""


class PlainDialect:
    """The Realtime API itself."""

    def to_client(self, event: Event) -> list[Event]:
        """The event."""
        return [event]

    def from_client(self, data: str | bytes) -> Inbound:
        """The message."""
        return Inbound(events=(data,))

    def farewell(self) -> list[Event]:
        """Nothing: the events have said it."""
        return []


class BetaDialect(PlainDialect):
    """The Realtime API as it was before GA. What clients send is understood either way."""

    def to_client(self, event: Event) -> list[Event]:
        """The event under its old name, if it had one."""
        downgraded = downgrade_event(event)
        return [] if downgraded is None else [downgraded]
