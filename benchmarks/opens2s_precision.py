"""What each number format costs in exactness: agreement with the float32 reference on the parity fixtures.

    python -m benchmarks.opens2s_precision                     the bundled fixtures, on the CPU
    python -m benchmarks.opens2s_precision --fixtures DIR --device cuda

For each format: the error of both models' logits over a whole conversation (norm of the difference over norm of the
reference's), the share of positions at which the likeliest token is the reference's, the largest change of a token's
probability, and the share of the greedy replies' tokens before the first that differs. The weights of the fixtures are
random: their logits lie closer together than a trained model's, so agreement on real weights is higher.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.support.machine import provenance
from model.opens2s.checkpoint import open_checkpoint
from model.opens2s.config import Interleaving
from model.opens2s.interleave import ReplyOrder
from model.opens2s.kv_cache import KvCache
from model.opens2s.language_model import LanguageModel
from model.opens2s.model import OpenS2S
from model.opens2s.precision import DTYPES, Quantization, quantize, resolve_device
from model.opens2s.reply import Reply
from model.opens2s.sampling import GREEDY

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "data" / "opens2s"
FORMATS: tuple[tuple[str, Quantization], ...] = (
    ("float32", "none"),
    ("bfloat16", "none"),
    ("float16", "none"),
    ("float32", "int8"),
    ("bfloat16", "int8"),
    ("float32", "fp8"),
    ("bfloat16", "fp8"),
)


@dataclass(frozen=True)
class Agreement:
    """One format against the reference."""

    dtype: str
    quantization: str
    text_error: float
    """Relative, of the text model's logits."""
    speech_error: float
    text_top1: float
    """Share of positions with the reference's likeliest token."""
    speech_top1: float
    largest_probability_change: float
    equal_tokens: float
    """Share of the greedy replies' tokens before the first that differs."""


def measure(fixtures: Path, dtype: str, quantization: Quantization, device: torch.device) -> Agreement:
    """Agreement of one format on one folder of fixtures."""
    checkpoint = open_checkpoint(fixtures / "checkpoint")
    model = checkpoint.load(device, DTYPES[dtype], restrict_head=False)
    quantize(model, quantization)
    with np.load(fixtures / "teacher_forced.npz") as arrays:
        text = _logits(model.llm, arrays["inputs_embeds"])
        speech = _logits(model.speech.lm, arrays["tts_inputs_embeds"])
        text_reference, speech_reference = (torch.from_numpy(arrays[f"{name}_logits"]) for name in ("llm", "tts"))
    chances = [(text, text_reference), (speech, speech_reference)]
    return Agreement(
        dtype,
        quantization,
        _error(text, text_reference),
        _error(speech, speech_reference),
        _top1(text, text_reference),
        _top1(speech, speech_reference),
        max(float((a.softmax(-1) - b.softmax(-1)).abs().max()) for a, b in chances),
        _equal_tokens(fixtures, model),
    )


@torch.inference_mode()
def _logits(lm: LanguageModel, embeds: np.ndarray) -> torch.Tensor:
    weight = lm.norm.weight
    cache = KvCache(lm.config, weight.device, weight.dtype)
    inputs = torch.from_numpy(embeds).to(weight.device, weight.dtype)
    return lm.logits(lm(inputs, cache.begin(inputs.shape[1]))).cpu()


def _error(actual: torch.Tensor, reference: torch.Tensor) -> float:
    return float((actual - reference).norm() / reference.norm())


def _top1(actual: torch.Tensor, reference: torch.Tensor) -> float:
    return float((actual.argmax(-1) == reference.argmax(-1)).float().mean())


def _equal_tokens(fixtures: Path, model: OpenS2S) -> float:
    runs = json.loads((fixtures / "generate_greedy.json").read_text(encoding="utf-8"))["runs"]
    equal = total = 0
    with np.load(fixtures / "prompt_embeds.npz") as prompts:
        for run in runs:
            order = ReplyOrder(
                Interleaving.parse(run["interleave"]),
                max_text=run["max_new_tokens"],
                max_units=run["tts_max_new_tokens"],
                text_ends=frozenset(run["eos_token_id"]),
                unit_ends=frozenset(run["tts_eos_token_id"]),
            )
            prompt = torch.from_numpy(prompts[run["case"]]).to(model.device, model.dtype)
            pairs = zip(_tokens(model, prompt, order), _expected(run), strict=False)
            total += sum(1 for _ in _expected(run))
            equal += sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return equal / total


def _tokens(model: OpenS2S, prompt: torch.Tensor, order: ReplyOrder) -> Iterator[tuple[str, int]]:
    reply = Reply(model, prompt, order, text_sampling=GREEDY, unit_sampling=GREEDY)
    while not reply.is_done:
        token = reply.step()
        assert token is not None
        yield token.kind, token.id


def _expected(run: dict[str, Any]) -> Iterator[tuple[str, int]]:
    for kind, ids in run["stream_log"]:
        if ids != "end":
            yield from ((kind, token) for token in ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixtures", type=Path, default=FIXTURES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="two formats only")
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    formats = FORMATS[:2] if arguments.quick else FORMATS
    rows = [measure(arguments.fixtures, dtype, quantization, device) for dtype, quantization in formats]
    print("| format | text logits | speech logits | top-1 text | top-1 speech | largest change | equal tokens |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        name = row.dtype if row.quantization == "none" else f"{row.quantization} weights, {row.dtype}"
        print(
            f"| {name} | {row.text_error:.1e} | {row.speech_error:.1e} | {row.text_top1:.3f} | {row.speech_top1:.3f} "
            f"| {row.largest_probability_change:.4f} | {row.equal_tokens:.2f} |"
        )
    if arguments.json:
        result = {**provenance(), "device": str(device), "formats": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
