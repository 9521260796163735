"""The systems that are compared, from the same options: the reference's loop, our engine, and it without a batch."""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file, save_file

from benchmarks.support.engine_drive import System
from benchmarks.support.machine import ROOT
from benchmarks.support.reference_loop import ReferenceLoop
from model.backends.opens2s.engine import create
from model.backends.opens2s.options import OpenS2SOptions
from model.decoder.config_file import read_config
from model.decoder.weights import dummy_decoder, load_decoder
from model.opens2s.checkpoint import Checkpoint, open_checkpoint
from model.opens2s.eight_bits import EightBitLinear, narrow
from model.opens2s.model import OpenS2S, dummy
from model.opens2s.precision import resolve_device, resolve_dtype
from model.opens2s.stand_in import stand_in_checkpoint

REFERENCE, BATCH1, ENGINE, NO_GUESS = "reference_loop", "engine_batch1", "engine", "engine_no_guess"
SYSTEMS = (REFERENCE, BATCH1, ENGINE, NO_GUESS)
GUESSES = (BATCH1, ENGINE)
"""Systems that are asked in the user's pause, before the turn is surely over, as the server asks; the reference has no
guesses."""
SMALL = ROOT / "tests" / "data" / "opens2s"
MAX_SEQUENCES = 64  # what the option takes
SMALL_TOP_K = 20
SMALL_MAX_UNITS = 256  # 20 s: no reply is longer
SCALED = {
    "llm_config": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 36,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 32,
    },
    "tts_lm_config": {
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 28,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
    },
    "audio_encoder_config": {
        "d_model": 40,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 160,
        "encoder_layers": 32,
        "num_hidden_layers": 32,
    },
}
"""The released depths, a thirty-second of the widths: as on a GPU, launching a layer costs more than computing it."""
SCALED_DECODER = {
    "channels: [32, 32]": "channels: [8, 8]",
    "num_mid_blocks: 2": "num_mid_blocks: 1",
    "num_heads: 4": "num_heads: 1",
    "base_channels: 32": "base_channels: 16",
}
"""A GPU decodes the pieces of many replies for little more than one, a CPU one after the other: that of the tests would
take most of the time at 8 calls, where the released one takes a third of the language models'."""


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What to load, for every benchmark of engines."""
    parser.add_argument("--checkpoint", default="", help="folder with real weights")
    parser.add_argument("--decoder", default="", help="folder of the decoder")
    parser.add_argument(
        "--load-format",
        choices=("auto", "dummy", "scaled", "small"),
        help="dummy: random weights of the released size (default on a GPU); scaled: random weights, as deep as "
        "the released model and a thirty-second as wide (default without one); small: the checkpoint of the tests, "
        "whose language models cost nothing beside its decoder; auto: real weights (default with --checkpoint)",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="any other option of the backend, repeatable"
    )


@contextmanager
def options_of(arguments: argparse.Namespace, max_calls: int) -> Iterator[dict[str, object]]:
    """The backend's options; the small checkpoint lies in a folder that is removed afterwards."""
    options: dict[str, object] = {
        "checkpoint": arguments.checkpoint,
        "decoder": arguments.decoder,
        "device": arguments.device,
        "dtype": arguments.dtype,
    }
    load_format = arguments.load_format or default_format(arguments)
    options["max_sequences"] = min(MAX_SEQUENCES, max(OpenS2SOptions().max_sequences, max_calls))
    for text in arguments.option:
        key, _, value = text.partition("=")
        options[key] = _value(value)
    with tempfile.TemporaryDirectory() as folder:
        if load_format == "small":
            options |= small_checkpoint(Path(folder))
        elif load_format == "scaled":
            options |= scaled_checkpoint(Path(folder))
        else:
            options["load_format"] = load_format
        yield options


def default_format(arguments: argparse.Namespace) -> str:
    """Of the weights, where nothing is said."""
    if arguments.checkpoint:
        return "auto"
    return "dummy" if resolve_device(arguments.device).type == "cuda" else "scaled"


def small_checkpoint(folder: Path) -> dict[str, object]:
    """A copy of the tests' checkpoint whose replies end at their limits alone, so that all systems speak for as long.

    One thread: matrices so small are not worth a second, and two that wait for each other suffer from other programs.

    Its few ids would let random weights sample an end within seconds. The rows of the ends in both heads become the
    mean of all rows: their logit is the mean of all logits, which is never among the 20 greatest."""
    checkpoint = Path(shutil.copytree(SMALL / "checkpoint", folder / "checkpoint"))
    weights = load_file(checkpoint / "model.safetensors")
    for prefix, name in (("llm_model", "generation_config.json"), ("tts_lm_model", "tts/generation_config.json")):
        path = checkpoint / name
        values = json.loads(path.read_text()) | {"top_k": SMALL_TOP_K}
        if prefix == "tts_lm_model":
            values["max_new_tokens"] = SMALL_MAX_UNITS
        path.write_text(json.dumps(values))
        head = weights[f"{prefix}.lm_head.weight"]
        head[values["eos_token_id"]] = head.mean(0)
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    return {"checkpoint": str(checkpoint), "decoder": str(SMALL / "decoder"), "load_format": "auto", "threads": 1}


def scaled_checkpoint(folder: Path) -> dict[str, object]:
    """Folders for dummy weights as deep as the released model and a thirty-second as wide; see `SCALED`."""
    options = small_checkpoint(folder)
    path = Path(str(options["checkpoint"])) / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {part: config[part] | values for part, values in SCALED.items()}))
    decoder = Path(shutil.copytree(SMALL / "decoder", folder / "decoder")) / "config.yaml"
    text = decoder.read_text()
    for before, after in SCALED_DECODER.items():
        assert text.count(before) == 1, (decoder, before)
        text = text.replace(before, after)
    decoder.write_text(text)
    # The ratios are about speed; who is let in is not what is compared.
    return options | {"decoder": str(decoder.parent), "load_format": "dummy", "admission": "none"}


def _without_ends(model: OpenS2S, checkpoint: Checkpoint) -> None:
    """Random weights end by chance; replies are to end at their limits. As `small_checkpoint` does it."""
    speech = model.speech.lm
    ends = checkpoint.vocabulary.ends if speech.rows is not None else checkpoint.speech_generation.end_ids
    for lm, ids in ((model.llm, checkpoint.text_generation.end_ids), (speech, ends)):
        head, rows = lm.lm_head, list(ids)
        if isinstance(head, EightBitLinear):
            mean = head.expanded(torch.float32).mean(0, keepdim=True)
            head.weight[rows], head.scale[rows] = narrow(mean, head.weight.dtype)
        else:
            head.weight.data[rows] = head.weight.data.mean(0)


@contextmanager
def system(name: str, options: dict[str, object]) -> Iterator[System]:
    """One system, loaded and warm; everything is given back at the end."""
    woken = threading.Event()
    device = resolve_device(str(options["device"]))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    made = _reference(options, woken) if name == REFERENCE else _engine(name, options, woken)
    try:
        made.engine.warm_up()
        yield made
    finally:
        made.engine.close()
        del made
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _engine(name: str, options: dict[str, object], woken: threading.Event) -> System:
    if name == BATCH1:
        options = options | {"max_batch": 1}
    engine = create(options, woken.set)
    parts = engine._parts
    if options.get("load_format") == "dummy" and parts is not None:
        _without_ends(parts.model, parts.checkpoint)
    return System(name, engine, woken, forget=engine.forget)


def _reference(options: dict[str, object], woken: threading.Event) -> System:
    """The same weights with the speech model's whole vocabulary, and the decoder in float32, as in the reference."""
    settings = OpenS2SOptions.from_mapping(options)
    device = resolve_device(settings.device)
    dtype = resolve_dtype(settings.dtype, device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.load_format == "dummy":
        checkpoint = open_checkpoint(settings.checkpoint_path) if settings.checkpoint else stand_in_checkpoint()
        config = (read_config(settings.decoder_path),) if settings.decoder else ()
        decoder = dummy_decoder(device, torch.float32, *config)
        model = dummy(checkpoint.config, None, device=device, dtype=dtype)
        _without_ends(model, checkpoint)
    else:
        checkpoint = open_checkpoint(settings.checkpoint_path)
        decoder = load_decoder(settings.decoder_path, device, torch.float32)
        model = checkpoint.load(device, dtype, restrict_head=False)
    loop = ReferenceLoop(checkpoint, model, decoder, woken.set, temperature=settings.temperature, top_p=settings.top_p)
    return System(REFERENCE, loop, woken, loop.announce, lambda: loop.busy_seconds)


def memory(device: torch.device) -> dict[str, float]:
    """Of the process and, on a GPU, the most that torch had allocated there since the system was loaded, in MB."""
    held = {"rss_mb": round(psutil.Process().memory_info().rss / 1e6, 1)}
    if device.type == "cuda":
        held["device_mb"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return held


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
