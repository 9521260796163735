"""One call's recording, seen from the call: collects payloads, samples and events, and hands them to the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from model.interface import INPUT_SAMPLE_RATE, Pcm16
from rtc_server import metrics
from rtc_server.realtime.words import Event

from .notice import Notice
from .store import Entry, RecordingStore
from .transcript import FindText, Transcript
from .writer import Piece, Side, SideFormat

log = logging.getLogger(__name__)

BATCH = 128  # payloads: both directions of a second and more
BATCH_SECONDS = 1.0
DESCRIBE_SECONDS = 10.0  # how much of the words a crash may cost

Tell = Callable[..., None]
"""Sends an event: its type, then its fields."""


class CallRecorder:
    """See the module's docstring. A `transports.base.MediaTap`. `start`, then `stop` in any state; both only once."""

    def __init__(self, store: RecordingStore, call_id: str, find_text: FindText, tell: Tell) -> None:
        """`tell` sends an event to whoever follows the call."""
        self._store = store
        self._settings = store.settings
        self._call_id = call_id
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._transcript = Transcript(find_text) if store.settings.transcripts else None
        self._entry: Entry | None = None
        self._is_over = False
        self._zero = 0.0
        self._started_at = datetime.now(UTC)
        self._pieces: list[Piece] = []
        self._handed_over_at = 0.0
        self._described_at = 0.0
        self._notice: Notice | None = None
        self._notice_kinds: list[str] = []
        self._formats: dict[Side, SideFormat] = {}

    @property
    def by_default(self) -> bool:
        """Every call is recorded."""
        return self._settings.calls == "all"

    @property
    def is_recording(self) -> bool:
        return self._entry is not None and not self._is_over

    @property
    def was_started(self) -> bool:
        return self._entry is not None

    def start(
        self, now: float, caller: str | None, server: str | None, playout_rate: int, *, can_play_notice: bool
    ) -> None:
        """Record from now on. `caller`, `server`: the codings of the payloads that will come, None where samples come:
        16 kHz from the caller, `playout_rate` to it. `can_play_notice`: the caller hears what is pulled."""
        self._zero = self._handed_over_at = self._described_at = now
        self._started_at = datetime.now(UTC)
        self._formats = {
            "caller": SideFormat(caller, INPUT_SAMPLE_RATE),
            "server": SideFormat(server, playout_rate),
        }
        notice = self._settings.notice
        if notice != "none" and (notice != "audible" or not can_play_notice):
            self._notice_kinds.append("event")
        if notice in ("audible", "both") and can_play_notice:
            self._notice_kinds.append("audible")
            self._notice = Notice(*self._store.notice, playout_rate)
        self._entry = self._store.open(self._call_id, self._formats, self._body(now), self._on_failure)
        metrics.RECORDINGS.inc()
        log.info("recording started", extra={"call_id": self._call_id})

    def announcement(self) -> dict[str, Any] | None:
        """The fields of `rtc_server.recording.started`; None while nothing is recorded, or where nobody is to be told
        by an event."""
        if not self.is_recording or "event" not in self._notice_kinds:
            return None
        return {
            "audio": True,
            "transcript": self._transcript is not None,
            "audible_notice": "audible" in self._notice_kinds,
            "retention_days": self._settings.retention_days or None,
        }

    def stop(self, reason: str, now: float) -> None:
        """The call is over, or is not to be recorded any more. Idempotent."""
        entry = self._entry
        if entry is None or self._is_over:
            return
        self._is_over = True
        metrics.RECORDINGS.dec()
        self._hand_over(now)
        self._store.finish(entry, now - self._zero, self._body(now, reason))
        log.info("recording ended", extra={"call_id": self._call_id, "reason": reason})

    # --- MediaTap

    def on_received(self, payload: bytes, timestamp: int, now: float) -> None:
        """A payload of the caller, in order."""
        self._add("caller", payload, timestamp, now)

    def on_sent(self, payload: bytes, timestamp: int, now: float) -> None:
        """A payload to the caller."""
        self._add("server", payload, timestamp, now)

    # --- the call

    def on_input(self, pcm: Pcm16, now: float) -> None:
        """Samples of the caller, 16 kHz; kept where no payloads come."""
        if self.is_recording and self._formats["caller"].coding is None:
            self._add("caller", pcm.astype("<i2", copy=False).tobytes(), None, now)

    def on_output(self, pcm: Pcm16, now: float) -> None:
        """A frame to the caller; kept where no payloads are sent."""
        if self.is_recording and self._formats["server"].coding is None:
            self._add("server", pcm.astype("<i2", copy=False).tobytes(), None, now)

    def notice_frame(self) -> Pcm16 | None:
        """The next 20 ms of the audible notice, which goes before everything else; None when there is none (any
        more)."""
        if self._notice is None:
            return None
        frame = self._notice.next_frame()
        if frame is None:
            self._notice = None
        return frame

    def on_event(self, event: Event, now: float, input_ms: float) -> None:
        """An event that the call sends; `input_ms` of the caller's sound have been heard by now."""
        if self._transcript is None or not self.is_recording:
            return
        heard_ms = event.get("audio_start_ms", event.get("audio_end_ms"))
        lag_ms = 0 if heard_ms is None else max(0, round(input_ms - heard_ms))
        self._transcript.note(event, self._ms(now), lag_ms)
        if self._transcript.has_changed and now - self._described_at >= DESCRIBE_SECONDS:
            self._described_at = now
            assert self._entry is not None, "it is recording"
            self._store.describe(self._entry, self._body(now))

    # --- inside

    def _add(self, side: Side, payload: bytes, timestamp: int | None, now: float) -> None:
        if self._entry is None or self._is_over:
            return
        self._pieces.append(Piece(side, payload, timestamp, now - self._zero))
        if len(self._pieces) >= BATCH or now - self._handed_over_at >= BATCH_SECONDS:
            self._hand_over(now)

    def _hand_over(self, now: float) -> None:
        self._handed_over_at = now
        pieces, self._pieces = self._pieces, []
        if pieces and self._entry is not None:
            self._store.add(self._entry, pieces)

    def _on_failure(self, reason: str) -> None:
        """Called by the store, from its thread too."""
        with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(self._fail, reason)

    def _fail(self, reason: str) -> None:
        if not self._is_over:
            self.stop(reason, self._loop.time())
            self._tell("rtc_server.recording.stopped", reason=reason)

    def _ms(self, now: float) -> int:
        return round((now - self._zero) * 1_000)

    def _body(self, now: float, reason: str | None = None) -> dict[str, Any]:
        """What is written beside the sound; the files' names are added by the writer."""
        body: dict[str, Any] = {
            "call_id": self._call_id,
            "started_at": self._started_at.isoformat(timespec="milliseconds"),
            "duration_ms": self._ms(now),
            "complete": reason is not None and (self._entry is None or not self._entry.has_failed),
            "ended_by": reason,
            "notice": self._notice_kinds,
            "audio": {
                side: {"coding": form.coding or "PCM", **({} if form.coding else {"sample_rate": form.sample_rate})}
                for side, form in self._formats.items()
            },
        }
        if self._transcript is not None:
            body["turns"] = self._transcript.turns()
        return body
