"""Session timers (RFC 4028): who shows that a call still lives, how often, and when it is over without that."""

from __future__ import annotations

import re
from dataclasses import dataclass

MIN_SESSION_SECONDS = 90  # RFC 4028 section 5: no smaller value may be asked for
END_EARLY_SECONDS = 32.0  # section 10: the BYE goes out before the session is over, at most a third of it

_EXPIRES = re.compile(r"\s*(\d{1,9})\s*(?:;\s*refresher\s*=\s*(uac|uas)\s*)?(?:;.*)?\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SessionTimer:
    """What was agreed for a call."""

    seconds: int
    is_ours: bool
    """We refresh; else the peer does, and the call ends when it does not."""
    is_known: bool
    """The peer knows timers (`Supported: timer`)."""

    @property
    def refresh_after(self) -> float:
        """Seconds from one refresh of ours to the next."""
        return self.seconds / 2

    @property
    def ends_after(self) -> float:
        """Seconds without a refresh after which the call is over."""
        return self.seconds - min(END_EARLY_SECONDS, self.seconds / 3)

    def header(self, *, is_answerer: bool) -> str:
        """The value of `Session-Expires`; `is_answerer`: in an answer of ours (we are the UAS)."""
        refresher = "uas" if self.is_ours == is_answerer else "uac"
        return f"{self.seconds};refresher={refresher}"


class IntervalTooSmallError(Exception):
    """The peer asks for a shorter interval than we take: 422 with our `Min-SE`."""


def agree_as_answerer(
    session_expires: str | None, supported: str, *, preferred: int, minimum: int = MIN_SESSION_SECONDS
) -> SessionTimer:
    """For an INVITE that came in: the values of its `Session-Expires` (None: it has none) and `Supported`. One that
    cannot be read counts as none. Raises IntervalTooSmallError."""
    is_known = "timer" in {option.strip().lower() for option in supported.split(",")}
    asked = None if session_expires is None else _EXPIRES.match(session_expires)
    if asked is None:
        return SessionTimer(preferred, is_ours=True, is_known=is_known)
    seconds, refresher = int(asked[1]), (asked[2] or "").lower()
    if seconds < minimum:
        raise IntervalTooSmallError
    seconds = min(seconds, max(preferred, minimum))  # section 9: may be made shorter, never longer
    if not is_known:
        return SessionTimer(seconds, is_ours=True, is_known=False)  # table 2
    return SessionTimer(seconds, is_ours=refresher == "uas", is_known=True)


def agree_as_caller(session_expires: str | None, *, preferred: int, minimum: int = MIN_SESSION_SECONDS) -> SessionTimer:
    """For an INVITE of ours that was answered: the `Session-Expires` of the answer. One below `minimum` counts as that:
    a peer must not make us refresh all the time."""
    agreed = None if session_expires is None else _EXPIRES.match(session_expires)
    if agreed is None:
        return SessionTimer(preferred, is_ours=True, is_known=False)
    seconds = max(minimum, int(agreed[1]))
    return SessionTimer(seconds, is_ours=(agreed[2] or "uac").lower() == "uac", is_known=True)
