"""What can go wrong for the caller; every message is one full sentence that says what to do or what was found.

RtcServerError
└── CallError                 the call cannot be made, or ended before it was over
    ├── NoPlaceError          the server has no line for this caller now
    └── RecordingError        a recording cannot be read or holds no voice
"""

from __future__ import annotations

from rtc_server.errors import RtcServerError


class CallError(RtcServerError):
    """The call cannot be made, or ended before the last recording was answered."""


class NoPlaceError(CallError):
    """The server is well and has no line for this caller now (503 `server_full`)."""


class RecordingError(CallError):
    """A recording cannot be read, or holds nothing that could be heard."""
