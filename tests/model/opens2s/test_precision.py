"""Number formats: what each may cost, and what is refused."""

from __future__ import annotations

import pytest
import torch

from benchmarks.opens2s_precision import measure
from model.opens2s.checkpoint import open_checkpoint
from model.opens2s.precision import Quantization, quantize, resolve_device, resolve_dtype
from tests.support.opens2s_fixtures import Fixtures

CPU = torch.device("cpu")
# Largest relative error of the bundled fixtures' logits. A half has 8 or 11 bits, an int8 weight about 7, an e4m3
# weight 4.
GATES: list[tuple[str, Quantization, float]] = [
    ("float32", "none", 1e-5),
    ("bfloat16", "none", 0.03),
    ("float16", "none", 0.005),
    ("float32", "int8", 0.06),
    ("bfloat16", "int8", 0.06),
    ("bfloat16", "fp8", 0.15),
]


@pytest.mark.parametrize(("dtype", "quantization", "limit"), GATES)
def test_every_format_stays_close_to_the_reference(
    bundled: Fixtures, dtype: str, quantization: Quantization, limit: float
) -> None:
    agreement = measure(bundled.root, dtype, quantization, CPU)
    print(agreement)
    assert agreement.text_error < limit
    assert agreement.speech_error < limit
    assert agreement.text_top1 > 0.8
    assert agreement.speech_top1 > 0.8
    if (dtype, quantization) == ("float32", "none"):
        assert agreement.equal_tokens == 1.0


def test_quantized_weights_take_less_memory(bundled: Fixtures) -> None:
    model = open_checkpoint(bundled.checkpoint).load()
    weight = model.llm.layers[0].qkv_proj.weight
    quantize(model, "int8")
    quantized = model.llm.layers[0].qkv_proj.weight
    assert quantized.shape == weight.shape
    assert quantized.dtype == torch.int8
    assert model.llm.embed_tokens.weight.dtype == torch.float32  # a table stays as it is


def test_types_and_devices_are_resolved_or_refused() -> None:
    assert resolve_dtype("auto", CPU) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("float16", CPU) == torch.float16
    with pytest.raises(ValueError, match="dtype 'int4' is not known"):
        resolve_dtype("int4", CPU)
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="device 'gpu' cannot be used"):
        resolve_device("gpu")
