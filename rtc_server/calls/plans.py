"""What one response shall be: the session's configuration with the overrides of `response.create`. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from model.interface import GenerateRequest, HistoryItem, OutputMode, ToolChoice, ToolSpec
from rtc_server.errors import ProtocolError
from rtc_server.realtime.events import ResponseParameters
from rtc_server.realtime.session import Capabilities, SessionConfig
from rtc_server.realtime.tools import check_tools, for_engine

from .user_turns import Unanswered


@dataclass(frozen=True, slots=True)
class ResponsePlan:
    """Resolved and valid."""

    output: OutputMode
    instructions: str
    voice: str
    speed: float
    tools: tuple[ToolSpec, ...]
    tool_choice: ToolChoice
    max_output_tokens: int | None
    audio_format: dict[str, object]
    in_conversation: bool = True
    """False: out of band; nothing of it enters the conversation."""
    metadata: dict[str, str] | None = None

    def request(
        self,
        call_id: str,
        response_id: str,
        turn_id: str,
        items: tuple[HistoryItem, ...],
        said: Unanswered | None,
        audio_credit_ms: int,
    ) -> GenerateRequest:
        """As the engine is asked; `said` is what it answers, None when that is the last of `items`."""
        return GenerateRequest(
            call_id=call_id,
            response_id=response_id,
            turn_id=turn_id,
            items=items,
            audio=None if said is None else said.audio,
            pauses=() if said is None else said.pauses,
            instructions=self.instructions,
            voice=self.voice,
            speed=self.speed,
            output=self.output,
            tools=self.tools,
            tool_choice=self.tool_choice,
            max_output_tokens=self.max_output_tokens,
            audio_credit_ms=audio_credit_ms,
        )


def plan_response(
    session: SessionConfig, parameters: ResponseParameters | None, can: Capabilities, *, voice_is_fixed: bool
) -> ResponsePlan:
    """Raises ProtocolError for overrides that this server cannot follow."""
    wanted = parameters or ResponseParameters()
    output = session.audio.output
    voice = output.voice
    if wanted.audio.output.voice is not None:
        voice = can.voice(wanted.audio.output.voice, "response.audio.output.voice")
        if voice != output.voice and voice_is_fixed:
            message = "The voice cannot change once the session has produced audio."
            raise ProtocolError("cannot_update_voice", message, param="response.audio.output.voice")
    if wanted.audio.output.format not in (None, output.format):
        message = "The format of one response cannot differ from the session's; change it with session.update."
        raise ProtocolError("invalid_value", message, param="response.audio.output.format")
    tools = session.tools if wanted.tools is None else wanted.tools
    choice = session.tool_choice if wanted.tool_choice is None else wanted.tool_choice
    check_tools(tools, choice, can.supports_tools, "response")
    specs, tool_choice = for_engine(tools, choice)
    limit = session.max_output_tokens if wanted.max_output_tokens is None else wanted.max_output_tokens
    modalities = wanted.output_modalities or session.output_modalities
    return ResponsePlan(
        output=modalities[0],
        instructions=session.instructions if wanted.instructions is None else wanted.instructions,
        voice=voice,
        speed=output.speed,
        tools=specs,
        tool_choice=tool_choice,
        max_output_tokens=limit if isinstance(limit, int) else None,
        audio_format=output.format.model_dump(),
        in_conversation=wanted.conversation != "none",
        metadata=wanted.metadata,
    )
