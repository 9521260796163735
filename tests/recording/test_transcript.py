"""Who said what and when, by the events of a call."""

from __future__ import annotations

from typing import Any

from rtc_server.recording.transcript import MAX_TURNS, Transcript


class Told:
    """A transcript that is told events; `words` is what the conversation says of an item."""

    def __init__(self, **words: str) -> None:
        self.words = words
        self.transcript = Transcript(self.words.get)

    def __call__(self, at_ms: int, kind: str, lag_ms: int = 0, **fields: Any) -> None:
        self.transcript.note({"type": kind, **fields}, at_ms, lag_ms)

    def asks(self, item: str, start_ms: int, end_ms: int, text: str) -> None:
        self(start_ms + 120, "input_audio_buffer.speech_started", lag_ms=120, item_id=item)
        self(end_ms + 400, "input_audio_buffer.speech_stopped", lag_ms=400, item_id=item)
        if text:
            kind = "conversation.item.input_audio_transcription.completed"
            self(end_ms + 450, kind, item_id=item, transcript=text)

    def answers(self, at_ms: int, item: str, response: str) -> None:
        message = {"id": item, "type": "message", "role": "assistant"}
        self(at_ms, "response.output_item.added", response_id=response, item=message)
        self(at_ms + 100, "output_audio_buffer.started", response_id=response)

    @property
    def turns(self) -> list[dict[str, Any]]:
        return self.transcript.turns()


def test_a_question_and_its_answer() -> None:
    told = Told()
    told.asks("u1", 1_000, 2_500, "What time is it?")
    told.answers(3_000, "a1", "r1")
    told(3_200, "response.output_audio_transcript.done", item_id="a1", transcript="Ten past six.")
    told(3_200, "response.done", response={"id": "r1", "status": "completed"})
    told(4_600, "output_audio_buffer.stopped", response_id="r1")
    assert told.turns == [
        {"role": "user", "item_id": "u1", "start_ms": 1_000, "end_ms": 2_500, "text": "What time is it?"},
        {
            "role": "assistant",
            "item_id": "a1",
            "start_ms": 3_100,
            "end_ms": 4_600,
            "text": "Ten past six.",
            "interrupted": False,
        },
    ]


def test_of_an_interrupted_reply_stays_what_was_heard() -> None:
    told = Told(a1="It is")
    told.answers(3_000, "a1", "r1")
    told(3_200, "response.output_audio_transcript.done", item_id="a1", transcript="It is ten past six.")
    told(3_200, "response.done", response={"id": "r1", "status": "completed"})
    told(3_500, "output_audio_buffer.cleared", response_id="r1")
    told(3_500, "conversation.item.truncated", item_id="a1", audio_end_ms=400)
    (turn,) = told.turns
    assert (turn["text"], turn["interrupted"], turn["heard_ms"], turn["end_ms"]) == ("It is", True, 400, 3_500)


def test_a_reply_that_was_never_heard_has_no_words() -> None:
    told = Told()
    told.answers(3_000, "a1", "r1")
    told(3_100, "response.done", response={"id": "r1", "status": "cancelled"})
    told(3_100, "conversation.item.truncated", item_id="a1", audio_end_ms=0)
    (turn,) = told.turns
    assert (turn["text"], turn["interrupted"], turn["heard_ms"]) == ("", True, 0)


def test_words_are_filled_in_where_the_session_asked_for_no_transcripts() -> None:
    told = Told(u1="Hello?")
    told.asks("u1", 0, 500, "")
    assert told.turns[0]["text"] == "Hello?"


def test_written_messages_are_turns_too_and_function_calls_are_not() -> None:
    told = Told(u1="in writing")
    told(10, "conversation.item.added", item={"id": "u1", "type": "message", "role": "user"})
    told(20, "conversation.item.added", item={"id": "f1", "type": "function_call", "name": "clock"})
    told(30, "response.output_item.added", response_id="r1", item={"id": "f1", "type": "function_call"})
    told(40, "output_audio_buffer.started", response_id="unknown")
    assert [(turn["role"], turn["start_ms"], turn["text"]) for turn in told.turns] == [("user", 10, "in writing")]


def test_a_flood_of_turns_is_bounded() -> None:
    told = Told()
    for number in range(MAX_TURNS + 10):
        told(number, "input_audio_buffer.speech_started", item_id=f"u{number}")
    assert len(told.turns) == MAX_TURNS
