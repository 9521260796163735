"""What an operator sees of one call at one moment: how it is connected, what it does, how quick its last reply was.

No words and no sound: a status may be shown to whoever runs the server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from rtc_server.transports.base import LineStatus

CallState: TypeAlias = Literal["connecting", "listening", "thinking", "speaking", "echo"]
"""Who has the floor: "thinking" from the request to the first sample of the reply, "speaking" to its last; "echo" is a
test of the line, which has no turns."""


@dataclass(frozen=True, slots=True)
class CallStatus:
    """One call that goes on."""

    call_id: str
    age_seconds: float
    state: CallState
    line: LineStatus
    turns: int = 0
    """Replies that were heard, each measured once."""
    latency_ms: float | None = None
    """Response latency of the latest spoken turn; None before the first."""
    underruns: int = 0
    """Times that a reply ran dry while it was playing."""
    cancels_echo: bool = False
    """Our own voice is taken out of what is heard."""
    suppresses_noise: bool = False
    """Noise is kept from the voice detector."""
