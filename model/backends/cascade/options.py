"""The cascade's settings, read from the plain mapping that a factory is given."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

from model.weights import default_models_dir


@dataclass(frozen=True, slots=True)
class CascadeOptions:
    """Same names and defaults as the settings section `cascade`, and `models_dir`."""

    models_dir: str = ""
    """Folder of the weights; "" means the user's cache folder."""
    llm_path: str = ""
    """A chat model of the operator's own as GGUF; "" means the embedded one."""
    llm_threads: int = 1
    asr_threads: int = 1
    tts_threads: int = 1
    max_output_tokens: int = 48
    temperature: float = 0.2
    top_p: float = 0.9
    max_sequences: int = 4
    context_tokens: int = 2048
    voice: str = "heart"
    instructions: str = ""

    @classmethod
    def from_mapping(cls, options: Mapping[str, object]) -> CascadeOptions:
        """Raises ValueError for unknown keys and values of the wrong type."""
        known = {field.name: type(field.default) for field in fields(cls)}
        values: dict[str, object] = {}
        for key, value in options.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(sorted(known))}."
                raise ValueError(f"The cascade backend has no option {key!r}; {hint}")
            wanted = known[key]
            if wanted is float and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            if type(value) is not wanted:
                raise ValueError(f"Option {key} is {value!r}; it must be of type {wanted.__name__}.")
            values[key] = value
        return cls(**values)  # type: ignore[arg-type]  # checked above, key by key

    def __post_init__(self) -> None:
        for name in ("llm_threads", "asr_threads", "tts_threads", "max_output_tokens", "max_sequences"):
            if cast(int, getattr(self, name)) < 1:
                raise ValueError(f"Option {name} is {getattr(self, name)}; it must be at least 1.")
        if self.context_tokens < 512:
            raise ValueError(f"Option context_tokens is {self.context_tokens}; it must be at least 512.")

    @property
    def models_path(self) -> Path:
        return Path(self.models_dir).expanduser() if self.models_dir else default_models_dir()
