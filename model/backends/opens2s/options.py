"""OpenS2S's settings, read from the plain mapping that a factory is given. No torch in here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model.backends.options import read_options
from model.opens2s.repositories import CHECKPOINT, DECODER
from model.weights import default_models_dir

CHOICES = {
    "load_format": ("auto", "dummy"),
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "quantization": ("none", "int8", "fp8"),
    "admission": ("measured", "none"),
    "decoder_dtype": ("float32", "bfloat16", "float16"),
}
BOUNDS = {
    "max_sequences": (1, 64),
    "max_output_tokens": (1, 1_024),
    "temperature": (0.0, 2.0),
    "context_tokens": (512, 40_960),  # what Qwen3's positions reach
    "threads": (0, 256),
    "max_batch": (0, 64),
    "kv_cache_gb": (0.0, 10_000.0),
}
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True, slots=True)
class OpenS2SOptions:
    """Same names and defaults as the settings section `opens2s`, and `models_dir`."""

    models_dir: str = ""
    """Folder of the models; "" means the user's cache folder."""
    checkpoint: str = ""
    decoder: str = ""
    load_format: str = "auto"
    """"auto" reads the checkpoint; "dummy" fills the released shapes with random weights, without any file."""
    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "none"
    decoder_dtype: str = "float32"
    max_sequences: int = 16
    max_batch: int = 0
    """Replies in one step of the models; 0 means `max_sequences`."""
    admission: str = "measured"
    """"measured": no more replies at once, and no more calls, than are made in time by what work costs here."""
    kv_cache_gb: float = 0.0
    """Memory for what was read and said; 0 means what `max_sequences` replies can need, or what a GPU has."""
    max_output_tokens: int = 256
    temperature: float = 0.2
    top_p: float = 0.8
    context_tokens: int = 4_096
    voices: Mapping[str, str] = field(default_factory=dict)
    """Name -> file of a speaker embedding. "default" is there without a file, unless it is named here."""
    instructions: str = ""
    threads: int = 0
    """Of torch on the processor; 0 leaves it to torch."""

    @classmethod
    def from_mapping(cls, options: Mapping[str, object]) -> OpenS2SOptions:
        """Raises ValueError for unknown keys and values of the wrong type."""
        return read_options(cls, "opens2s", options)

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"Option {name} is {getattr(self, name)!r}; use one of {', '.join(choices)}.")
        for name, (least, most) in BOUNDS.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"Option {name} is {getattr(self, name)}; it must be from {least} to {most}.")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"Option top_p is {self.top_p}; it must be above 0 and at most 1.")
        if DEVICE.fullmatch(self.device) is None:
            raise ValueError(f"Option device is {self.device!r}; use auto, cpu, cuda, or cuda: and a number.")
        for voice, file in self.voices.items():
            if not isinstance(file, str) or not file.endswith((".npy", ".npz")):
                raise ValueError(f"Option voices names {file!r} for {voice!r}; it must be a .npy or .npz file.")

    @property
    def checkpoint_path(self) -> Path:
        """Folder of the checkpoint, whether or not it is there."""
        return self._folder(self.checkpoint, CHECKPOINT.folder)

    @property
    def decoder_path(self) -> Path:
        """Folder of the speech decoder, whether or not it is there."""
        return self._folder(self.decoder, DECODER.folder)

    def _folder(self, named: str, usual: str) -> Path:
        if named:
            return Path(named).expanduser()
        models = Path(self.models_dir).expanduser() if self.models_dir else default_models_dir()
        return models / usual
