"""Everything that the engine computes with, from files or as dummies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from model.decoder.config_file import read_config as read_decoder_config
from model.decoder.decoder import Decoder
from model.decoder.weights import dummy_decoder, load_decoder
from model.opens2s.checkpoint import Checkpoint, open_checkpoint
from model.opens2s.model import OpenS2S, build, dummy, inspect
from model.opens2s.model import load as load_weights
from model.opens2s.precision import DTYPES, Quantization, quantize, resolve_device, resolve_dtype
from model.opens2s.stand_in import stand_in_checkpoint

from .options import OpenS2SOptions
from .voices import load_voices


@dataclass(frozen=True, slots=True)
class Parts:
    """What one engine process holds."""

    checkpoint: Checkpoint
    model: OpenS2S
    decoder: Decoder
    voices: Mapping[str, Tensor | None]


def load_parts(options: OpenS2SOptions) -> Parts:
    """Load checkpoint, decoder and voices. Raises ValueError: CheckpointError, DecoderError, or for an option.

    With `load_format` "dummy" the sizes are those of the folders that are named, else the released ones."""
    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    if options.threads:
        torch.set_num_threads(options.threads)
    voices = load_voices(options.voices)
    is_dummy = options.load_format == "dummy"
    checkpoint = (
        stand_in_checkpoint() if is_dummy and not options.checkpoint else open_checkpoint(options.checkpoint_path)
    )
    if device.type == "cuda":
        torch.cuda.set_device(device.index or 0)  # recordings are made on the current device
    if device.type == "cuda" and dtype != torch.float32:  # whoever asks for float32 gets all of it
        # The decoder's float32 products in 10 bits of mantissa (TF32): its mel changes by 2e-4 of its size, and a piece
        # takes 53 instead of 67 ms, with 4 s of context 70 instead of 111 (H200).
        torch.set_float32_matmul_precision("high")
    rows = checkpoint.vocabulary.rows
    if not is_dummy:
        inspect(checkpoint.folder, checkpoint.config, rows)
    check_memory(build(checkpoint.config, rows, device="meta"), dtype, device)
    decoder = _decoder(options, device, is_dummy)
    if checkpoint.vocabulary.num_units > decoder.num_codes:
        raise ValueError(
            f"{checkpoint.folder} makes {checkpoint.vocabulary.num_units} kinds of speech tokens, the decoder in "
            f"{options.decoder_path} knows {decoder.num_codes}. They do not belong together."
        )
    load = dummy if is_dummy else partial(load_weights, checkpoint.folder)
    model = load(checkpoint.config, rows, device=device, dtype=dtype)
    for name, embedding in voices.items():
        if not torch.isfinite(model.speech.speaker(embedding)).all():
            raise ValueError(f"Voice {name!r} is too large for {dtype}: the model makes no finite number of it.")
    quantize(model, cast(Quantization, options.quantization))
    return Parts(checkpoint, model, decoder, voices)


def check_memory(model: OpenS2S, dtype: torch.dtype, device: torch.device) -> None:
    """Raises ValueError when the weights cannot fit, before the machine finds out by itself."""
    needed = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    if device.type == "cuda":
        free, place = torch.cuda.mem_get_info(device)[0], str(device)
    else:
        free, place = free_memory(), "this machine"
    if needed > free:
        raise ValueError(
            f"The weights take {needed / 1e9:.1f} GB as {str(dtype).removeprefix('torch.')}; {place} has "
            f"{free / 1e9:.1f} GB free. Use a larger device, or a smaller dtype."
        )


def free_memory() -> int:
    """Bytes that the machine has left."""
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _decoder(options: OpenS2SOptions, device: torch.device, is_dummy: bool) -> Decoder:
    dtype = DTYPES[options.decoder_dtype]
    if not is_dummy:
        return load_decoder(options.decoder_path, device, dtype)
    if options.decoder:
        return dummy_decoder(device, dtype, read_decoder_config(options.decoder_path))
    return dummy_decoder(device, dtype)
