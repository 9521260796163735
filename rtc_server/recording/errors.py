"""What can be wrong with recordings that are there already."""

from __future__ import annotations

from rtc_server.errors import RtcServerError


class RecordingNotFoundError(RtcServerError):
    """There is no recording of that call."""


class RecordingInProgressError(RtcServerError):
    """The call still goes on."""


class SealedFileError(RtcServerError):
    """A sealed file does not open: wrong key, changed, or cut off."""

    def __init__(self, message: str, *, is_cut_off: bool = False) -> None:
        super().__init__(message)
        self.is_cut_off = is_cut_off
        """What was read before is genuine; the rest is missing: a crash, or somebody shortened the file."""
