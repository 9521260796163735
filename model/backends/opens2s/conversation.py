"""A request's history as messages for the model: what was said, as sound where it was kept, and how much of it fits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from model.interface import ConversationItem, GenerateRequest, HistoryItem, Pcm16, ToolResultItem
from model.opens2s.prompt import Message, PromptBuilder

TEMPLATE_IDS = 5  # around a message, about: start, role, line, end, line

_Said: TypeAlias = tuple[Message, Pcm16 | None]
"""A message and its sound, if it has some."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the text model reads."""

    ids: list[int]
    """With `model.opens2s.prompt.AUDIO` where an audio's embeddings go."""
    audios: tuple[Pcm16, ...]
    """In the order of the placeholders, 16 kHz."""
    num_audio: int
    """Embeddings of all audios."""

    @property
    def num_text(self) -> int:
        return len(self.ids) - len(self.audios)


def build_prompt(
    request: GenerateRequest,
    prompts: PromptBuilder,
    instructions: str,
    *,
    max_positions: int,
    count: Callable[[Pcm16], int],
    min_samples: int,
) -> Prompt:
    """The request's history and turn, without its oldest items where they do not fit `max_positions`.

    `count` tells how many embeddings an audio becomes. History audio shorter than `min_samples` is left out.
    Raises ValueError when even the turn alone does not fit.
    """
    turn = [] if request.audio is None else [(Message("user", (None,)), request.audio)]
    said: deque[_Said] = deque()
    room = max_positions
    for item in reversed(request.items):  # only as far back as may fit: a call can be very long
        if _is_said(item, min_samples):
            message, audio = _message(item)
            room -= TEMPLATE_IDS + prompts.length(message) + (0 if audio is None else count(audio))
            if room < 0 and said:
                break
            said.appendleft((message, audio))
    while True:  # once, as a rule: what the template adds decides the rest
        messages = [*said, *turn]
        ids = prompts.ids([message for message, _ in messages], instructions)
        sounds = tuple(audio for _, audio in messages if audio is not None)
        num_audio = sum(count(audio) for audio in sounds)
        if len(ids) - len(sounds) + num_audio <= max_positions:
            return Prompt(ids, sounds, num_audio)
        if len(messages) <= 1:  # what the reply is about
            raise ValueError(f"The turn and the instructions do not fit the context of {max_positions} tokens.")
        said.popleft()


def _is_heard(item: ConversationItem) -> bool:
    return item.role == "user" and item.audio is not None


def _is_said(item: HistoryItem, min_samples: int) -> bool:
    match item:
        case ConversationItem(audio=audio) if _is_heard(item) and audio is not None:
            return len(audio) >= min_samples
        case ConversationItem(text=text):
            return bool(text)
        case ToolResultItem():
            return True
        case _:
            return False  # a call that the model did not make: its result follows


def _message(item: HistoryItem) -> _Said:
    match item:
        case ConversationItem(role=role, audio=audio) if _is_heard(item):
            return Message(role, (None,)), audio
        case ConversationItem(role=role, text=text):
            return Message(role, (text,)), None
        case ToolResultItem(output=output):
            return Message("user", (output,)), None
        case _:
            raise AssertionError(item)
