"""What is in a folder of OpenS2S or of its decoder, held against what is known of the released ones.

Nobody could read the released files when this was written: sizes of vocabularies, limits, the chat template and the
number of shards were inferred. `report` prints what a folder really says, so that whoever has one knows at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.decoder.config import RELEASED as RELEASED_DECODER
from model.decoder.config_file import CONFIG_FILE as DECODER_CONFIG_FILE
from model.decoder.errors import DecoderError
from model.decoder.weights import FLOW_FILE, VOCODER_FILE, load_decoder
from model.opens2s import dimensions, shards
from model.opens2s.checkpoint import Checkpoint, open_checkpoint
from model.opens2s.config import RELEASED
from model.opens2s.errors import CheckpointError
from model.opens2s.model import build
from model.opens2s.prompt import Message

RELEASED_TENSORS = 1211
RELEASED_PROMPT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|im_audio_start|><|im_audio_end|><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n<|im_tts_start|>"
)
"""Of one spoken turn, without the audio itself: what Qwen3's template makes of it."""


def report(folder: Path) -> tuple[list[str], bool]:
    """Lines for a person, and whether the folder can be served.

    A folder with flow.pt or config.yaml is the decoder's. Other sizes than the released ones are shown with "expected"
    and are no fault: a later checkpoint may have them."""
    is_decoder = any((folder / name).exists() for name in (DECODER_CONFIG_FILE, FLOW_FILE, VOCODER_FILE))
    lines: list[str] = []
    try:
        for line in _decoder(folder) if is_decoder else _checkpoint(folder):
            lines.append(line)
    except (CheckpointError, DecoderError) as error:
        return [*lines, str(error)], False
    return [*lines, "Everything fits together."], True


def _checkpoint(folder: Path) -> Iterator[str]:
    yield f"OpenS2S checkpoint in {folder}"
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    stored = shards.read_headers(folder)
    yield from _files(stored)
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    released = _released()
    for dim in dimensions.derive(shapes, config):
        disagreement = "" if dim.derived == dim.configured else f"   config.json says {dim.configured}"
        yield _row(dim.field, dim.derived, released.get(dim.field)) + disagreement
    dimensions.check(shapes, config, folder)
    shards.check(build(config, checkpoint.vocabulary.rows, device="meta").targets(), stored, folder)
    yield from _heads(shapes, config)
    yield _row("interleave_strategy", str(config.interleaving), str(RELEASED.interleaving))
    for name, part, expected in (("llm", config.llm, RELEASED.llm), ("tts", config.tts, RELEASED.tts)):
        for key in ("rope_theta", "rms_norm_eps", "max_positions"):
            yield _row(f"{name} {key}", getattr(part, key), getattr(expected, key))
    yield from _generation(checkpoint)
    yield from _prompt(checkpoint)


def _files(stored: dict[str, shards.StoredTensor]) -> Iterator[str]:
    files = {tensor.path for tensor in stored.values()}
    size = sum(path.stat().st_size for path in files)
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in Counter(t.dtype for t in stored.values()).most_common())
    parameters = sum(int(np.prod(tensor.shape)) for tensor in stored.values())
    yield f"  {'weights':44} {len(files)} files, {size / 1e9:.2f} GB, {parameters / 1e9:.3f} billion values, {dtypes}"
    yield _row("tensors", len(stored), RELEASED_TENSORS)


def _released() -> dict[str, int]:
    """Place in config.json -> the released size."""
    shapes = {target.name: target.shape for target in build(RELEASED, device="meta").targets()}
    return {dim.field: dim.configured for dim in dimensions.derive(shapes, RELEASED)}


def _heads(shapes: dimensions.Shapes, config: Any) -> Iterator[str]:
    for name, prefix, part in (("llm", "llm_model.", config.llm), ("tts", "tts_lm_model.", config.tts)):
        has_head = f"{prefix}lm_head.weight" in shapes
        yield _row(f"{name} head", "own" if has_head else "the embedding table", "own")
        if has_head and part.is_tied:
            yield "    tie_word_embeddings is true in config.json, but there is a head; the head is used."


def _generation(checkpoint: Checkpoint) -> Iterator[str]:
    tokenizer, vocabulary = checkpoint.tokenizer, checkpoint.vocabulary
    text, speech = checkpoint.text_generation, checkpoint.speech_generation
    yield _row("text ends with", ", ".join(_token(tokenizer, end) for end in text.end_ids), None)
    yield _row("text top_k", text.top_k, 20)
    yield _row("speech ends with ids", ", ".join(map(str, speech.end_ids)), None)
    yield _row("speech top_k", speech.top_k, None)
    yield _row("speech max_new_tokens", speech.max_new_tokens or "none, so 512", None)
    yield _row("speech codes", vocabulary.num_units, RELEASED_DECODER.flow.vocab_size)
    yield _row("id of <|audio_0|>", vocabulary.first_unit, 151_669)


def _prompt(checkpoint: Checkpoint) -> Iterator[str]:
    ids = checkpoint.prompts.ids([Message("user", (None,))])
    text = checkpoint.tokenizer.decode([token for token in ids if token >= 0])
    same = "as expected" if text == RELEASED_PROMPT else f"not as expected, which was {RELEASED_PROMPT!r}"
    yield f"  {'prompt of one spoken turn':44} {text!r}"
    yield f"  {'':44} {same}"


def _token(tokenizer: Any, token: int) -> str:
    return f"{token} {tokenizer.decode([token])}"


def _decoder(folder: Path) -> Iterator[str]:
    yield f"Speech decoder in {folder}"
    decoder = load_decoder(folder)
    for name in (FLOW_FILE, VOCODER_FILE):
        yield f"  {name:44} {(folder / name).stat().st_size / 1e6:.1f} MB"
    for part, module in (("flow", decoder.flow), ("vocoder", decoder.vocoder)):
        count = sum(parameter.numel() for parameter in module.parameters())
        yield f"  {part + ' parameters':44} {count / 1e6:.2f} million"
    yield from _compare("", decoder.config, RELEASED_DECODER)


def _compare(prefix: str, found: Any, released: Any) -> Iterator[str]:
    for field in fields(found):
        value, expected = getattr(found, field.name), getattr(released, field.name)
        if is_dataclass(value):
            yield from _compare(f"{prefix}{field.name}.", value, expected)
        else:
            yield _row(prefix + field.name, value, expected)


def _row(name: str, found: object, expected: object) -> str:
    differs = expected is not None and found != expected
    return f"  {name:44} {found}" + (f"   expected {expected}" if differs else "")
