"""What the server knows of a telephone call: the state of its leg, and what came of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from rtc_server.transports.sdp import Offer


class LegState(Enum):
    """Of a leg that is not over."""

    RINGING = "ringing"
    """Came in; waits for `accept` or `reject`."""
    ACCEPTING = "accepting"
    """Its call is being made."""
    ANSWERED = "answered"
    CALLING = "calling"
    """Is made by us; not answered yet."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call that was made."""

    state: Literal["ringing", "answered", "failed"]
    status_code: int | None = None
    """A SIP status, of one that failed for a reason of the peer's: 486 busy, 408 nobody answered."""


@dataclass(slots=True)
class LegRecord:
    """One leg, from its INVITE until either side has ended it."""

    call_id: str
    offer: Offer | None
    """None: ours is what the peer answers."""
    to_user: str
    state: LegState = LegState.RINGING
    is_outgoing: bool = False
    """We call."""
    is_offered: bool = False
    """A node has made our offer, and waits for the answer."""
    is_reoffered: bool = False
    """The same within the call."""
    ring_timer: asyncio.TimerHandle | None = None
    early_answer: str | None = None
    """With it media flows before the call is answered."""
    progress: set[int] = field(default_factory=set)
    """The provisional responses that were told of a call that we make; each kind is told once."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Offers within a call are answered one after the other."""

    @property
    def has_media(self) -> bool:
        """A node knows the call."""
        is_known = self.state in (LegState.ANSWERED, LegState.CALLING) or self.is_offered
        return is_known or self.early_answer is not None

    def stop_ringing(self) -> None:
        if self.ring_timer is not None:
            self.ring_timer.cancel()
            self.ring_timer = None
