"""What the user said, in writing: from the response that answers it, or from a request of its own. Pure.

A response recognises the turn it answers, so its transcript costs nothing. Turns that nobody answers (push to talk, no
automatic responses, transcription sessions) are recognised by a request that makes no reply. It waits a moment, because
the client usually asks for the response at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from model.interface import (
    INPUT_SAMPLE_RATE,
    EngineEvent,
    EngineFault,
    GenerateRequest,
    Pcm16,
    ResponseDone,
    Transcript,
    TranscriptDelta,
)
from rtc_server.realtime.conversation import Conversation, Item
from rtc_server.realtime.words import NewId

from .announcements import Announcer
from .intents import CancelRequest, Outbox, SubmitRequest

PATIENCE_SECONDS = 0.3
"""How long a turn waits for a response to be asked for before it is recognised by itself."""
MAX_PENDING = 32  # turns of one call that wait or are being recognised; more is a flood, the oldest are given up
UNSUPPORTED = EngineFault("transcription_not_supported", "This server's backend does not transcribe speech.")
GIVEN_UP = EngineFault("transcription_dropped", "Too many turns wait for their transcript.")


@dataclass(slots=True)
class _Job:
    """One turn that is recognised by itself."""

    item_id: str
    turn_id: str
    audio: Pcm16
    due: float | None
    """When it starts, monotonic seconds; None once it has."""
    response_id: str = ""

    @property
    def seconds(self) -> float:
        return len(self.audio) / INPUT_SAMPLE_RATE


class Transcripts:
    """Owns the requests for transcripts and writes them into the conversation."""

    def __init__(
        self,
        call_id: str,
        conversation: Conversation,
        announce: Announcer,
        outbox: Outbox,
        new_id: NewId,
        *,
        is_possible: bool,
    ) -> None:
        self._call_id = call_id
        self._conversation = conversation
        self._announce = announce
        self._outbox = outbox
        self._new_id = new_id
        self._is_possible = is_possible
        self._jobs: dict[str, _Job] = {}  # by item, oldest first
        self._streamed: set[str] = set()  # items of which deltas went out, until they are complete
        self.is_wanted = False
        """The session asks for transcripts; else they only serve the conversation."""

    def expect(self, item_id: str, turn_id: str, audio: Pcm16, now: float, *, at_once: bool = False) -> None:
        """A turn entered the conversation, and no response covers it yet."""
        if not self.is_wanted:
            return
        if not self._is_possible:
            self._outbox.send(self._announce.transcript_failed(item_id, UNSUPPORTED))
            return
        while len(self._jobs) >= MAX_PENDING:
            self._fail(next(iter(self._jobs.values())), GIVEN_UP)
        self._jobs[item_id] = _Job(item_id, turn_id, audio, now if at_once else now + PATIENCE_SECONDS)

    def is_expected(self, item_id: str) -> bool:
        """A request of its own transcribes it, or will."""
        return item_id in self._jobs

    def cover(self, item_id: str) -> None:
        """A response recognises this turn now: its own request is not needed, unless it runs already."""
        job = self._jobs.get(item_id)
        if job is not None and job.due is not None:
            del self._jobs[item_id]

    def next_deadline(self) -> float | None:
        """When the next request starts."""
        return min((job.due for job in self._jobs.values() if job.due is not None), default=None)

    def handle_deadline(self, now: float) -> None:
        """Start what is due."""
        for job in self._jobs.values():
            if job.due is not None and job.due <= now:
                job.due = None
                job.response_id = self._new_id("resp")
                request = GenerateRequest(
                    call_id=self._call_id,
                    response_id=job.response_id,
                    turn_id=job.turn_id,
                    items=(),
                    audio=job.audio,
                    output="transcript",
                    audio_credit_ms=0,
                )
                self._outbox.add(SubmitRequest(request))

    def receive(self, event: EngineEvent) -> bool:
        """An engine event of one of these requests; False when it is of none."""
        job = next((job for job in self._jobs.values() if job.response_id == event.response_id), None)
        if job is None:
            return False
        match event:
            case TranscriptDelta(_, text, _):
                self.on_delta(job.item_id, text)
            case Transcript(_, text, _):
                self.on_transcript(job.item_id, text, job.seconds)
            case ResponseDone():
                if event.status == "completed":
                    del self._jobs[job.item_id]
                else:
                    self._fail(job, event.fault or EngineFault("transcription_failed", "It was not recognised."))
        return True

    def on_delta(self, item_id: str, text: str) -> None:
        """The next words of an item, as they are recognised."""
        if self.is_wanted and self._is_open(item_id):
            self._streamed.add(item_id)
            self._outbox.send(self._announce.transcript_delta(item_id, text))

    def on_transcript(self, item_id: str, text: str, seconds: float) -> None:
        """All words of an item. The first transcript counts; a later one of the same turn says the same."""
        if not self._is_open(item_id):
            return
        self._conversation.update(item_id, text=text)
        if not self.is_wanted:
            return
        if text and item_id not in self._streamed:
            self._outbox.send(self._announce.transcript_delta(item_id, text))
        self._streamed.discard(item_id)
        self._outbox.send(self._announce.transcript(item_id, text, seconds))

    def on_failure(self, item_id: str, fault: EngineFault) -> None:
        """The response that answers an item failed: nothing if its words were known by then."""
        if self.is_wanted and self._is_possible and self._is_open(item_id):
            self._streamed.discard(item_id)
            self._outbox.send(self._announce.transcript_failed(item_id, fault))

    def close(self) -> None:
        """Cancel what runs."""
        for job in self._jobs.values():
            if job.due is None:
                self._outbox.add(CancelRequest(job.response_id))
        self._jobs.clear()

    def _is_open(self, item_id: str) -> bool:
        """The item is there and has no words yet."""
        item = self._conversation.find(item_id)
        return isinstance(item, Item) and not item.text

    def _fail(self, job: _Job, fault: EngineFault) -> None:
        del self._jobs[job.item_id]
        self._streamed.discard(job.item_id)
        if job.due is None:
            self._outbox.add(CancelRequest(job.response_id))
        if self.is_wanted:
            self._outbox.send(self._announce.transcript_failed(job.item_id, fault))
