"""The section of recordings: whether calls are kept, where, for how long, and how callers are told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .kinds import Section


class RecordingSection(Section):
    """Recordings of calls: off unless enabled. Who must be asked and told is the law's and yours; see recording.md."""

    enabled: bool = False
    """Record calls."""
    calls: Literal["all", "asked"] = "all"
    """"all", or "asked": only those whose client or sideband sends `rtc_server.recording.start`."""
    directory: str = Field("recordings", min_length=1)
    """Folder of the recordings, made if it is not there; only the server's user can read what is in it."""
    notice: Literal["both", "audible", "event", "none"] = "both"
    """How callers are told: a sentence before anything else is said, the event `rtc_server.recording.started`, or both.
    "none" is for callers who have been told and asked before; the server warns about it."""
    notice_sound: str = ""
    """WAV file (16-bit mono PCM, at most 30 s) with the sentence; "" means the English one of the server."""
    transcripts: bool = True
    """Write what was said beside the sound."""
    key_file: str = ""
    """File with the key to encrypt recordings with (`rtc-server recordings key FILE` makes one); "" = no encryption."""
    retention_days: int = Field(30, ge=0, le=36_500)
    """Recordings older than this are deleted; 0 = never."""
    max_total_mb: int = Field(10_000, ge=0, le=100_000_000)
    """The oldest recordings are deleted once all together are larger, in megabytes; 0 = no limit."""
