"""The small files of a checkpoint, where there are none: for dummy weights, which need ids and sizes but no sense."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .checkpoint import Checkpoint
from .config import RELEASED
from .features import LogMelConfig
from .generation_config import GenerationConfig
from .prompt import PromptBuilder
from .speech_lm import SpeechVocabulary

NUM_UNITS = 16_384
_BASE_IDS = 151_643  # Qwen3's ordinary tokens
_END, _START, _END_OF_TEXT = "<|im_end|>", "<|im_start|>", "<|endoftext|>"
_SPECIAL = {
    _END_OF_TEXT: 151_643,
    _START: 151_644,
    _END: 151_645,
    "<think>": 151_667,
    "</think>": 151_668,
    "<|im_audio_start|>": 151_669,
    "<|im_audio_end|>": 151_670,
    "<|im_tts_start|>": 151_671,
    "<|im_tts_end|>": 151_672,
}


class StandInTokenizer:
    """About one id per word, as Qwen3's has; words come back as other words."""

    unk_token_id = None
    chat_template = "stand-in"
    _special = re.compile("(" + "|".join(map(re.escape, _SPECIAL)) + ")")
    _words = re.compile(r"\s?\w+|\s?[^\w\s]|\s+")

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        return {token: SimpleNamespace(content=name) for name, token in _SPECIAL.items()}

    def __len__(self) -> int:
        return RELEASED.llm.vocab_size

    def convert_tokens_to_ids(self, name: str) -> int | None:
        return _SPECIAL.get(name)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        ids: list[int] = []
        for piece in self._special.split(text):
            if piece in _SPECIAL:
                ids.append(_SPECIAL[piece])
            else:
                ids += (zlib.crc32(word.encode()) % _BASE_IDS for word in self._words.findall(piece))
        return ids

    def decode(self, ids: list[int], **options: object) -> str:
        return "".join(" " + _word(token) for token in ids if token < _BASE_IDS)

    def apply_chat_template(self, messages: list[dict[str, str]], **options: object) -> str:
        """Qwen3's, without thinking."""
        turns = [f"{_START}{message['role']}\n{message['content']}{_END}\n" for message in messages]
        return "".join(turns) + f"{_START}assistant\n<think>\n\n</think>\n\n"


def _word(token: int) -> str:
    consonants, vowels = "bdfgklmnprstvz", "aeiou"
    word = ""
    for _ in range(1 + token % 3):
        token, consonant = divmod(token, len(consonants))
        token, vowel = divmod(token, len(vowels))
        word += consonants[consonant] + vowels[vowel]
    return word


def stand_in_checkpoint() -> Checkpoint:
    """The released sizes and ids, and no folder."""
    tokenizer = StandInTokenizer()
    ends = (_SPECIAL[_END], _SPECIAL[_END_OF_TEXT])
    folder = Path("dummy")
    return Checkpoint(
        folder=folder,
        config=RELEASED,
        front_end=LogMelConfig(),
        text_generation=GenerationConfig(ends, 20, None),
        speech_generation=GenerationConfig(ends[:1], 50, None),
        vocabulary=SpeechVocabulary(RELEASED.tts.vocab_size - NUM_UNITS, NUM_UNITS, ends[:1]),
        prompts=PromptBuilder(tokenizer, RELEASED.llm.vocab_size, folder),
        tokenizer=tokenizer,
    )
