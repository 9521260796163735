"""The part of somebody who talks to the server over a WebSocket, without the WebSocket: for the Python clients.

The client feeds it every server event and, in real time, asks it for the next 40 ms of microphone; what it answers goes
to the server. It plays the replies as an application would: in real time, silent at once when the user speaks.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from model.interface import Pcm16
from tests.clients.dialogue import PCM_RATE, Report

CHUNK_MS = 40
HEARD_MS = 300.0  # this much sound is a reply and not a click
AUDIBLE = 130.0  # -48 dBFS

Event = dict[str, Any]


class Talker:
    """Says the first recording, then the second into the reply to the first; `is_done` when that was answered."""

    def __init__(self, first: Pcm16, second: Pcm16) -> None:
        self.events: list[Event] = []
        self.interruptions: list[Event] = []
        self.is_done = False
        self._first, self._second = first, second
        self._saying = np.concatenate([np.zeros(PCM_RATE // 2, np.int16), first])
        self._loudspeaker: list[tuple[str, Pcm16]] = []
        self._item = ""
        self._played_ms = 0.0
        self._heard_ms: dict[str, float] = {}
        self._first_item = ""

    def microphone(self) -> str:
        """The next 40 ms as base64 PCM; call it every 40 ms. The loudspeaker moves on by as much."""
        self._play()
        if self._first_item and self._heard_ms[self._first_item] >= HEARD_MS and self._second is not None:
            self._saying, self._second = self._second, None
        size = PCM_RATE * CHUNK_MS // 1000
        chunk, self._saying = self._saying[:size], self._saying[size:]
        self.is_done = self._is_answered()
        return base64.b64encode(np.pad(chunk, (0, size - len(chunk))).astype("<i2").tobytes()).decode()

    def on_event(self, event: Event) -> Event | None:
        """The event to send in reply, if any."""
        self.events.append(_summary(event))
        if event["type"] == "response.output_audio.delta":
            self._receive(event["item_id"], np.frombuffer(base64.b64decode(event["delta"]), "<i2"))
        elif event["type"] == "input_audio_buffer.speech_started" and self._loudspeaker:
            self._loudspeaker.clear()
            cut = {"item_id": self._item, "content_index": 0, "audio_end_ms": int(self._played_ms)}
            self.interruptions.append(cut)
            return {"type": "conversation.item.truncate", **cut}
        return None

    def report(self) -> Report:
        """What happened, as tests/clients/dialogue.py judges it."""
        problems = [event["error"] for event in self.events if event["type"] == "error"]
        answered = self._answered()
        return {
            "events": self.events,
            "problems": problems,
            "first": self._response_of(self._first_item),
            "second": answered["response_id"] if answered else None,
            "heardFirstMs": self._heard_ms.get(self._first_item, 0.0),
            "heardSecondMs": self._heard_ms.get(self._item, 0.0),
        }

    def _receive(self, item_id: str, pcm: Pcm16) -> None:
        self._first_item = self._first_item or item_id
        self._heard_ms.setdefault(item_id, 0.0)
        if any(cut["item_id"] == item_id for cut in self.interruptions):
            return  # what was on its way when the user spoke
        size = PCM_RATE * CHUNK_MS // 1000
        self._loudspeaker += [(item_id, pcm[at : at + size]) for at in range(0, len(pcm), size)]

    def _play(self) -> None:
        played_ms = 0.0
        while self._loudspeaker and played_ms < CHUNK_MS:
            item_id, pcm = self._loudspeaker.pop(0)
            if item_id != self._item:
                self._item, self._played_ms = item_id, 0.0
            ms = len(pcm) * 1000 / PCM_RATE
            played_ms += ms
            self._played_ms += ms
            if np.sqrt((pcm.astype(np.float64) ** 2).mean()) > AUDIBLE:
                self._heard_ms[item_id] += ms

    def _is_answered(self) -> bool:
        is_cut = any(event["type"] == "conversation.item.truncated" for event in self.events)
        return is_cut and self._answered() is not None and self._heard_ms.get(self._item, 0.0) >= HEARD_MS

    def _answered(self) -> Event | None:
        """The end of the reply to the second turn."""
        first = self._response_of(self._first_item)
        for event in reversed(self.events):
            if event["type"] == "response.done" and event["status"] == "completed" and self.interruptions:
                return event if event["response_id"] != first and self._item != self._first_item else None
        return None

    def _response_of(self, item_id: str) -> str | None:
        for event in self.events:
            if event["type"] == "response.output_item.added" and event["item_id"] == item_id:
                return str(event["response_id"])
        return None


def _summary(event: Event) -> Event:
    """What a server event says, without its audio; the same fields as in tests/support/js/dialogue.mjs."""
    response = event.get("response") or {}
    item = event.get("item") or {}
    return {
        "type": event["type"],
        "response_id": event.get("response_id") or response.get("id"),
        "item_id": event.get("item_id") or item.get("id"),
        "item_type": item.get("type"),
        "status": response.get("status") or item.get("status"),
        "reason": (response.get("status_details") or {}).get("reason"),
        **{name: event.get(name) for name in ("transcript", "text", "audio_end_ms", "error", "name", "arguments")},
    }
