"""Every size of the model, read off the tensors themselves, to be held against config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .config import CONFIG_FILE, LanguageModelConfig, OpenS2SConfig
from .errors import FETCH_COMMAND, TensorError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Dimension:
    """One size, in both sources."""

    field: str
    """Its place in config.json."""
    configured: int
    derived: int
    tensor: str
    """The tensor it was read off."""


def derive(shapes: Shapes, config: OpenS2SConfig) -> list[Dimension]:
    """All sizes that the tensors tell. Raises TensorError when a tensor is missing or has too few dimensions.

    Not told by them: the encoder's heads, positions' base, epsilons, the interleaving.
    """
    dims: list[Dimension] = []

    def add(field: str, configured: int, tensor: str, axis: int, divisor: int = 1) -> None:
        shape = shapes.get(tensor)
        if shape is None or len(shape) <= axis:
            found = "is missing" if shape is None else f"has shape {list(shape)}"
            raise TensorError(f"Tensor {tensor} {found}; {field} cannot be read off it. Run `{FETCH_COMMAND}`.")
        dims.append(Dimension(field, configured, shape[axis] // divisor, tensor))

    encoder = "audio_encoder_model."
    add("audio_encoder_config.d_model", config.audio.hidden_size, f"{encoder}conv1.weight", 0)
    add("audio_encoder_config.num_mel_bins", config.audio.num_mel_bins, f"{encoder}conv1.weight", 1)
    add("audio_encoder_config.max_source_positions", config.audio.num_positions, f"{encoder}embed_positions.weight", 0)
    add("audio_encoder_config.encoder_ffn_dim", config.audio.intermediate_size, f"{encoder}layers.0.fc1.weight", 0)
    layers = _count(shapes, f"{encoder}layers.")
    dims.append(Dimension("audio_encoder_config.encoder_layers", config.audio.num_layers, layers, f"{encoder}layers.*"))
    add("adapter_inner_dim", config.adapter_inner_dim, "audio_adapter.fc1.weight", 0)
    for number, kernel in enumerate(config.conv_kernel_sizes):
        tensor = f"audio_adapter.subsampler.conv_layers.{number}.weight"
        add(f"conv_kernel_sizes[{number}]", kernel, tensor, 2)
    for section, prefix, part in (
        ("llm_config", "llm_model.", config.llm),
        ("tts_lm_config", "tts_lm_model.", config.tts),
    ):
        dims += _language_model(shapes, section, prefix, part)
    return dims


def check(shapes: Shapes, config: OpenS2SConfig, checkpoint: Path) -> None:
    """Raises TensorError when the tensors are of another size than config.json says."""
    wrong = [dim for dim in derive(shapes, config) if dim.configured != dim.derived]
    if wrong:
        said = "; ".join(f"{dim.field} is {dim.configured}, but {dim.tensor} has {dim.derived}" for dim in wrong[:5])
        raise TensorError(
            f"{checkpoint / CONFIG_FILE} does not fit the tensors: {said}. One of them is of another checkpoint; "
            f"run `{FETCH_COMMAND}` to fetch both again."
        )


def _language_model(shapes: Shapes, section: str, prefix: str, config: LanguageModelConfig) -> list[Dimension]:
    dims: list[Dimension] = []

    def add(field: str, configured: int, tensor: str, axis: int, divisor: int = 1) -> None:
        shape = shapes.get(prefix + tensor)
        if shape is None or len(shape) <= axis:
            found = "is missing" if shape is None else f"has shape {list(shape)}"
            raise TensorError(
                f"Tensor {prefix}{tensor} {found}; {section}.{field} cannot be read off it. Run `{FETCH_COMMAND}`."
            )
        dims.append(Dimension(f"{section}.{field}", configured, shape[axis] // divisor, prefix + tensor))

    head_dim = config.head_dim
    add("vocab_size", config.vocab_size, "model.embed_tokens.weight", 0)
    add("hidden_size", config.hidden_size, "model.norm.weight", 0)
    add("intermediate_size", config.intermediate_size, "model.layers.0.mlp.up_proj.weight", 0)
    if config.has_qk_norm:
        add("head_dim", config.head_dim, "model.layers.0.self_attn.q_norm.weight", 0)
        head_dim = dims[-1].derived
    add("num_attention_heads", config.num_heads, "model.layers.0.self_attn.q_proj.weight", 0, head_dim)
    add("num_key_value_heads", config.num_kv_heads, "model.layers.0.self_attn.k_proj.weight", 0, head_dim)
    layers = _count(shapes, f"{prefix}model.layers.")
    dims.append(Dimension(f"{section}.num_hidden_layers", config.num_layers, layers, f"{prefix}model.layers.*"))
    return dims


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbered layers there are below `prefix`."""
    return len({name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)})
