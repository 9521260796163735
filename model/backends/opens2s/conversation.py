"""A request's history as messages for the model: what was said, as sound where it was kept, and how much of it fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from model.interface import ConversationItem, GenerateRequest, HistoryItem, Pcm16, ToolResultItem
from model.opens2s.prompt import AUDIO, Message, PromptBuilder


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
    history = [item for item in request.items if _is_said(item, min_samples)]
    while True:
        said = [_message(item) for item in history]
        audios = [item.audio for item in history if isinstance(item, ConversationItem) and _is_heard(item)]
        if request.audio is not None:
            said.append(Message("user", (None,)))
            audios.append(request.audio)
        ids = prompts.ids(said, instructions)
        sounds = tuple(audio for audio in audios if audio is not None)
        num_audio = sum(count(audio) for audio in sounds)
        if len(ids) - ids.count(AUDIO) + num_audio <= max_positions:
            return Prompt(ids, sounds, num_audio)
        if len(history) <= (request.audio is None):  # the last item is what the reply is about
            raise ValueError(f"The turn and the instructions do not fit the context of {max_positions} tokens.")
        del history[0]


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


def _message(item: HistoryItem) -> Message:
    match item:
        case ConversationItem(role=role) if _is_heard(item):
            return Message(role, (None,))
        case ConversationItem(role=role, text=text):
            return Message(role, (text,))
        case ToolResultItem(output=output):
            return Message("user", (output,))
        case _:
            raise AssertionError(item)
