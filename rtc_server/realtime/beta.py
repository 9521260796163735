"""Names of the beta API, which many clients still use: read as their GA successors, and written for clients that ask.

Session fields are renamed wherever a session object has no GA `type`; events only for clients that connect with
`OpenAI-Beta: realtime=v1`. Pure renaming: what the names mean is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
EVENTS = {
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
    "response.output_text.delta": "response.text.delta",
    "response.output_text.done": "response.text.done",
    "conversation.item.added": "conversation.item.created",
}
"""GA name -> beta name."""
DROPPED = frozenset({"conversation.item.done"})
"""Events that the beta did not have."""
CONTENT = {"output_text": "text", "output_audio": "audio"}

_PLACES: dict[str, tuple[str, ...]] = {
    "modalities": ("output_modalities",),
    "voice": ("audio", "output", "voice"),
    "speed": ("audio", "output", "speed"),
    "input_audio_format": ("audio", "input", "format"),
    "output_audio_format": ("audio", "output", "format"),
    "turn_detection": ("audio", "input", "turn_detection"),
    "input_audio_transcription": ("audio", "input", "transcription"),
    "input_audio_noise_reduction": ("audio", "input", "noise_reduction"),
    "max_response_output_tokens": ("max_output_tokens",),
}


def upgrade_session(patch: Mapping[str, Any]) -> dict[str, Any]:
    """A session (or response) object with beta names -> the same with GA names. One that has a `type` is GA already."""
    if "type" in patch:
        return dict(patch)
    upgraded: dict[str, Any] = {}
    for key, value in patch.items():
        if key == "temperature":
            continue  # removed from the API; the server's own setting stays in force
        place = _PLACES.get(key)
        if place is None:
            _put(upgraded, (key,), value)
        elif key == "modalities":
            _put(upgraded, place, _modalities(value))
        elif key.endswith("_audio_format"):
            _put(upgraded, place, _format(value))
        else:
            _put(upgraded, place, value)
    return upgraded


def upgrade_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """A client event with beta names -> GA. `session.update` needs nothing here: it is known by its missing `type`."""
    upgraded = dict(event)
    if event.get("type") == "response.create" and isinstance(event.get("response"), dict):
        upgraded["response"] = upgrade_session(event["response"])
    item = event.get("item")
    if isinstance(item, dict) and isinstance(item.get("content"), list):
        names = {"text": "output_text", "audio": "output_audio"} if item.get("role") == "assistant" else {}
        upgraded["item"] = {**item, "content": [_rename(part, names) for part in item["content"]]}
    return upgraded


def downgrade_event(event: Mapping[str, Any]) -> dict[str, Any] | None:
    """A server event in beta words; None for one that the beta did not have."""
    kind = event["type"]
    if kind in DROPPED:
        return None
    downgraded = {**event, "type": EVENTS.get(kind, kind)}
    if isinstance(event.get("session"), dict):
        downgraded["session"] = _downgrade_session(event["session"])
    if isinstance(event.get("item"), dict):
        downgraded["item"] = _downgrade_item(event["item"])
    if isinstance(event.get("response"), dict):
        response = dict(event["response"])
        response["output"] = [_downgrade_item(item) for item in response.get("output", [])]
        response["modalities"] = _beta_modalities(response.pop("output_modalities", ["audio"]))
        downgraded["response"] = response
    return downgraded


def _downgrade_session(session: Mapping[str, Any]) -> dict[str, Any]:
    body = {key: value for key, value in session.items() if key not in ("type", "audio", "output_modalities")}
    if "output_modalities" in session:
        body["modalities"] = _beta_modalities(session["output_modalities"])
    names = {new: old for old, new in FORMATS.items()}
    audio = session.get("audio", {})
    if "input" in audio:
        body["input_audio_format"] = names[audio["input"]["format"]["type"]]
        body["input_audio_transcription"] = audio["input"]["transcription"]
        body["turn_detection"] = audio["input"]["turn_detection"]
    if "output" in audio:
        body["output_audio_format"] = names[audio["output"]["format"]["type"]]
        body["voice"] = audio["output"]["voice"]
        body["speed"] = audio["output"]["speed"]
    if "max_output_tokens" in body:
        body["max_response_output_tokens"] = body.pop("max_output_tokens")
    return body


def _downgrade_item(item: Mapping[str, Any]) -> dict[str, Any]:
    if "content" not in item:
        return dict(item)
    return {**item, "content": [_rename(part, CONTENT) for part in item["content"]]}


def _rename(part: object, names: Mapping[str, str]) -> object:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        return part
    return {**part, "type": names.get(part["type"], part["type"])}


def _modalities(value: object) -> object:
    """The beta's ["text", "audio"] meant sound with its transcript, which GA calls ["audio"]."""
    if isinstance(value, list) and "audio" in value and set(value) <= {"audio", "text"}:
        return ["audio"]
    return value


def _beta_modalities(value: list[str]) -> list[str]:
    return ["text", "audio"] if "audio" in value else value


def _format(value: object) -> object:
    """A name of the beta -> the format object; anything else is left for the validation to name."""
    if not isinstance(value, str) or value not in FORMATS:
        return value
    kind = FORMATS[value]
    return {"type": kind, "rate": 24_000} if kind == "audio/pcm" else {"type": kind}


def _put(target: dict[str, Any], place: tuple[str, ...], value: object) -> None:
    """Set a nested key; an object that is there already is kept and completed."""
    for key in place[:-1]:
        inner = target.get(key)
        target[key] = dict(inner) if isinstance(inner, dict) else {}
        target = target[key]
    last = place[-1]
    if isinstance(target.get(last), dict) and isinstance(value, dict):
        target[last] = {**target[last], **value}
    else:
        target[last] = value
