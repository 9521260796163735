"""The whole of OpenS2S up to speech tokens: listener, text model, speech model; and how it comes to its weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from . import dimensions, shards
from .audio_encoder import Listener
from .config import OpenS2SConfig
from .language_model import LanguageModel, RotaryEmbedding
from .speech_lm import SpeechLM
from .tensors import Target


class OpenS2S(nn.Module):
    """Audio -> text and speech tokens; `speech_rows` are the ids that the speech model keeps (None: all)."""

    def __init__(self, config: OpenS2SConfig, speech_rows: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.config = config
        self.listener = Listener(config)
        self.llm = LanguageModel(config.llm)
        self.speech = SpeechLM(config, speech_rows)

    @property
    def device(self) -> torch.device:
        return self.llm.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.llm.norm.weight.dtype

    def targets(self) -> Iterator[Target]:
        """Every tensor of the released checkpoint and where it goes."""
        yield from self.listener.targets()
        yield from self.llm.targets("llm_model.")
        yield from self.speech.targets()


def build(
    config: OpenS2SConfig,
    speech_rows: tuple[int, ...] | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> OpenS2S:
    """The modules with unset weights on `device` ("meta": without memory), in eval mode."""
    with torch.device("meta"):
        model = OpenS2S(config, speech_rows).eval().requires_grad_(False).to(dtype)
    if torch.device(device).type != "meta":
        model.to_empty(device=device)
        _reset(model)
    return model


def inspect(
    checkpoint: Path, config: OpenS2SConfig, speech_rows: tuple[int, ...] | None = None
) -> dict[str, shards.StoredTensor]:
    """All tensors of a checkpoint by their headers, held against config.json. Raises CheckpointError."""
    stored = shards.read_headers(checkpoint)
    dimensions.check({name: tensor.shape for name, tensor in stored.items()}, config, checkpoint)
    shards.check(build(config, speech_rows, device="meta").targets(), stored, checkpoint)
    return stored


def load(
    checkpoint: Path,
    config: OpenS2SConfig,
    speech_rows: tuple[int, ...] | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> OpenS2S:
    """The model with a checkpoint's weights. Raises CheckpointError before anything is allocated, where it can."""
    stored = inspect(checkpoint, config, speech_rows)
    model = build(config, speech_rows, device=device, dtype=dtype)
    shards.fill(model.targets(), stored)
    for prefix, part in (("llm_model.", model.llm), ("tts_lm_model.", model.speech.lm)):
        if f"{prefix}lm_head.weight" not in stored:  # saved tied
            part.tie_head()
    return model


def dummy(
    config: OpenS2SConfig,
    speech_rows: tuple[int, ...] | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> OpenS2S:
    """The model with random weights, for measurements where there is no checkpoint: right in size, noise in sound."""
    model = build(config, speech_rows, device=device, dtype=dtype)
    generator = torch.Generator(device).manual_seed(seed)
    for target in model.targets():
        tensor = target.tensor
        if tensor.dim() == 1:  # norms are one and biases zero, so that sizes stay sensible through the layers
            tensor.fill_(0.0 if target.name.endswith("bias") or not target.name else 1.0)
        else:
            tensor.normal_(0.0, tensor[0].numel() ** -0.5, generator=generator)
    return model


def _reset(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, RotaryEmbedding):
            module.reset()
