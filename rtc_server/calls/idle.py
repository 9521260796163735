"""The silence after a reply: when nobody has spoken for `idle_timeout_ms` since it had been heard. Pure."""

from __future__ import annotations

from rtc_server.realtime.session import ServerVad, TurnDetection

PROMPT = "The user has been silent for a while. In one short sentence, ask whether they are still there."
"""What the engine is told then; not part of the conversation."""


class IdleTimer:
    """Runs from the end of a reply's playback until somebody speaks or something else happens."""

    def __init__(self) -> None:
        self._since: float | None = None
        self.start_sample = 0
        """Input sample at which the silence began."""

    def start(self, now: float, sample: int) -> None:
        """The reply has been heard."""
        self._since, self.start_sample = now, sample

    def stop(self) -> None:
        """Somebody speaks, writes or asks."""
        self._since = None

    def deadline(self, detection: TurnDetection | None) -> float | None:
        """When it is up under this configuration, monotonic seconds; None while it does not run."""
        if self._since is None or not isinstance(detection, ServerVad) or detection.idle_timeout_ms is None:
            return None
        return self._since + detection.idle_timeout_ms / 1e3
