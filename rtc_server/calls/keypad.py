"""Keys that a caller presses: how fast they may come, and what they are together."""

from __future__ import annotations

KEYS_PER_SECOND, BURST = 10.0, 24  # the fastest dialler of a telephone presses ten a second; more is an attack
ENTRY_SECONDS = 2.5  # without another key the entry is over
MAX_ENTRY = 64


class Keypad:
    """Of one call. Time is the caller's, in monotonic seconds."""

    def __init__(self) -> None:
        self._allowance = float(BURST)
        self._at: float | None = None
        self._entry = ""
        self._pressed_at = 0.0

    def press(self, digit: str, now: float) -> bool:
        """A key. False when too many came: it does not count."""
        if self._at is not None:
            self._allowance = min(float(BURST), self._allowance + (now - self._at) * KEYS_PER_SECOND)
        self._at = now
        if self._allowance < 1.0:
            return False
        self._allowance -= 1.0
        self._entry += digit
        self._pressed_at = now
        return True

    def next_deadline(self) -> float | None:
        """When to ask `take` again; None while nothing was pressed."""
        return self._pressed_at + ENTRY_SECONDS if self._entry else None

    def take(self, now: float) -> str | None:
        """The keys of an entry that is over, by "#" or by a pause; None while it is not."""
        entry = self._entry
        is_over = entry.endswith("#") or len(entry) >= MAX_ENTRY or now >= self._pressed_at + ENTRY_SECONDS
        if not entry or not is_over:
            return None
        self._entry = ""
        return entry


def entry_text(keys: str) -> str:
    """What the model is told."""
    return f"[The caller pressed the keys {' '.join(keys)} on the telephone.]"
