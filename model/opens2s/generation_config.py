"""The two generation_config.json of a checkpoint, as far as the generation loop uses them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import read_json
from .errors import FETCH_COMMAND, ConfigurationError

TEXT_FILE = "generation_config.json"
SPEECH_FILE = "tts/generation_config.json"
DEFAULT_TOP_K = 50
"""transformers' own default, in force where a file names none."""
DEFAULT_MAX_UNITS = 512
"""The reference's, where the speech file names none: 41 s of sound."""


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """What one of the two models is sampled with, unless a request says otherwise."""

    end_ids: tuple[int, ...]
    top_k: int
    max_new_tokens: int | None


def read_generation_config(path: Path) -> GenerationConfig:
    """Raises MissingFileError or ConfigurationError."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"{path} holds {type(values).__name__}; an object was expected. Run `{FETCH_COMMAND}`."
        )
    ends = values.get("eos_token_id")
    ends = [ends] if isinstance(ends, int) else ends
    if not isinstance(ends, list) or not ends or not all(_is_count(end) for end in ends):
        raise ConfigurationError(
            f"{path}: eos_token_id is {values.get('eos_token_id')!r:.80}; expected ids. Run `{FETCH_COMMAND}`."
        )
    top_k = values.get("top_k", DEFAULT_TOP_K)
    limit = values.get("max_new_tokens")
    for key, value in (("top_k", top_k), ("max_new_tokens", limit)):
        if value is not None and not _is_count(value):
            raise ConfigurationError(f"{path}: {key} is {value!r:.80}; expected a whole number. Run `{FETCH_COMMAND}`.")
    return GenerationConfig(tuple(ends), top_k or 0, limit or None)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
