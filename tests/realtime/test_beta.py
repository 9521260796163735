"""The beta's names, read and written."""

from __future__ import annotations

from rtc_server.realtime.beta import downgrade_event, upgrade_event
from rtc_server.realtime.session import SessionConfig


def test_events_get_their_old_names() -> None:
    assert downgrade_event({"type": "response.output_text.delta", "delta": "x"}) == {
        "type": "response.text.delta",
        "delta": "x",
    }
    assert downgrade_event({"type": "conversation.item.done", "item": {}}) is None
    item = {"type": "message", "content": [{"type": "output_audio", "transcript": "Hi."}]}
    added = downgrade_event({"type": "conversation.item.added", "item": item})
    assert added is not None
    assert added["type"] == "conversation.item.created"
    assert added["item"]["content"] == [{"type": "audio", "transcript": "Hi."}]
    assert item["content"][0]["type"] == "output_audio", "the event itself stays"


def test_the_session_gets_its_old_shape() -> None:
    session = SessionConfig(model="m", max_output_tokens=7).to_event("sess_1", 1)
    body = (downgrade_event({"type": "session.created", "session": session}) or {})["session"]
    assert body["modalities"] == ["text", "audio"]
    assert body["input_audio_format"] == "pcm16"
    assert body["turn_detection"]["type"] == "server_vad"
    assert body["max_response_output_tokens"] == 7
    assert not {"audio", "type", "output_modalities"} & set(body)


def test_a_response_and_its_items_are_renamed() -> None:
    response = {"output": [{"type": "message", "content": [{"type": "output_text", "text": "x"}]}]}
    done = downgrade_event({"type": "response.done", "response": {**response, "output_modalities": ["text"]}})
    assert done is not None
    assert done["response"]["modalities"] == ["text"]
    assert done["response"]["output"][0]["content"][0]["type"] == "text"


def test_client_events_with_old_names_are_understood() -> None:
    event = upgrade_event({"type": "response.create", "response": {"modalities": ["text"], "max_output_tokens": 5}})
    assert event["response"] == {"output_modalities": ["text"], "max_output_tokens": 5}
    item = {"role": "assistant", "content": [{"type": "text", "text": "x"}]}
    created = upgrade_event({"type": "conversation.item.create", "item": item})
    assert created["item"]["content"][0]["type"] == "output_text"
