"""What of the OpenAI Realtime API there is here, in tables that the code itself goes by.

`EventWriter` sends nothing that is not in `SERVER_EVENTS`; the parser knows exactly the `CLIENT_EVENTS` of `events`,
and tests compare `SESSION_FIELDS` with the models. `docs/realtime-compatibility.md` is written from here.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

Level: TypeAlias = Literal["supported", "partial", "refused", "ours"]
"""refused: a clear error, or never sent; ours: an extension."""


class Support(NamedTuple):
    """How far something is supported, and what to know about it."""

    level: Level
    note: str = ""


FULL = Support("supported")

CLIENT_EVENTS: dict[str, Support] = {
    "session.update": Support("supported", "deep merge; see the table of session fields"),
    "input_audio_buffer.append": Support(
        "supported", "WebSocket; over WebRTC sound comes as media and this is an error"
    ),
    "input_audio_buffer.commit": FULL,
    "input_audio_buffer.clear": FULL,
    "output_audio_buffer.clear": Support(
        "supported", "over a WebSocket it stops the response; the client plays itself"
    ),
    "conversation.item.create": Support(
        "partial", "messages with text and sound, function calls and their results; images and MCP items are refused"
    ),
    "conversation.item.retrieve": Support(
        "supported", "sound as s16le 24 kHz, for the latest session.kept_audio_seconds"
    ),
    "conversation.item.delete": FULL,
    "conversation.item.truncate": Support("supported", "the words spoken by then stay in the conversation"),
    "response.create": Support(
        "partial", "everything but prompt, reasoning, and a sound format other than the session's"
    ),
    "response.cancel": FULL,
    "rtc_server.dtmf.send": Support(
        "ours", "press keys of a telephone: `digits`, and `duration_ms` and `gap_ms` of 40 to 1000"
    ),
    "rtc_server.recording.start": Support("ours", "record this call, where the server records those that ask for it"),
    "rtc_server.recording.stop": Support("ours", "record no more of it; what was recorded is kept"),
    "transcription_session.update": Support("refused", "use session.update in a session of type transcription"),
}

SERVER_EVENTS: dict[str, Support] = {
    "error": FULL,
    "session.created": FULL,
    "session.updated": FULL,
    "conversation.created": FULL,
    "conversation.item.added": FULL,
    "conversation.item.done": FULL,
    "conversation.item.retrieved": FULL,
    "conversation.item.deleted": FULL,
    "conversation.item.truncated": Support("supported", "over WebRTC sent by the server itself after an interruption"),
    "conversation.item.input_audio_transcription.delta": Support("supported", "as the recognition goes on"),
    "conversation.item.input_audio_transcription.completed": FULL,
    "conversation.item.input_audio_transcription.failed": FULL,
    "conversation.item.input_audio_transcription.segment": Support("refused", "there is no diarization"),
    "input_audio_buffer.speech_started": Support(
        "supported", "during a reply only once the voice is judged an interruption, not a cough or an mm-hm"
    ),
    "input_audio_buffer.speech_stopped": FULL,
    "input_audio_buffer.committed": FULL,
    "input_audio_buffer.cleared": FULL,
    "input_audio_buffer.timeout_triggered": FULL,
    "input_audio_buffer.dtmf_event_received": Support(
        "supported", "a key of a telephone, or of a browser's `insertDTMF`"
    ),
    "output_audio_buffer.started": Support("supported", "WebRTC: the first packet of the reply leaves"),
    "output_audio_buffer.stopped": Support("supported", "WebRTC: the last one has left"),
    "output_audio_buffer.cleared": Support("supported", "WebRTC: not one sample of the reply leaves after it"),
    "response.created": FULL,
    "response.done": FULL,
    "response.output_item.added": FULL,
    "response.output_item.done": FULL,
    "response.content_part.added": FULL,
    "response.content_part.done": FULL,
    "response.output_text.delta": FULL,
    "response.output_text.done": FULL,
    "response.output_audio.delta": Support("supported", "WebSocket only, as in the API"),
    "response.output_audio.done": FULL,
    "response.output_audio_transcript.delta": FULL,
    "response.output_audio_transcript.done": FULL,
    "response.function_call_arguments.delta": FULL,
    "response.function_call_arguments.done": FULL,
    "rate_limits.updated": Support("supported", "responses per minute of this call"),
    "mcp_list_tools.*, response.mcp_call.*": Support("refused", "MCP servers are not contacted; declare functions"),
    "rtc_server.session.resumable": Support("ours", "how to go on with the session after its connection was lost"),
    "rtc_server.recording.started": Support("ours", "the call is recorded from now on: see recording.md"),
    "rtc_server.recording.stopped": Support("ours", "it is not recorded any more, and why"),
    "rtc_server.turn.metrics": Support("ours", "where each millisecond between question and answer went"),
    "rtc_server.call.held": Support("ours", "the peer put the call on hold; the reply waits"),
    "rtc_server.call.resumed": Support("ours", "it took the call off hold; the reply goes on"),
    "rtc_server.sip.state": Support(
        "ours", "how a call that is made, or a transfer, gets on, with its SIP status: see sip.md"
    ),
    "rtc_server.server.draining": Support("ours", "the server ends in `seconds_left`; connect to another one"),
}

SESSION_FIELDS: dict[str, Support] = {
    "type": Support("supported", "realtime or transcription"),
    "model": Support("supported", "the loaded model; names in session.model_aliases stand for it"),
    "output_modalities": FULL,
    "instructions": FULL,
    "tools": Support("partial", "functions; MCP is refused. The embedded model can call simple ones"),
    "tool_choice": FULL,
    "parallel_tool_calls": Support("partial", "accepted; the embedded model makes one call per response"),
    "max_output_tokens": FULL,
    "truncation": Support("partial", "auto; the oldest turns fall out of the context. Others are refused"),
    "tracing": Support("partial", "accepted and kept, because SDKs send it; nothing is traced"),
    "prompt": Support("refused", "only null"),
    "reasoning": Support("refused"),
    "include": Support("refused", "only null or []: there are no log probabilities"),
    "audio.input.format": Support(
        "supported", "audio/pcm (24 kHz), audio/pcmu, audio/pcma; without effect over WebRTC"
    ),
    "audio.input.transcription": Support(
        "partial",
        "null or an object; the engine's own recognition answers to any model name, language and prompt are kept",
    ),
    "audio.input.noise_reduction": Support(
        "partial",
        "with the extra `cleaning`, else only null: near_field keeps noise from turn detection, far_field also takes "
        "the server's echo out; recognition hears the noise as it is ([audio-cleaning.md](audio-cleaning.md))",
    ),
    "audio.input.turn_detection": Support("supported", "server_vad with idle_timeout_ms, semantic_vad, or null"),
    "audio.output.format": Support("supported", "as audio.input.format"),
    "audio.output.voice": Support("supported", "the backend's voices; OpenAI's names stand for the first of them"),
    "audio.output.speed": Support("supported", "inside the range that the backend's voice has"),
}
