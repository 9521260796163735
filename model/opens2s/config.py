"""What an OpenS2S checkpoint's config.json says, as plain data.

The file holds differences from the defaults of transformers 4.51, with which it was written, so absent keys mean that
version's defaults and not those of the library installed here. There is no `model_type` at its top: AutoConfig cannot
read it. No torch in here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import FETCH_COMMAND, ConfigurationError, MissingFileError

CONFIG_FILE = "config.json"
REMEDY = f"Run `{FETCH_COMMAND}` for the released one."
MAX_SIZE = 1 << 20  # no width, vocabulary or number of positions of such models comes near; more is a broken file
MAX_LAYERS = 512
SPEAKER_DIM = 512
"""Size of the speaker embedding that the speech language model takes."""


@dataclass(frozen=True, slots=True)
class AudioEncoderConfig:
    """Qwen2-Audio's encoder (the shape of Whisper large-v3)."""

    hidden_size: int = 1280
    num_heads: int = 20
    intermediate_size: int = 5120
    num_layers: int = 32
    num_mel_bins: int = 128
    num_positions: int = 1500
    """Positions of one window, after the second convolution has halved the mel frames."""
    scale_embedding: bool = False
    """Multiply the convolutions' output by sqrt(hidden_size)."""

    @property
    def window_frames(self) -> int:
        """Mel frames of one window: 3000, which is 30 s."""
        return 2 * self.num_positions


@dataclass(frozen=True, slots=True)
class LanguageModelConfig:
    """A Qwen3 or Qwen2 decoder."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_positions: int
    is_tied: bool
    """The output head is the embedding table."""
    has_qk_norm: bool
    """Qwen3: RMSNorm over each head of q and k."""
    has_qkv_bias: bool
    """Qwen2, or `attention_bias`."""
    has_output_bias: bool = False


@dataclass(frozen=True, slots=True)
class Interleaving:
    """M hidden states of the text model, then N speech tokens, and so on."""

    num_text: int
    num_units: int

    @classmethod
    def parse(cls, text: str) -> Interleaving:
        """From "M:N". Raises ValueError."""
        left, separator, right = text.partition(":")
        if not separator or not left.isdecimal() or not right.isdecimal() or int(left) < 1 or int(right) < 1:
            raise ValueError(f"interleave_strategy {text!r} is not of the form 'M:N' with positive whole numbers")
        return cls(int(left), int(right))

    def __str__(self) -> str:
        return f"{self.num_text}:{self.num_units}"


@dataclass(frozen=True, slots=True)
class OpenS2SConfig:
    """Everything that decides the shapes of the modules."""

    audio: AudioEncoderConfig
    llm: LanguageModelConfig
    tts: LanguageModelConfig
    conv_kernel_sizes: tuple[int, ...] = (5, 5)
    """Kernels of the adapter's convolutions, stride 2 each."""
    adapter_inner_dim: int = 512
    interleaving: Interleaving = Interleaving(1, 2)


QWEN3_8B = LanguageModelConfig(
    vocab_size=151_673,
    hidden_size=4096,
    intermediate_size=12_288,
    num_layers=36,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    rms_norm_eps=1e-6,
    rope_theta=1e6,
    max_positions=40_960,
    is_tied=False,
    has_qk_norm=True,
    has_qkv_bias=False,
)
QWEN3_1_7B = replace(
    QWEN3_8B, vocab_size=168_053, hidden_size=2048, intermediate_size=6144, num_layers=28, num_heads=16
)
RELEASED = OpenS2SConfig(AudioEncoderConfig(), QWEN3_8B, QWEN3_1_7B)
"""What the released checkpoint is known to be; used for dummy weights, and compared with by `models verify`."""

# Defaults of transformers 4.51.0, with which the checkpoint was saved; Qwen3's and Qwen2's differ in the head size.
_LANGUAGE_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 22_016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "use_sliding_window": False,
}
_AUDIO_DEFAULTS: Mapping[str, Any] = {
    "d_model": 1280,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "encoder_layers": 32,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
    "activation_function": "gelu",
    "scale_embedding": False,
}


class _Section:
    """One nested mapping of the file, read with types and defaults."""

    def __init__(self, path: Path, name: str, values: object, defaults: Mapping[str, Any]) -> None:
        if not isinstance(values, dict):
            raise ConfigurationError(f"{path}: {name} is {values!r:.80}; an object was expected. {REMEDY}")
        self._path, self._name, self._values, self._defaults = path, name, values, defaults

    def get(self, key: str) -> Any:
        value = self._values.get(key)
        return self._defaults.get(key) if value is None else value

    def fail(self, key: str, expected: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self._path}: {self._name}.{key} is {self.get(key)!r:.80}; expected {expected}. {REMEDY}"
        )

    def integer(self, key: str) -> int:
        value = self.get(key)
        limit = MAX_LAYERS if key.endswith("layers") else MAX_SIZE
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= limit:
            raise self.fail(key, f"a whole number from 1 to {limit}")
        return value

    def number(self, key: str) -> float:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self.fail(key, "a positive number")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.get(key)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def require(self, key: str, *allowed: object) -> Any:
        value = self.get(key)
        if value not in allowed:
            raise self.fail(key, " or ".join(repr(item) for item in allowed) + ", which is all this code runs")
        return value


def _language_model(path: Path, name: str, values: object) -> LanguageModelConfig:
    section = _Section(path, name, values, _LANGUAGE_DEFAULTS)
    is_qwen3 = section.require("model_type", "qwen3", "qwen2") == "qwen3"
    section.require("hidden_act", "silu")
    section.require("use_sliding_window", False)
    _check_rope(section)
    heads, hidden = section.integer("num_attention_heads"), section.integer("hidden_size")
    if section.get("head_dim") is not None:
        head_dim = section.integer("head_dim")
    else:
        head_dim = 128 if is_qwen3 else hidden // heads
    if heads % section.integer("num_key_value_heads"):
        raise section.fail("num_key_value_heads", f"a divisor of num_attention_heads = {heads}")
    if head_dim % 2:
        raise section.fail("head_dim", "an even number")
    rope = section.get("rope_parameters")  # where transformers 5 keeps it
    theta = rope.get("rope_theta") if isinstance(rope, dict) else None
    return LanguageModelConfig(
        vocab_size=section.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=section.integer("intermediate_size"),
        num_layers=section.integer("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=section.integer("num_key_value_heads"),
        head_dim=head_dim,
        rms_norm_eps=section.number("rms_norm_eps"),
        rope_theta=float(theta) if isinstance(theta, int | float) else section.number("rope_theta"),
        max_positions=section.integer("max_position_embeddings"),
        is_tied=section.flag("tie_word_embeddings"),
        has_qk_norm=is_qwen3,
        has_qkv_bias=section.flag("attention_bias") if is_qwen3 else True,
        has_output_bias=is_qwen3 and section.flag("attention_bias"),
    )


def _check_rope(section: _Section) -> None:
    for key in ("rope_scaling", "rope_parameters"):
        rope = section.get(key)
        if isinstance(rope, dict) and rope.get("rope_type", rope.get("type", "default")) == "default":
            continue
        if rope is not None:
            raise section.fail(key, "no scaling of the rotary embedding, which is all this code runs")


def _audio_encoder(path: Path, values: object) -> AudioEncoderConfig:
    section = _Section(path, "audio_encoder_config", values, _AUDIO_DEFAULTS)
    section.require("model_type", "qwen2_audio_encoder")
    section.require("activation_function", "gelu")
    heads, hidden = section.integer("encoder_attention_heads"), section.integer("d_model")
    if hidden % heads:
        raise section.fail("encoder_attention_heads", f"a divisor of d_model = {hidden}")
    if section.integer("max_source_positions") % 2:
        raise section.fail("max_source_positions", "an even number, which the pooling halves")
    return AudioEncoderConfig(
        hidden_size=hidden,
        num_heads=heads,
        intermediate_size=section.integer("encoder_ffn_dim"),
        num_layers=section.integer("encoder_layers"),
        num_mel_bins=section.integer("num_mel_bins"),
        num_positions=section.integer("max_source_positions"),
        scale_embedding=section.flag("scale_embedding"),
    )


def read_json(path: Path) -> Any:
    """The JSON value in `path`. Raises MissingFileError or ConfigurationError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"{path} is missing. Run `{FETCH_COMMAND}`, or name the right folder.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{path} is not JSON ({str(error) or type(error).__name__}). Run `{FETCH_COMMAND}` to fetch it again."
        ) from None


def read_config(checkpoint: Path) -> OpenS2SConfig:
    """The configuration in a checkpoint folder. Raises MissingFileError or ConfigurationError."""
    path = checkpoint / CONFIG_FILE
    values = read_json(path)
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path} holds {type(values).__name__}; an object was expected. {REMEDY}")
    top = _Section(path, "config", values, {"conv_kernel_sizes": "5,5", "adapter_inner_dim": 512})
    if values.get("lora_config") is not None:
        raise top.fail("lora_config", "null: adapters have to be merged into the weights")
    kernels = [part.strip() for part in str(top.get("conv_kernel_sizes")).split(",")]
    if not all(part.isdecimal() and int(part) % 2 for part in kernels):
        raise top.fail("conv_kernel_sizes", "odd whole numbers with commas, for example '5,5'")
    try:
        interleaving = Interleaving.parse(str(values.get("interleave_strategy") or "1:2"))
    except ValueError as error:
        raise ConfigurationError(f"{path}: {error}. {REMEDY}") from None
    return OpenS2SConfig(
        audio=_audio_encoder(path, values.get("audio_encoder_config")),
        llm=_language_model(path, "llm_config", values.get("llm_config")),
        tts=_language_model(path, "tts_lm_config", values.get("tts_lm_config")),
        conv_kernel_sizes=tuple(int(part) for part in kernels),
        adapter_inner_dim=top.integer("adapter_inner_dim"),
        interleaving=interleaving,
    )
