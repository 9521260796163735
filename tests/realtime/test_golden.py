"""Golden transcripts: what a client sees, event by event, for every sequence of the API.

Each file of tests/data/realtime is a call on virtual time, one JSON object per line: first `call` (its options), then
what happens (`say` and `quiet` in milliseconds, `send` a client event, `engine` events of the latest request) and after
each the `got` lines, the server's events in full. Ids are counted, so that every run gives the same; `$item` and
`$call` in a step are the ids of the latest reply's item and function call.

`RTC_SERVER_WRITE_GOLDEN=1 pytest tests/realtime/test_golden.py` writes the `got` lines anew: read the difference.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from model.interface import AudioDelta, EngineEvent, ResponseDone, TextDelta, ToolCallDelta, Transcript, TranscriptDelta
from tests.support.virtual_call import RATE, VirtualCall, tone

FOLDER = Path(__file__).resolve().parent.parent / "data" / "realtime"
FILES = sorted(FOLDER.glob("*.jsonl"))
SEQUENCES = {
    *("vad_turn", "barge_in", "barge_in_after_done", "client_interrupt", "tool_call", "push_to_talk", "typed_turn"),
    *("text_only", "out_of_band", "socket_turn", "socket_barge_in", "idle_timeout", "transcription", "item_edits"),
    *("bad_events", "beta_names", "resumed"),
}


def engine_event(response_id: str, words: list[Any]) -> EngineEvent:
    kind, *values = words
    match kind:
        case "heard":
            return TranscriptDelta(response_id, values[0], 0.0)
        case "transcript":
            return Transcript(response_id, values[0], 0.0)
        case "text":
            return TextDelta(response_id, values[0], 0.0)
        case "audio":
            return AudioDelta(response_id, tone(values[0], RATE, 440.0), values[1], 0.0)
        case "tool":
            return ToolCallDelta(response_id, 0, values[0], values[1], values[2], 0.0)
        case "done":
            return ResponseDone(response_id, values[0], 0.0)
    raise ValueError(kind)


def play(call: VirtualCall, step: dict[str, Any]) -> None:
    match step:
        case {"say": ms}:
            call.say(ms)
        case {"quiet": ms}:
            call.be_quiet(ms)
        case {"send": event}:
            call.send(**event)
        case {"send_raw": text}:
            call.send_raw(text)
        case {"engine": events}:
            response_id = call.requests[-1].response_id
            call.engine(*(engine_event(response_id, words) for words in events))
        case {"open": True}:
            call.events += call.client.opening()
        case {"resume": True}:
            call.resume()
        case _:
            raise ValueError(step)


def run(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The file again, with what the server really says."""
    call = VirtualCall(**lines[0]["call"])
    written = [lines[0]]
    seen = {"item": "", "call": ""}
    for step in lines[1:]:
        if "got" in step:
            continue
        call.events.clear()
        play(call, json.loads(json.dumps(step).replace("$call", seen["call"]).replace("$item", seen["item"])))
        written.append(step)
        for item in (event["item"] for event in call.sent("response.output_item.done")):
            seen["item"], seen["call"] = item["id"], item.get("call_id", seen["call"])
        written += [{"got": json.loads(json.dumps(event))} for event in call.events]
    return written


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_client_sees_exactly_this(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    written = run(lines)
    if os.environ.get("RTC_SERVER_WRITE_GOLDEN") == "1":
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in written), encoding="utf-8")
    assert written == lines


def test_every_sequence_has_its_transcript() -> None:
    assert {path.stem for path in FILES} == SEQUENCES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_event_has_a_type_an_id_of_its_own_and_no_null_that_clients_reject(path: Path) -> None:
    events = [json.loads(line).get("got") for line in path.read_text(encoding="utf-8").splitlines()]
    events = [event for event in events if event is not None]
    ids = [event["event_id"] for event in events]
    assert len(set(ids)) == len(ids)
    for event in events:
        for name in ("item", "part"):
            assert None not in event.get(name, {}).values()
        for item in event.get("response", {}).get("output", []):
            assert None not in item.values()
