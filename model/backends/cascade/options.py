"""The cascade's settings, read from the plain mapping that a factory is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from model.backends.options import read_options
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
        return read_options(cls, "cascade", options)

    def __post_init__(self) -> None:
        for name in ("llm_threads", "asr_threads", "tts_threads", "max_output_tokens", "max_sequences"):
            if cast(int, getattr(self, name)) < 1:
                raise ValueError(f"Option {name} is {getattr(self, name)}; it must be at least 1.")
        if self.context_tokens < 512:
            raise ValueError(f"Option context_tokens is {self.context_tokens}; it must be at least 512.")

    @property
    def models_path(self) -> Path:
        return Path(self.models_dir).expanduser() if self.models_dir else default_models_dir()
