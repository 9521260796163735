"""RTVI, the messages of Pipecat's clients (protocol 2, read by 1.x clients too), to and from the Realtime API. Pure.

A client counts as connected when its `client-ready` is answered with `bot-ready`. Beside RTVI messages, which carry the
label "rtvi-ai", clients send keep-alive pings as plain text, and "signalling" about their tracks; both need no answer.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from .dialects import Inbound
from .words import Event

PROTOCOL_VERSION = "2.0.0"
LABEL = "rtvi-ai"
LIBRARY = "rtc-server"
USER_ID = "user"
MAX_MESSAGE_CHARS = 64 * 1024  # as for events
MAX_ID_CHARS = 512
MAX_OPEN_CALLS = 64  # function calls whose result has not come
MAX_PARTIAL = 16  # transcripts that have begun
MAX_KEPT_CHARS = 20_000  # of a partial transcript, and of a sentence that does not end
ROLES = ("user", "assistant", "system", "developer")

_SENTENCE = re.compile(r".+?[.!?…]+[\"')\]]*(?=\s|$)|.+", re.DOTALL)
_ENDED = re.compile(r"[.!?…][\"')\]]*\s*\Z")


class RtviDialect:
    """A `Dialect`."""

    def __init__(self, timestamp: Callable[[], str]) -> None:
        """`timestamp` gives the wall-clock time in ISO 8601, for transcripts."""
        self._timestamp = timestamp
        self._responding: set[str] = set()  # responses that are being generated
        self._speaking: str | None = None
        self._partial: OrderedDict[str, str] = OrderedDict()  # transcript so far, by item
        self._sentence = ""
        self._segments: OrderedDict[int, str] = OrderedDict()  # sentences announced and not spoken to the end
        self._num_segments = 0
        self._calls: OrderedDict[str, str] = OrderedDict()  # name by call id

    # --- from the client

    def from_client(self, data: str | bytes) -> Inbound:
        """See `Dialect`."""
        if isinstance(data, str) and data.startswith("ping"):
            return Inbound()
        if isinstance(data, bytes) or len(data) > MAX_MESSAGE_CHARS:
            return Inbound(replies=[_message("error", {"error": "Messages are JSON text of at most 64 KB.", **_MILD})])
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            return Inbound(replies=[_message("error", {"error": "The message is not valid JSON.", **_MILD})])
        if not isinstance(message, dict) or message.get("type") == "signalling":
            return Inbound()
        if message.get("label") != LABEL:
            return Inbound(replies=[_message("error", {"error": f"Messages carry the label '{LABEL}'.", **_MILD})])
        identifier, kind, body = message.get("id"), message.get("type"), message.get("data")
        identifier = identifier if isinstance(identifier, str) and len(identifier) <= MAX_ID_CHARS else ""
        body = body if isinstance(body, dict) else {}
        match kind:
            case "client-ready":
                about = {"library": LIBRARY}
                return Inbound(
                    replies=[_message("bot-ready", {"version": PROTOCOL_VERSION, "about": about}, identifier)]
                )
            case "disconnect-bot":
                return Inbound(ends_call=True)
            case "send-text":
                return self._send_text(body, identifier)
            case "append-to-context":
                return self._append(body, identifier)
            case "llm-function-call-result":
                return self._call_result(body, identifier)
            case _:
                return _refusal(identifier, f"Unsupported type {str(kind)[:64]}")

    def _send_text(self, body: Mapping[str, Any], identifier: str) -> Inbound:
        content, options = body.get("content"), body.get("options")
        options = options if isinstance(options, dict) else {}
        if not isinstance(content, str) or not content:
            return _refusal(identifier, "send-text needs a content")
        item = _item("user", content, identifier)
        if options.get("run_immediately", True) is False:
            return Inbound(events=[item])
        response = {} if options.get("audio_response", True) is not False else {"output_modalities": ["text"]}
        return Inbound(events=[*self._interrupt(identifier), item, _create(identifier, response)])

    def _append(self, body: Mapping[str, Any], identifier: str) -> Inbound:
        role, content = body.get("role"), body.get("content")
        if role not in ROLES or not isinstance(content, str) or not content:
            return _refusal(identifier, "append-to-context needs a role and a content that is text")
        item = _item("system" if role == "developer" else role, content, identifier)
        if body.get("run_immediately") is True:
            return Inbound(events=[*self._interrupt(identifier), item, _create(identifier, {})])
        return Inbound(events=[item])

    def _call_result(self, body: Mapping[str, Any], identifier: str) -> Inbound:
        call_id, result = body.get("tool_call_id"), body.get("result")
        name = self._calls.pop(call_id, None) if isinstance(call_id, str) else None
        if name is None:
            return _refusal(identifier, "No function call with that tool_call_id waits for a result")
        output = result if isinstance(result, str) else json.dumps(result)
        item = {"type": "function_call_output", "call_id": call_id, "output": output}
        stopped = {"function_name": name, "tool_call_id": call_id, "cancelled": False, "result": result}
        events = [_event("conversation.item.create", identifier, item=item)]
        if not self._calls:  # the reply is to all of them
            events.append(_create(identifier, {}))
        return Inbound(
            events=events,
            replies=[_message("llm-function-call-stopped", stopped)],
        )

    def _interrupt(self, identifier: str) -> list[str]:
        """A new question stops the reply to the old one."""
        events = [_event("response.cancel", identifier)] if self._responding else []
        return [*events, _event("output_audio_buffer.clear", identifier)] if self._speaking or events else events

    # --- to the client

    def to_client(self, event: Event) -> list[Event]:
        """See `Dialect`."""
        kind = event["type"]
        response_id = event.get("response_id")
        match kind:
            case "input_audio_buffer.speech_started":
                return [_message("user-started-speaking")]
            case "input_audio_buffer.speech_stopped":
                return [_message("user-stopped-speaking")]
            case "conversation.item.input_audio_transcription.delta":
                text = self._partial.pop(event["item_id"], "") + event["delta"]
                self._partial[event["item_id"]] = text[-MAX_KEPT_CHARS:]
                if len(self._partial) > MAX_PARTIAL:
                    self._partial.popitem(last=False)
                return [self._transcription(text, final=False)]
            case "conversation.item.input_audio_transcription.completed":
                self._partial.pop(event["item_id"], None)
                text = event["transcript"]
                return [self._transcription(text, final=True), _message("user-llm-text", {"text": text})]
            case "conversation.item.input_audio_transcription.failed":
                self._partial.pop(event["item_id"], None)
                return []
            case "response.created":
                self._responding.add(event["response"]["id"])
                return [_message("bot-llm-started")]
            case "response.output_audio_transcript.delta":
                text = {"text": event["delta"]}
                said = [_message("bot-llm-text", text), _message("bot-tts-text", text)]
                return [*said, *self._said(event["delta"], is_spoken=True)]
            case "response.output_text.delta":
                written = [_message("bot-llm-text", {"text": event["delta"]})]
                return [*written, *self._said(event["delta"], is_spoken=False)]
            case "response.output_audio_transcript.done" | "response.output_text.done":
                is_spoken = kind.startswith("response.output_audio")
                rest = self._finish_sentence(is_spoken=is_spoken)
                text = event["transcript"] if is_spoken else event["text"]
                return [*rest, _message("bot-transcription", {"text": text})] if text else rest
            case "response.content_part.added":
                return [_message("bot-tts-started")] if event["part"]["type"] == "audio" else []
            case "response.output_audio.done":
                return [_message("bot-tts-stopped")]
            case "response.output_item.done":
                return self._function_call(event["item"])
            case "response.done":
                return self._response_done(event["response"])
            case "output_audio_buffer.started":
                self._speaking = response_id
                return [_message("bot-started-speaking")]
            case "output_audio_buffer.stopped" | "output_audio_buffer.cleared":
                return self._stopped_speaking(was_heard=kind.endswith("stopped"))
            case "rtc_server.turn.metrics":
                latency = event.get("response_latency_ms")
                if latency is None:
                    return []
                return [_message("metrics", {"ttfb": [{"processor": LIBRARY, "value": latency / 1e3}]})]
            case "error":
                return [self._error(event["error"])]
            case _:
                return []

    def farewell(self) -> list[Event]:
        """See `Dialect`: not an RTVI message, but signalling."""
        return [{"type": "signalling", "message": {"type": "peerLeft"}}]

    def _transcription(self, text: str, *, final: bool) -> Event:
        data = {"text": text, "user_id": USER_ID, "timestamp": self._timestamp(), "final": final}
        return _message("user-transcription", data)

    def _said(self, delta: str, *, is_spoken: bool) -> list[Event]:
        """`bot-output` for every sentence that is complete now."""
        pieces = _SENTENCE.findall(self._sentence + delta)
        is_open = bool(pieces) and (not _ENDED.search(pieces[-1])) and len(pieces[-1]) < MAX_KEPT_CHARS
        self._sentence = pieces.pop() if is_open else ""
        return [message for piece in pieces for message in self._output(piece, is_spoken=is_spoken)]

    def _finish_sentence(self, *, is_spoken: bool) -> list[Event]:
        rest, self._sentence = self._sentence, ""
        return self._output(rest, is_spoken=is_spoken)

    def _output(self, sentence: str, *, is_spoken: bool) -> list[Event]:
        text = sentence.strip()
        if not text:
            return []
        self._num_segments += 1
        if is_spoken:
            self._segments[self._num_segments] = text
        return [_bot_output(self._num_segments, text, will_be_spoken=is_spoken, is_completed=False)]

    def _stopped_speaking(self, *, was_heard: bool) -> list[Event]:
        """What was announced has been heard, unless the reply was cut off: nobody says here how far it came."""
        segments = list(self._segments.items())
        self._segments.clear()
        messages: list[Event] = []
        if was_heard:
            messages = [_bot_output(number, text, will_be_spoken=True, is_completed=True) for number, text in segments]
        if self._speaking is None:
            return messages
        self._speaking = None
        return [*messages, _message("bot-stopped-speaking")]

    def _function_call(self, item: Mapping[str, Any]) -> list[Event]:
        if item.get("type") != "function_call" or item.get("status") == "incomplete":
            return []
        call_id, name = item["call_id"], item["name"]
        self._calls[call_id] = name
        while len(self._calls) > MAX_OPEN_CALLS:
            self._calls.popitem(last=False)
        try:
            arguments = json.loads(item["arguments"])
        except ValueError:
            arguments = {}
        arguments = arguments if isinstance(arguments, dict) else {}
        call = {"function_name": name, "tool_call_id": call_id, "arguments": arguments}
        return [
            _message("llm-function-call-started", {"function_name": name}),
            _message("llm-function-call-in-progress", call),
        ]

    def _response_done(self, response: Mapping[str, Any]) -> list[Event]:
        self._responding.discard(response["id"])
        self._sentence = ""
        messages = [_message("bot-llm-stopped")]
        if response.get("status") == "failed":
            error = (response.get("status_details") or {}).get("error") or {}
            text = error.get("message") or error.get("code") or "The reply failed."
            messages.append(_message("error", {"error": text, "message": text, "fatal": False}))
        return messages

    def _error(self, error: Mapping[str, Any]) -> Event:
        """A refused message is answered under its own id; anything else is an error of the bot's."""
        text, identifier = error["message"], error.get("event_id")
        if identifier:
            return _message("error-response", {"error": text}, identifier)
        return _message("error", {"error": text, "message": text, "fatal": False})


_MILD = {"fatal": False}


def _message(kind: str, data: Mapping[str, Any] | None = None, identifier: str | None = None) -> Event:
    message: Event = {"label": LABEL, "type": kind}
    if identifier is not None:
        message["id"] = identifier
    if data is not None:
        message["data"] = dict(data)
    return message


def _refusal(identifier: str, error: str) -> Inbound:
    return Inbound(replies=[_message("error-response", {"error": error}, identifier)])


def _event(kind: str, identifier: str, **fields: Any) -> str:
    body = {"type": kind, **({"event_id": identifier} if identifier else {}), **fields}
    return json.dumps(body)


def _create(identifier: str, response: Mapping[str, Any]) -> str:
    return _event("response.create", identifier, **({"response": response} if response else {}))


def _item(role: str, text: str, identifier: str) -> str:
    content = [{"type": "output_text" if role == "assistant" else "input_text", "text": text}]
    return _event("conversation.item.create", identifier, item={"type": "message", "role": role, "content": content})


def _bot_output(number: int, text: str, *, will_be_spoken: bool, is_completed: bool) -> Event:
    """`spoken` is what 1.x clients read, the rest is of protocol 2."""
    data: dict[str, Any] = {
        "text": text,
        "aggregated_by": "sentence",
        "segment_id": number,
        "spoken": is_completed,
        "will_be_spoken": will_be_spoken,
    }
    if will_be_spoken:
        data["spoken_status"] = "completed" if is_completed else "new"
        heard, rest = (text, "") if is_completed else ("", text)
        data["spoken_progress"] = {"accumulated_text": heard, "remaining_text": rest}
    return _message("bot-output", data)
