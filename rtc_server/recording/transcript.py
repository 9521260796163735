"""Who said what and when, from the events that a call sends: the text beside the sound. Pure.

Times are milliseconds on the recording's clock. Of a reply that was interrupted the text is what was really heard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rtc_server.realtime.words import Event

MAX_TURNS = 20_000  # of one call: an hour of one turn per second is 3,600; more is a flood of events

FindText = Callable[[str], str | None]
"""The present text of a conversation item, by its id; None when it is gone."""


@dataclass(slots=True)
class Turn:
    """One stretch of speech, or one written message."""

    item_id: str
    role: str
    start_ms: int | None = None
    end_ms: int | None = None
    text: str = ""
    is_interrupted: bool = False
    heard_ms: int | None = None
    """Of an interrupted reply: how much of its sound had been heard."""

    def to_json(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "role": self.role,
            "item_id": self.item_id,
            "start_ms": self.start_ms,
            "end_ms": self.end_ms,
            "text": self.text,
        }
        if self.role == "assistant":
            body["interrupted"] = self.is_interrupted
        if self.heard_ms is not None:
            body["heard_ms"] = self.heard_ms
        return body


class Transcript:
    """See the module's docstring. `note` every event, then read `turns`."""

    def __init__(self, find_text: FindText) -> None:
        self._find_text = find_text
        self._turns: dict[str, Turn] = {}  # by item, in the order of their beginnings
        self._item_of: dict[str, str] = {}  # response -> its message
        self.has_changed = False

    def note(self, event: Event, at_ms: int, input_lag_ms: int = 0) -> None:
        """One event, sent at `at_ms`. `input_lag_ms`: how long ago the time was that the event gives for the user's
        voice, which is noticed only after it has begun or ended."""
        match event["type"]:
            case "input_audio_buffer.speech_started":
                self._turn(event["item_id"], "user").start_ms = max(0, at_ms - input_lag_ms)
            case "input_audio_buffer.speech_stopped":
                self._turn(event["item_id"], "user").end_ms = max(0, at_ms - input_lag_ms)
            case "conversation.item.input_audio_transcription.completed":
                self._turn(event["item_id"], "user").text = event["transcript"]
            case "conversation.item.added" if event["item"].get("type") == "message":
                turn = self._turn(event["item"]["id"], event["item"]["role"])
                turn.start_ms = at_ms if turn.start_ms is None else turn.start_ms
            case "response.output_item.added" if event["item"].get("type") == "message":
                self._item_of[event["response_id"]] = event["item"]["id"]
                self._turn(event["item"]["id"], "assistant").start_ms = at_ms
            case "output_audio_buffer.started":
                self._set(event["response_id"], start_ms=at_ms)
            case "output_audio_buffer.stopped" | "output_audio_buffer.cleared":
                self._set(event["response_id"], end_ms=at_ms)
            case "response.output_audio_transcript.done":
                turn = self._turn(event["item_id"], "assistant")
                turn.text, turn.end_ms = event["transcript"], turn.end_ms or at_ms
            case "response.output_text.done":
                turn = self._turn(event["item_id"], "assistant")
                turn.text, turn.end_ms = event["text"], at_ms
            case "response.done" if event["response"]["status"] == "cancelled":
                cut = self._turns.get(self._item_of.get(event["response"]["id"], ""))
                if cut is not None:
                    cut.is_interrupted = True
            case "conversation.item.truncated":
                turn = self._turn(event["item_id"], "assistant")
                turn.is_interrupted, turn.heard_ms = True, event["audio_end_ms"]
                turn.text = self._find_text(event["item_id"]) or ""
            case _:
                return
        self.has_changed = True

    def turns(self) -> list[dict[str, Any]]:
        """So far, by their beginnings. What the user said is filled in where the session asked for no transcripts."""
        self.has_changed = False
        for turn in self._turns.values():
            if not turn.text and not turn.is_interrupted:
                turn.text = self._find_text(turn.item_id) or ""
        ordered = sorted(self._turns.values(), key=lambda turn: turn.start_ms or 0)
        return [turn.to_json() for turn in ordered]

    def _turn(self, item_id: str, role: str) -> Turn:
        turn = self._turns.get(item_id)
        if turn is None:
            turn = Turn(item_id, role)
            if len(self._turns) < MAX_TURNS:
                self._turns[item_id] = turn
        return turn

    def _set(self, response_id: str, *, start_ms: int | None = None, end_ms: int | None = None) -> None:
        turn = self._turns.get(self._item_of.get(response_id, ""))
        if turn is None:
            return
        if start_ms is not None:
            turn.start_ms = start_ms
        if end_ms is not None:
            turn.end_ms = end_ms
