"""The timer of a `Keypad`: whoever presses a key and then none any more has made an entry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .keypad import Keypad


class KeyEntry:
    """Keys of one call. `on_entry(keys, now)` gets those that belong together; what it raises goes to `on_error`."""

    def __init__(self, on_entry: Callable[[str, float], None], on_error: Callable[[Exception], None]) -> None:
        self._keypad = Keypad()
        self._on_entry = on_entry
        self._on_error = on_error
        self._timer: asyncio.TimerHandle | None = None

    def press(self, digit: str, now: float) -> bool:
        """A key. False when too many came: it does not count."""
        is_counted = self._keypad.press(digit, now)
        if is_counted:
            self._look(now)
        return is_counted

    def close(self) -> None:
        """What was pressed and not told is forgotten."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, now: float) -> None:
        self.close()
        keys, deadline = self._keypad.take(now), self._keypad.next_deadline()
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._on_deadline)
        if keys is not None:
            self._on_entry(keys, now)

    def _on_deadline(self) -> None:
        self._timer = None
        try:
            self._look(asyncio.get_running_loop().time())
        except Exception as error:  # called by the event loop, which would only log it
            self._on_error(error)
