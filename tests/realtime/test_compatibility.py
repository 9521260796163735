"""The tables say what the code does."""

from __future__ import annotations

import json
from pathlib import Path

from rtc_server.realtime import compatibility, events
from rtc_server.realtime.session import SessionConfig

GOLDEN = Path(__file__).resolve().parent.parent / "data" / "realtime"


def test_every_client_event_is_listed_and_every_listed_one_is_parsed() -> None:
    listed = {kind for kind, support in compatibility.CLIENT_EVENTS.items() if support.level != "refused"}
    assert listed == set(events.CLIENT_EVENTS)


def test_every_session_field_is_listed() -> None:
    body = SessionConfig().model_dump()
    fields = set(body) - {"audio"} | {f"audio.{side}.{name}" for side in body["audio"] for name in body["audio"][side]}
    assert fields | {"reasoning"} == set(compatibility.SESSION_FIELDS)


def test_every_supported_server_event_is_in_a_golden_transcript() -> None:
    seen = set()
    for path in GOLDEN.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            seen.add(json.loads(line).get("got", {}).get("type"))
    supported = {kind for kind, support in compatibility.SERVER_EVENTS.items() if support.level != "refused"}
    # The core sends none of these: tests/recording, tests/app/test_drain.py, tests/calls and tests/sip hear them.
    others = {"rtc_server.recording.started", "rtc_server.recording.stopped", "rtc_server.server.draining"}
    others |= {"rtc_server.call.held", "rtc_server.call.resumed", "input_audio_buffer.dtmf_event_received"}
    assert supported - seen == {"conversation.item.input_audio_transcription.failed"} | others
