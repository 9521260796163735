"""A conversation -> the ids of the prompt, with a placeholder where each audio's embeddings go.

The checkpoint's own tokenizer and chat template are used. Text that comes from people cannot contain special tokens:
what looks like one is taken out before it reaches the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .errors import FETCH_COMMAND, MissingFileError, TokenizerError
from .speech_lm import SpeechVocabulary

AUDIO = -200
"""Placeholder among the ids: the next audio's embeddings."""
DEFAULT_INSTRUCTIONS = "You are a helpful assistant."
_AUDIO_MARK = "<|im_audio|>"  # no token: the prompt is split on it
_AUDIO_START, _AUDIO_END = "<|im_audio_start|>", "<|im_audio_end|>"
_SPEECH_START, _SPEECH_END = "<|im_tts_start|>", "<|im_tts_end|>"
_SPECIAL = (_AUDIO_START, _AUDIO_END, _SPEECH_START, _SPEECH_END)
_FIRST_UNIT = "<|audio_0|>"
_UNIT = re.compile(r"<\|audio_(\d+)\|>")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation: texts and audios in the order they were said."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | None, ...]
    """Text, or None for an audio."""


class PromptBuilder:
    """The text model's tokenizer and chat template."""

    def __init__(self, tokenizer: Any, vocab_size: int, checkpoint: Path) -> None:
        self._tokenizer = tokenizer
        ids = {name: _only_id(tokenizer, name, checkpoint) for name in _SPECIAL}
        if tokenizer.convert_tokens_to_ids(_FIRST_UNIT) not in (None, tokenizer.unk_token_id):
            raise TokenizerError(
                f"{checkpoint}: the tokenizer knows {_FIRST_UNIT}, so it is the one of {checkpoint / 'tts'}. "
                f"Run `{FETCH_COMMAND}` to fetch both again."
            )
        if max(len(tokenizer) - 1, *ids.values()) >= vocab_size:
            raise TokenizerError(
                f"{checkpoint}: the tokenizer has {len(tokenizer)} ids, the text model {vocab_size}. They are of "
                f"different checkpoints; run `{FETCH_COMMAND}` to fetch both again."
            )
        if not tokenizer.chat_template:
            raise TokenizerError(f"{checkpoint}: the tokenizer has no chat template. Run `{FETCH_COMMAND}`.")
        self._special = re.compile("|".join(re.escape(token) for token in sorted(_names(tokenizer), key=len)[::-1]))

    def ids(self, messages: Sequence[Message], instructions: str = DEFAULT_INSTRUCTIONS) -> list[int]:
        """The prompt up to where the reply begins. `instructions` is the system prompt; "" leaves it out."""
        plain: list[dict[str, str]] = []
        if instructions:
            plain.append({"role": "system", "content": self.clean(instructions)})
        plain += [{"role": message.role, "content": self._content(message)} for message in messages]
        text = self._tokenizer.apply_chat_template(
            plain, add_generation_prompt=True, tokenize=False, enable_thinking=False
        )
        pieces = (text + _SPEECH_START).split(_AUDIO_MARK)
        ids: list[int] = []
        for number, piece in enumerate(pieces):  # each on its own, as the model was trained
            if number:
                ids.append(AUDIO)
            ids += self._tokenizer.encode(piece, add_special_tokens=False)
        return ids

    def length(self, message: Message) -> int:
        """How many ids a message's own text takes, without what the template puts around it and without audio."""
        return len(self._tokenizer.encode(self._content(message), add_special_tokens=False))

    def clean(self, text: str) -> str:
        """`text` without anything that the tokenizer or the template would take for a special token."""
        return self._special.sub(" ", text)  # a space, so that what was around one does not join to another

    def _content(self, message: Message) -> str:
        audio = _AUDIO_START + _AUDIO_MARK + _AUDIO_END
        return "".join(audio if part is None else self.clean(part) for part in message.parts)


class TextDecoder:
    """Ids of a reply -> its text, as far as whole characters are there."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._first = 0  # decoding begins here: ids before it can no longer change the text
        self._done = ""

    def push(self, token: int) -> str:
        """The text that this token adds; "" while a character is incomplete."""
        self._ids.append(token)
        text = self._decode()
        if text.endswith("�"):
            return ""
        return self._take(text)

    def finish(self) -> str:
        """What is left: an incomplete character as its replacement character."""
        return self._take(self._decode())

    def _decode(self) -> str:
        text: str = self._tokenizer.decode(
            self._ids[self._first :], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _take(self, text: str) -> str:
        new = text[len(self._done) :]
        self._done = text
        if len(self._ids) - self._first > 64:  # so that a long reply does not cost the square of its length
            self._first = len(self._ids)
            self._done = ""
        return new


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, without running any code from it. Raises MissingFileError or TokenizerError."""
    from transformers import AutoTokenizer  # seconds to import

    for name in ("tokenizer_config.json", "tokenizer.json"):
        if not (folder / name).is_file() and not (name == "tokenizer.json" and (folder / "vocab.json").is_file()):
            raise MissingFileError(f"{folder / name} is missing. Run `{FETCH_COMMAND}`, or name the right folder.")
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises whatever its parsers do
        raise TokenizerError(f"{folder}: the tokenizer cannot be read ({error}). Run `{FETCH_COMMAND}`.") from error


def speech_vocabulary(tokenizer: Any, end_ids: Sequence[int], vocab_size: int, folder: Path) -> SpeechVocabulary:
    """Where the speech tokens lie in the speech model's vocabulary. Raises TokenizerError."""
    first = _only_id(tokenizer, _FIRST_UNIT, folder)
    numbers = {
        int(match[1]): token for name, token in _vocabulary(tokenizer).items() if (match := _UNIT.fullmatch(name))
    }
    count = len(numbers)
    if any(numbers.get(number) != first + number for number in range(count)):
        raise TokenizerError(
            f"{folder}: the ids of <|audio_0|> to <|audio_{count - 1}|> do not follow each other. "
            f"Run `{FETCH_COMMAND}`."
        )
    if max(first + count, *(end + 1 for end in end_ids)) > vocab_size:
        raise TokenizerError(
            f"{folder}: its speech tokens reach id {first + count - 1}, but the speech model has {vocab_size} ids. "
            f"They are of different checkpoints; run `{FETCH_COMMAND}` to fetch both again."
        )
    return SpeechVocabulary(first, count, tuple(end_ids))


def _vocabulary(tokenizer: Any) -> Mapping[str, int]:
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    return vocabulary


def _names(tokenizer: Any) -> set[str]:
    """Everything that is one token whatever stands around it."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return {*added, *_SPECIAL, _AUDIO_MARK} - {""}


def _only_id(tokenizer: Any, name: str, folder: Path) -> int:
    ids = tokenizer.encode(name, add_special_tokens=False)
    if len(ids) != 1:
        raise TokenizerError(
            f"{folder}: the tokenizer has no token {name}. It is not the one that belongs there; "
            f"run `{FETCH_COMMAND}` to fetch it again."
        )
    return int(ids[0])
