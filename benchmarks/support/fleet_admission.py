"""The server's own admission, asked by the simulator: who is let in, and what the others are told. Pure."""

from __future__ import annotations

from rtc_server.calls.admission import RETRY_AFTER_SECONDS, Admission
from rtc_server.errors import ServerFullError


class Doorman:
    """Admission of one region, as its controller has it."""

    def __init__(self, *, is_honest: bool = True, reserved: int = 0) -> None:
        """Not honest: who is refused always hears the same number, whatever admission would have told him. `reserved`
        places are kept for those who come back after an interruption: they call in the priority lane."""
        self._is_honest, self._reserved = is_honest, reserved
        self._admission = Admission(0)
        self._server_calls = 0

    def admit(
        self, now: float, calls: int, server_calls: int, engine_calls: int, *, is_resuming: bool = False
    ) -> float | None:
        """One more than `calls`? None: come in. Otherwise the seconds after which to ask again."""
        if server_calls != self._server_calls:
            self._server_calls = server_calls
            self._admission.configure(server_calls, self._reserved, 0.0)
        self._admission.engine_calls = engine_calls
        try:
            self._admission.admit(calls, now, "priority" if is_resuming and self._reserved else "standard")
        except ServerFullError as error:
            return error.retry_after if self._is_honest else RETRY_AFTER_SECONDS
        return None

    def observe(self, now: float, calls: int) -> None:
        """So many calls there are now."""
        self._admission.observe(calls, now)
