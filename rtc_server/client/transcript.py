"""What the server said about the conversation: events in, turns and replies out. Pure; `now` is monotonic seconds.

A turn is opened by the caller when it begins to speak. User items that are committed and responses that are created
belong to the turn that is open at that moment. A pause inside a recording may end a turn for the server and make it
start twice: the last response of the turn is then its reply.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

MAX_TURNS_KEPT = 10_000

Event = dict[str, Any]


@dataclass(slots=True)
class Reply:
    """One response as its events tell it. Times are monotonic seconds at which the event was here."""

    response_id: str
    created_at: float
    item_id: str | None = None
    """The assistant's item in the conversation."""
    text: str = ""
    """The reply's transcript as generated, heard or not."""
    status: str = "in_progress"
    """`response.done`'s status: completed, cancelled, failed or incomplete."""
    error: str | None = None
    """The server's message when it failed."""
    started_at: float | None = None
    """First sound left the server (`output_audio_buffer.started`)."""
    ended_at: float | None = None
    """Nothing more of it will be sent: playing ended, was cleared, or never began."""
    is_interrupted: bool = False
    truncated_ms: int | None = None
    """How much of it was heard, as the server counts it (`conversation.item.truncated`)."""
    heard_text: str | None = None
    """What the conversation holds after truncation; None until it was retrieved."""
    metrics: Event = field(default_factory=dict)
    """The `rtc_server.turn.metrics` event, {} until it came."""

    @property
    def is_over(self) -> bool:
        return self.ended_at is not None


@dataclass(slots=True)
class Turn:
    """What the caller said in one go, and what became of it."""

    opened_at: float
    user_items: dict[str, str | None] = field(default_factory=dict)
    """Transcript by item; None while it is not known."""
    replies: list[Reply] = field(default_factory=list)

    @property
    def reply(self) -> Reply | None:
        return self.replies[-1] if self.replies else None

    @property
    def user_transcript(self) -> str:
        return " ".join(text for text in self.user_items.values() if text)


class TranscriptLog:
    """Keeps the call's turns. Feed every server event to `receive`; it returns the events to send back."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.is_session_created = False
        self.is_user_speaking = False
        """The server has announced speech that it has not seen the end of."""
        self.warnings: list[str] = []
        """Messages of `error` events, oldest first."""
        self._replies: OrderedDict[str, Reply] = OrderedDict()
        self._retrieving: dict[str, Reply] = {}  # by item id

    @property
    def is_retrieving(self) -> bool:
        """What was heard of a cut-off reply has been asked for and is not here yet."""
        return bool(self._retrieving)

    def open_turn(self, now: float) -> Turn:
        """The caller begins to speak."""
        turn = Turn(now)
        self.turns.append(turn)
        if len(self.turns) > MAX_TURNS_KEPT:
            del self.turns[0]
        return turn

    def receive(self, event: Event, now: float) -> list[Event]:
        """One server event; events of unknown types and ids are ignored."""
        kind = str(event.get("type"))
        match kind:
            case "session.created":
                self.is_session_created = True
            case "error":
                self._on_error(event)
            case "input_audio_buffer.speech_started":
                self.is_user_speaking = True
            case "input_audio_buffer.speech_stopped":
                self.is_user_speaking = False
            case "input_audio_buffer.committed":
                if self.turns:
                    self.turns[-1].user_items[str(event.get("item_id"))] = None
            case (
                "conversation.item.input_audio_transcription.completed"
                | "conversation.item.input_audio_transcription.failed"
            ):
                self._on_user_transcript(str(event.get("item_id")), str(event.get("transcript") or ""))
            case "response.created":
                self._on_created(str(event["response"]["id"]), now)
            case "conversation.item.truncated":
                return self._on_truncated(event)
            case "conversation.item.retrieved":
                self._on_retrieved(event)
            case _:
                self._on_reply_event(kind, event, now)
        return []

    def _on_created(self, response_id: str, now: float) -> None:
        reply = Reply(response_id, now)
        self._replies[response_id] = reply
        if len(self._replies) > MAX_TURNS_KEPT:
            self._replies.popitem(last=False)
        if self.turns:
            self.turns[-1].replies.append(reply)

    def _on_user_transcript(self, item_id: str, text: str) -> None:
        for turn in reversed(self.turns):
            if item_id in turn.user_items:
                turn.user_items[item_id] = text
                return

    def _on_reply_event(self, kind: str, event: Event, now: float) -> None:
        response = event.get("response")
        response_id = response["id"] if isinstance(response, dict) else event.get("response_id")
        reply = self._replies.get(str(response_id))
        if reply is None:
            return
        match kind:
            case "response.output_item.added":
                reply.item_id = event["item"]["id"]
            case "response.output_audio_transcript.delta":
                reply.text += event["delta"]
            case "response.done":
                self._on_done(reply, event["response"], now)
            case "output_audio_buffer.started":
                reply.started_at = now
                reply.ended_at = None
            case "output_audio_buffer.stopped":
                reply.ended_at = now
            case "output_audio_buffer.cleared":
                reply.ended_at = now
                reply.is_interrupted = True
            case "rtc_server.turn.metrics":
                reply.metrics = event

    @staticmethod
    def _on_done(reply: Reply, response: Event, now: float) -> None:
        reply.status = str(response.get("status"))
        details = response.get("status_details") or {}
        if reply.status == "failed":
            reply.error = str((details.get("error") or {}).get("message") or "no reason given")
        # Done means generated, not played: sound that has begun, or is about to, goes on until its own event.
        is_to_come = reply.status in ("completed", "incomplete") and reply.item_id is not None
        if reply.started_at is None and not is_to_come:
            reply.ended_at = now
            reply.is_interrupted = reply.status == "cancelled"

    def _on_truncated(self, event: Event) -> list[Event]:
        item_id = str(event.get("item_id"))
        reply = self._reply_of(item_id)
        if reply is None:
            return []
        reply.truncated_ms = int(event["audio_end_ms"])
        self._retrieving[item_id] = reply
        return [{"type": "conversation.item.retrieve", "event_id": f"retrieve_{item_id}", "item_id": item_id}]

    def _on_retrieved(self, event: Event) -> None:
        item = event["item"]
        reply = self._retrieving.pop(str(item.get("id")), None)
        if reply is not None:
            parts = item.get("content") or []
            reply.heard_text = " ".join(str(p.get("transcript") or p.get("text") or "") for p in parts).strip()

    def _on_error(self, event: Event) -> None:
        error = event.get("error") or {}
        asked = str(error.get("event_id") or "")
        if asked.startswith("retrieve_"):
            self._retrieving.pop(asked.removeprefix("retrieve_"), None)  # a server that cannot retrieve
            return
        self.warnings.append(str(error.get("message") or "unknown error"))
        del self.warnings[:-MAX_TURNS_KEPT]

    def _reply_of(self, item_id: str) -> Reply | None:
        return next((r for r in reversed(self._replies.values()) if r.item_id == item_id), None)
