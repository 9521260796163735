"""Number formats of the weights: which there are, and weight-only quantization of the two language models.

Only the matrices of the layers and the heads are quantized, which are what a step reads; the encoder computes rather
than reads, and embeddings, norms, the adapter and the bridge are small.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from .eight_bits import EightBitLinear
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
    """Replace the linear layers of both language models, in place: int8 or fp8 (e4m3), one scale per output channel.

    Activations keep their type."""
    if kind == "none":
        return
    dtype = torch.int8 if kind == "int8" else torch.float8_e4m3fn
    for lm in (model.llm, model.speech.lm):
        for layer in lm.layers:
            for name, linear in layer.named_children():
                if isinstance(linear, nn.Linear):
                    setattr(layer, name, EightBitLinear(linear, dtype))
        head = lm.lm_head
        if isinstance(head, nn.Linear) and head.weight is not lm.embed_tokens.weight:  # a table that is looked up stays
            lm.lm_head = EightBitLinear(head, dtype)
