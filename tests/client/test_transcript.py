"""Events become turns and replies, in whatever order and number they come."""

from __future__ import annotations

from typing import Any

import pytest

from rtc_server.client.transcript import TranscriptLog


def feed(log: TranscriptLog, *events: tuple[str, dict[str, Any]], start: float = 0.0) -> list[dict[str, Any]]:
    """The events one second apart; returns what the log wants sent."""
    answers = []
    for index, (kind, fields) in enumerate(events):
        answers += log.receive({"type": kind, "event_id": f"event_{index}", **fields}, start + index)
    return answers


def created(name: str) -> tuple[str, dict[str, Any]]:
    return "response.created", {"response": {"id": name, "status": "in_progress"}}


def item(name: str, item_id: str) -> tuple[str, dict[str, Any]]:
    return "response.output_item.added", {"response_id": name, "item": {"id": item_id}}


def done(name: str, status: str = "completed", details: object = None) -> tuple[str, dict[str, Any]]:
    return "response.done", {"response": {"id": name, "status": status, "status_details": details}}


def buffer(what: str, name: str) -> tuple[str, dict[str, Any]]:
    return f"output_audio_buffer.{what}", {"response_id": name}


def committed(item_id: str) -> tuple[str, dict[str, Any]]:
    return "input_audio_buffer.committed", {"item_id": item_id}


def transcribed(item_id: str, text: str) -> tuple[str, dict[str, Any]]:
    return "conversation.item.input_audio_transcription.completed", {"item_id": item_id, "transcript": text}


def test_a_plain_turn() -> None:
    log = TranscriptLog()
    turn = log.open_turn(0.0)
    feed(
        log,
        ("session.created", {"session": {}}),
        committed("u1"),
        created("r1"),
        transcribed("u1", "Hello there"),
        item("r1", "a1"),
        ("response.output_audio_transcript.delta", {"response_id": "r1", "delta": "Good "}),
        buffer("started", "r1"),
        ("response.output_audio_transcript.delta", {"response_id": "r1", "delta": "day."}),
        ("rtc_server.turn.metrics", {"response_id": "r1", "stages": {"queue": {}}}),
        done("r1"),
    )
    reply = turn.reply
    assert reply is not None
    assert log.is_session_created
    assert (turn.user_transcript, reply.text, reply.status) == ("Hello there", "Good day.", "completed")
    assert reply.metrics["stages"] == {"queue": {}}
    assert not reply.is_over, "generated, but still playing"
    feed(log, buffer("stopped", "r1"), start=20.0)
    assert reply.ended_at == 20.0


def test_a_reply_that_is_done_before_its_sound_begins_is_not_over() -> None:
    log = TranscriptLog()
    turn = log.open_turn(0.0)
    feed(log, created("r1"), item("r1", "a1"), done("r1"))
    assert turn.reply is not None
    assert not turn.reply.is_over


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_reply_without_sound_is_over_when_it_is_done(status: str) -> None:
    log = TranscriptLog()
    turn = log.open_turn(0.0)
    feed(log, created("r1"), done("r1", status, {"error": {"message": "The engine was lost."}}))
    assert turn.reply is not None
    assert turn.reply.is_over
    assert turn.reply.error == ("The engine was lost." if status == "failed" else None)


def test_a_turn_that_nobody_answers_with_words_is_over() -> None:
    log = TranscriptLog()
    turn = log.open_turn(0.0)
    feed(log, created("r1"), done("r1", "completed"))
    assert turn.reply is not None
    assert turn.reply.is_over


def test_a_cut_off_reply_is_asked_for_what_was_heard() -> None:
    log = TranscriptLog()
    turn = log.open_turn(0.0)
    answers = feed(
        log,
        created("r1"),
        item("r1", "a1"),
        buffer("started", "r1"),
        buffer("cleared", "r1"),
        done("r1", "cancelled"),
        ("conversation.item.truncated", {"item_id": "a1", "audio_end_ms": 700}),
    )
    assert [(a["type"], a["item_id"]) for a in answers] == [("conversation.item.retrieve", "a1")]
    assert log.is_retrieving
    content = [{"type": "output_audio", "transcript": "Good"}]
    feed(log, ("conversation.item.retrieved", {"item": {"id": "a1", "content": content}}), start=10.0)
    reply = turn.reply
    assert reply is not None
    assert (reply.is_interrupted, reply.heard_text, reply.truncated_ms) == (True, "Good", 700)
    assert not log.is_retrieving


def test_a_server_that_cannot_retrieve_is_not_waited_for() -> None:
    log = TranscriptLog()
    turn = log.open_turn(0.0)
    feed(log, created("r1"), item("r1", "a1"))
    (question,) = feed(log, ("conversation.item.truncated", {"item_id": "a1", "audio_end_ms": 0}))
    feed(log, ("error", {"error": {"message": "No.", "event_id": question["event_id"]}}))
    assert turn.reply is not None
    assert turn.reply.heard_text is None
    assert not log.is_retrieving
    assert log.warnings == []


def test_what_comes_late_goes_to_the_turn_it_belongs_to() -> None:
    log = TranscriptLog()
    first = log.open_turn(0.0)
    feed(log, committed("u1"), created("r1"))
    second = log.open_turn(5.0)
    feed(log, committed("u2"), created("r2"), transcribed("u2", "two"), transcribed("u1", "one"), start=6.0)
    assert (first.user_transcript, second.user_transcript) == ("one", "two")
    assert [turn.reply.response_id for turn in (first, second) if turn.reply] == ["r1", "r2"]


def test_a_recording_that_the_server_hears_as_two_turns_has_the_last_reply() -> None:
    log = TranscriptLog()
    turn = log.open_turn(0.0)
    feed(log, committed("u1"), created("r1"), done("r1", "cancelled"), committed("u2"), created("r2"))
    feed(log, transcribed("u1", "first half"), transcribed("u2", "second half"))
    assert turn.user_transcript == "first half second half"
    assert turn.reply is not None
    assert turn.reply.response_id == "r2"


def test_errors_are_kept_and_the_unknown_is_ignored() -> None:
    log = TranscriptLog()
    feed(log, ("error", {"error": {"message": "Bad."}}), ("something.new", {"x": 1}), buffer("started", "r9"))
    assert log.warnings == ["Bad."]


def test_speech_that_the_server_has_not_seen_the_end_of() -> None:
    log = TranscriptLog()
    feed(log, ("input_audio_buffer.speech_started", {"item_id": "u1"}))
    assert log.is_user_speaking
    feed(log, ("input_audio_buffer.speech_stopped", {"item_id": "u1"}))
    assert not log.is_user_speaking
