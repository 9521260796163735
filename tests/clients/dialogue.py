"""What every stock client has to show: two spoken turns, the second into the reply to the first.

The scripts of tests/support/js and the Python clients report in the same form; here it is judged. No word of a reply is
expected, only that there are words and sound, and that events and sound agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from model.interface import INPUT_SAMPLE_RATE, Pcm16
from rtc_server.audio.resample import StreamResampler
from rtc_server.client.recording import save_replies
from tests.support.recordings import recording

PCM_RATE = 24_000  # what the Realtime API speaks over a WebSocket

KEY = "sk-test-0123456789abcdefghijklmnop"
"""The API key of the server of these tests."""

MODEL = "gpt-realtime"
"""The name that clients have in their code; the server takes it for its own model."""

INSTRUCTIONS = "You are a storyteller. Answer every question with a long story of many sentences."
"""Makes replies that are long enough to be interrupted."""

Report = dict[str, Any]


def speech(name: str, rate: int = PCM_RATE) -> Pcm16:
    """One of the recordings of tests/data/speech."""
    resampler = StreamResampler(INPUT_SAMPLE_RATE, rate)
    return np.concatenate([resampler.resample(recording(name)), resampler.flush()])


TURNS = {"first": "f2_rms", "second": "f0_rms"}
"""The first asks for something long, the second breaks into the reply."""


def write_speech(folder: Path) -> dict[str, str]:
    """The two turns as 24 kHz WAV files: name -> path."""
    paths = {name: folder / f"{name}.wav" for name in TURNS}
    for name, path in paths.items():
        save_replies(path, [speech(TURNS[name])], PCM_RATE)
    return {name: str(path) for name, path in paths.items()}


def events_of(report: Report, kind: str, **fields: object) -> list[Report]:
    """The events of one type whose fields have these values."""
    return [
        event
        for event in report["events"]
        if event["type"] == kind and all(event.get(name) == value for name, value in fields.items())
    ]


def transcript(report: Report, response_id: str) -> str:
    """The words of one reply."""
    return "".join(
        event["transcript"]
        for event in events_of(report, "response.output_audio_transcript.done", response_id=response_id)
    )


def assert_conversation(report: Report) -> None:
    """Both replies were heard and have words, the first was interrupted, and nothing was complained about."""
    first, second = report["first"], report["second"]
    assert report["problems"] == []
    assert report["events"][0]["type"] == "session.created"
    assert report["heardFirstMs"] > 0
    assert report["heardSecondMs"] > 0
    assert transcript(report, second).strip()
    user_turns = events_of(report, "conversation.item.input_audio_transcription.completed")
    assert len([event for event in user_turns if event["transcript"].strip()]) >= 2
    (done,) = events_of(report, "response.done", response_id=first)
    assert done["status"] in ("cancelled", "completed"), "completed: it was generated before it was interrupted"
    if done["status"] == "cancelled":
        assert done["reason"] == "turn_detected"
    (item,) = events_of(report, "response.output_item.added", response_id=first)
    (cut,) = events_of(report, "conversation.item.truncated", item_id=item["item_id"])
    assert cut["audio_end_ms"] > 0


def assert_stopped_by_server(report: Report) -> None:
    """Over WebRTC: the reply's sound was cleared by the server, between its start and its truncation."""
    first = report["first"]
    (started,) = events_of(report, "output_audio_buffer.started", response_id=first)
    (cleared,) = events_of(report, "output_audio_buffer.cleared", response_id=first)
    assert started["at"] < cleared["at"]
    assert not events_of(report, "output_audio_buffer.stopped", response_id=first)


def assert_conversation_by_sound(report: Report) -> None:
    """For clients that are told nothing: both replies were heard, and the first one fell silent for the second turn."""
    assert report["problems"] == []
    assert report["heardFirstMs"] > 0
    assert report["heardSecondMs"] > 0
    assert report["silentMs"] >= 1000


def assert_tool_was_called(report: Report) -> None:
    """The function ran with an argument, and its result was followed by a spoken reply."""
    assert report["tool"]["calls"]
    assert isinstance(report["tool"]["calls"][0]["city"], str)
    assert report["tool"]["spoken"].strip()
