"""What came of a call, as data, as one line of JSON and as a table for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from model.interface import Pcm16


@dataclass(frozen=True, slots=True)
class TurnReport:
    """One recording and its reply. Times in milliseconds, measured at the caller; None where they do not exist."""

    recording: str
    user_transcript: str = ""
    """What the server understood."""
    reply_transcript: str = ""
    """The reply as the server wrote it, heard to its end or not."""
    response_latency_ms: float | None = None
    """Last voiced sample sent -> first voiced sample heard."""
    reply_duration_ms: float | None = None
    """First -> last voiced sample of the reply."""
    interrupted: bool = False
    """The server cut the reply off."""
    interruption_stop_ms: float | None = None
    """First voiced sample of the interrupting recording sent -> last voiced sample of this reply heard.

    Negative when the reply was in a pause of its own at that moment and never went on."""
    heard_transcript: str | None = None
    """What the conversation holds of a cut-off reply."""
    heard_ms: int | None = None
    """How much of a cut-off reply was heard, by the server's count."""
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The server's stages of this turn, in ms relative to the last voiced sample it got."""
    server_latency_ms: float | None = None
    """The server's own figure of the response latency."""
    speculated: bool | None = None
    """The reply was begun before the end of the turn was certain."""
    status: str | None = None
    """The response's status; None while there is none."""
    error: str | None = None
    """Why the response failed."""
    is_over: bool = False

    @property
    def is_answered(self) -> bool:
        """A reply was heard."""
        return self.reply_duration_ms is not None

    def to_json(self) -> dict[str, Any]:
        return {
            "recording": self.recording,
            "user_transcript": self.user_transcript,
            "reply_transcript": self.reply_transcript,
            "response_latency_ms": _rounded(self.response_latency_ms),
            "reply_duration_ms": _rounded(self.reply_duration_ms),
            "interrupted": self.interrupted,
            "interruption_stop_ms": _rounded(self.interruption_stop_ms),
            "heard_transcript": self.heard_transcript,
            "heard_ms": self.heard_ms,
            "stages": self.stages,
            "server_latency_ms": self.server_latency_ms,
            "speculated": self.speculated,
            "status": self.status,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True, eq=False)
class CallReport:
    """A whole call."""

    turns: Sequence[TurnReport]
    connected_ms: float
    """From the first line of the offer to a connection that carries media."""
    session_created_ms: float
    """The same, to `session.created`."""
    packets: Mapping[str, int]
    """`sent`, `received`, `lost_received` (on the way here) and `lost_sent` (as the server reports it)."""
    warnings: Sequence[str] = ()
    """Messages of `error` events."""
    replies: Sequence[Pcm16] = ()
    """The replies as heard, int16 mono 48 kHz; empty unless the plan keeps audio."""

    @property
    def packets_lost(self) -> int:
        """Lost in either direction."""
        return self.packets["lost_received"] + self.packets["lost_sent"]

    def to_json(self) -> dict[str, Any]:
        return {
            "turns": [turn.to_json() for turn in self.turns],
            "connected_ms": _rounded(self.connected_ms),
            "session_created_ms": _rounded(self.session_created_ms),
            "packets_lost": self.packets_lost,
            "packets": dict(self.packets),
            "warnings": list(self.warnings),
        }

    def to_line(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_json(), ensure_ascii=False)


def turns_table(turns: Sequence[TurnReport]) -> Table:
    """Who said what, and how fast the answer came."""
    table = Table(box=None, pad_edge=False, expand=False, header_style="bold")
    table.add_column("who", no_wrap=True)
    table.add_column("says")
    table.add_column("after", justify="right", no_wrap=True)
    table.add_column("for", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for turn in turns:
        said = Text(turn.user_transcript) if turn.user_transcript else Text(turn.recording, "dim")
        table.add_row("you", said, "", "", "")
        table.add_row("server", *_reply_cells(turn), end_section=True)
    return table


def _reply_cells(turn: TurnReport) -> tuple[Text, str, str, Text]:
    words = turn.reply_transcript
    if turn.error is not None:
        return Text(f"failed: {turn.error}", "red"), "", "", Text("")
    if not words:
        if turn.is_answered:
            said = Text("(sound without a transcript)", "dim")
        else:
            said = Text("(no reply)" if turn.is_over else "…", "dim")
    elif turn.heard_transcript is not None and words.startswith(turn.heard_transcript):
        said = Text.assemble(turn.heard_transcript, (words[len(turn.heard_transcript) :], "dim strike"))
    else:
        said = Text(words)
    note = ""
    if turn.interrupted:
        stop = turn.interruption_stop_ms
        note = "cut off" if stop is None else f"cut off, silent {f'after {stop:.0f} ms' if stop > 0 else 'already'}"
    return said, _ms(turn.response_latency_ms), _seconds(turn.reply_duration_ms), Text(note, "yellow")


def summary(report: CallReport) -> str:
    """One line on the connection."""
    packets = report.packets
    return (
        f"connected after {report.connected_ms:.0f} ms, {packets['sent']} packets sent, "
        f"{packets['received']} received, {report.packets_lost} lost"
    )


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} ms"


def _seconds(ms: float | None) -> str:
    return "" if ms is None else f"{ms / 1e3:.1f} s"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
