"""What the language model is shown: persona, examples, instructions, the conversation so far, the new turn. Pure.

The embedded model has 135 M parameters. Told only who it is, it lectures; six example turns make it answer
briefly and in a speaking tone. Everything that is the same for all calls stands first, so that it is computed
once and kept in the cache; a session's own instructions follow it as if they had been agreed on in the
conversation (measured in `docs/experiments.md`: that way it follows them and still answers briefly).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from model.interface import ConversationItem, HistoryItem, Role, ToolResultItem

from .tool_results import in_words

DEFAULT_INSTRUCTIONS = (
    "You are Sam, a warm and friendly companion who chats out loud with the user. "
    "You always give a short, direct answer."
)
EXAMPLES: tuple[tuple[str, str], ...] = (
    ("Hello!", "Hi there! How can I help you today?"),
    ("How are you doing?", "I'm doing great, thanks for asking. How about you?"),
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
    ("What should I have for lunch?", "How about a fresh salad with chicken and some bread?"),
    (
        "Tell me something interesting.",
        "Honey never spoils, so you can eat honey that is thousands of years old.",
    ),
    ("I'm tired.", "I'm sorry to hear that. Try to get some rest, and drink some water."),
)
AGREED = "Okay."
BEGIN = "Begin."
GO_ON = "Tell me more."
"""The user's turn where nobody said anything: to a model that has its instructions, and after its own words."""

# Turns are dropped in blocks: dropping one at every turn would move everything behind it, and the whole
# prompt would have to be computed again each time.
DROP_BLOCK = 6
BYTES_PER_TOKEN = 3  # English has about 4; a low guess keeps the estimate on the safe side
TOKENS_PER_MESSAGE = 6  # role and delimiters
_CONTROL_TOKEN = re.compile(r"<\|[^|>]*\|>")


class Message(TypedDict):
    """One chat message as llama.cpp takes it."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How a model wants to be prompted."""

    has_examples: bool
    """True for the embedded model; larger models follow instructions and need no examples."""
    default_instructions: str = ""
    """The operator's instructions; "" means the built-in persona."""

    def prefix(self) -> list[Message]:
        """What every call without instructions of its own starts with."""
        return self.opening("")

    def opening(self, instructions: str) -> list[Message]:
        """Everything that stands before the conversation."""
        instructions = clean(instructions or self.default_instructions)
        if not self.has_examples:
            return [message("system", instructions or DEFAULT_INSTRUCTIONS)]
        messages = [message("system", DEFAULT_INSTRUCTIONS)]
        for question, answer in EXAMPLES:
            messages += [message("user", question), message("assistant", answer)]
        if instructions:
            messages += [message("user", instructions), message("assistant", AGREED)]
        return messages


def split_turn(
    style: PromptStyle, items: Sequence[HistoryItem], instructions: str
) -> tuple[Sequence[HistoryItem], str, str]:
    """Where nobody spoke: the history, what takes the place of the user's words, and the instructions that are left."""
    messages = fold(items)
    if not messages:
        # The small model does as it is told in the conversation; a larger one has it as its system message.
        return ((), instructions, "") if style.has_examples else ((), BEGIN, instructions)
    if messages[-1].role == "assistant":
        return items, GO_ON, instructions
    return messages[:-1], messages[-1].text, instructions


def fold(items: Sequence[HistoryItem]) -> list[ConversationItem]:
    """The conversation with the results of tools inside the message that brought them about. Calls are left out: what
    they found is what matters, and their syntax makes a small model talk in it."""
    folded: list[ConversationItem] = []
    for item in items:
        if isinstance(item, ConversationItem):
            folded.append(item)
        elif isinstance(item, ToolResultItem) and (result := in_words(item.output)):
            if folded and folded[-1].role == "user":
                folded[-1] = ConversationItem("user", f"{folded[-1].text} ({result})")
            else:
                folded.append(ConversationItem("user", f"({result})"))
    return folded


def build_messages(
    style: PromptStyle,
    instructions: str,
    history: Sequence[HistoryItem],
    user_text: str,
    budget_tokens: int,
) -> list[Message]:
    """The whole prompt, estimated to fit into `budget_tokens`: the opening, as much of the latest history as
    fits, and the new turn. Instructions or a turn that alone are too long lose their beginning."""
    opening = style.opening(_tail(instructions, budget_tokens // 2))
    left = budget_tokens - estimate_tokens(opening)
    turn = message("user", _tail(clean(user_text), max(left // 2, 1)))
    left -= estimate_tokens([turn])
    said = [message(item.role, text) for item in fold(history) if (text := clean(item.text))]
    dropped = 0
    while dropped < len(said) and estimate_tokens(said[dropped:]) > left:
        dropped += DROP_BLOCK
    return [*opening, *said[dropped:], turn]


def estimate_tokens(messages: Sequence[Message]) -> int:
    """A cautious guess of how many tokens the messages take."""
    return sum(len(message["content"].encode()) // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE for message in messages)


def clean(text: str) -> str:
    """Text as one line without the model's own control tokens, so that nobody can speak as somebody else."""
    return " ".join(_CONTROL_TOKEN.sub(" ", text).split())


def message(role: Role, content: str) -> Message:
    return {"role": role, "content": content}


def _tail(text: str, budget_tokens: int) -> str:
    """The end of `text` that takes at most `budget_tokens` by the estimate."""
    return text.encode()[-budget_tokens * BYTES_PER_TOKEN :].decode("utf-8", "ignore")
