"""Number formats of the weights: which there are, and weight-only quantization of the two language models.

Only the matrices of the layers and the heads are quantized, which are what a step reads; the encoder computes rather
than reads, and embeddings, norms, the adapter and the bridge are small.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from .language_model import LanguageModel
from .model import OpenS2S

Quantization = Literal["none", "int8", "fp8"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """ "auto" is the first GPU where there is one. Raises ValueError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used: {reason} Use 'cpu', 'cuda' or 'auto'.") from None
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16, in which the weights are released, on a GPU, and float32 on a CPU. Raises ValueError."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        return DTYPES[name]
    except KeyError:
        raise ValueError(f"dtype {name!r} is not known; use 'auto' or one of {', '.join(DTYPES)}.") from None


def quantize(model: OpenS2S, kind: Quantization) -> None:
    """Replace the weights of both language models, in place: int8 per output channel, or fp8 (e4m3) per row.

    They are expanded again when they are used; activations keep their type. Raises ValueError where the device cannot.
    """
    if kind == "none":
        return
    with _quiet():
        from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

        config = Int8WeightOnlyConfig() if kind == "int8" else Float8WeightOnlyConfig()
        for lm in (model.llm, model.speech.lm):
            quantize_(_matrices(lm), config)


@contextmanager
def _quiet() -> Iterator[None]:
    """The library tells, as it is imported, which of its compiled parts do not fit this torch. None of them is used."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _matrices(lm: LanguageModel) -> nn.Module:
    parts: list[nn.Module] = [lm.layers]
    if lm.lm_head.weight is not lm.embed_tokens.weight:  # a table that is looked up stays as it is
        parts.append(nn.ModuleList([lm.lm_head]))
    return nn.ModuleList(parts)
