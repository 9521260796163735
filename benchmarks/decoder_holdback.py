"""How many mel frames a live reply must hold back, and how much of the past each piece must see.

    python -m benchmarks.decoder_holdback                  the small random decoder of the tests
    python -m benchmarks.decoder_holdback --decoder DIR    real weights: config.yaml, flow.pt, hift.pt
    python -m benchmarks.decoder_holdback --dummy          random weights of the released size
    python -m benchmarks.decoder_holdback --quick          fewer replies and settings

Each reply is decoded whole and in pieces of 10, 10, 20, 20, ... units. Columns:
mel near, mel far   RMS difference to the whole over its standard deviation: within 4 frames of where a piece ends, and
                    more than 34 frames from there. Where both are equal, more hold-back gains nothing
mel step            change from the last frame of a piece to the next one, over that of the whole there (1 is ideal)
sound               RMS difference of the samples to the whole, over its RMS. Large once the pitch differs a little
click               size of the second difference of the samples at a border over its median elsewhere (1 is ideal)
Random weights show how far the layers reach, not how speech sounds: whoever has the weights should run it with them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.support.machine import ROOT, provenance
from model.decoder.decoder import Decoder
from model.decoder.live_stream import LiveStream
from model.decoder.live_window import LiveOptions
from model.decoder.weights import dummy_decoder, load_decoder

HOLD_BACKS = (0, 4, 8, 12, 16, 24, 34)
LEFT_CONTEXTS = (16, 43, 86, 172, 344, 688)
PIECES = (10, 10, 20, 20)  # the last one repeats
NEAR_FRAMES = 4
FAR_FRAMES = 34
CLICK_SAMPLES = 16  # to each side of a border


@dataclass(frozen=True, slots=True)
class Reply:
    """One decoded reply."""

    mel: NDArray[np.float32]
    """[mel bins, T]"""
    sound: NDArray[np.float32]
    borders: tuple[int, ...]
    """Frames where one piece ended and the next began."""


def decode(decoder: Decoder, codes: Sequence[int], options: LiveOptions, pieces: Sequence[int]) -> Reply:
    mels: list[NDArray[np.float32]] = []
    sounds, borders = [], [0]
    stream = LiveStream(decoder, options, on_mel=lambda mel: mels.append(mel[0].cpu().numpy()))
    given = 0
    for size in pieces:
        piece = codes[given : given + size]
        given += len(piece)
        sound = stream.decode(piece, given == len(codes))
        sounds.append(sound)
        borders.append(stream.num_samples // decoder.config.vocoder.frame_samples)
        if given == len(codes):
            break
    stream.close()
    return Reply(np.concatenate(mels, 1), np.concatenate(sounds), tuple(borders[1:-1]))


def pieces_of(units: int) -> list[int]:
    sizes = list(PIECES)
    while sum(sizes) < units:
        sizes.append(PIECES[-1])
    return sizes


def compare(whole: Reply, cut: Reply, frame: int) -> dict[str, float]:
    scale = float(whole.mel.std())
    error = ((cut.mel - whole.mel) / scale) ** 2
    distance = np.abs(np.arange(cut.mel.shape[1])[:, None] + 0.5 - np.array(cut.borders)).min(1)
    steps = [
        float(np.linalg.norm(cut.mel[:, b] - cut.mel[:, b - 1]) / np.linalg.norm(whole.mel[:, b] - whole.mel[:, b - 1]))
        for b in cut.borders
    ]
    bend = np.abs(np.diff(cut.sound, 2))
    typical = float(np.median([bend[at : at + 2 * CLICK_SAMPLES].max() for at in range(0, len(bend) - 32, 32)]))
    clicks = [float(bend[b * frame - CLICK_SAMPLES : b * frame + CLICK_SAMPLES].max()) / typical for b in cut.borders]
    return {
        "mel_near": float(np.sqrt(error[:, distance < NEAR_FRAMES].mean())),
        "mel_far": float(np.sqrt(error[:, distance > FAR_FRAMES].mean())),
        "mel_step": float(np.mean(steps)),
        "sound": float(np.sqrt(np.mean((cut.sound - whole.sound) ** 2) / np.mean(whole.sound**2))),
        "click": float(np.mean(clicks)),
    }


def measure(
    decoder: Decoder, replies: Sequence[Sequence[int]], wholes: Sequence[Reply], options: LiveOptions
) -> dict[str, float]:
    frame = decoder.config.vocoder.frame_samples
    started = time.perf_counter()
    rows = [
        compare(whole, decode(decoder, codes, options, pieces_of(len(codes))), frame)
        for codes, whole in zip(replies, wholes, strict=True)
    ]
    seconds = time.perf_counter() - started
    spoken = sum(len(whole.sound) for whole in wholes) / decoder.sample_rate
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} | {"x_real_time": seconds / spoken}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoder", type=Path, default=ROOT / "tests" / "data" / "opens2s" / "decoder")
    parser.add_argument("--dummy", action="store_true", help="random weights of the released size")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="write the result there too")
    arguments = parser.parse_args()

    decoder = dummy_decoder(arguments.device) if arguments.dummy else load_decoder(arguments.decoder, arguments.device)
    units, count = (70, 1) if arguments.quick else (110, 3)
    random = np.random.default_rng(0)
    replies = [random.integers(0, decoder.num_codes, units).tolist() for _ in range(count)]
    generous = LiveOptions(left_context_frames=decoder.frames(units))
    wholes = [decode(decoder, codes, generous, [units]) for codes in replies]
    # Hold-backs are compared with all of the past in view, so that only the missing future makes a difference.
    holds, contexts = (HOLD_BACKS[::3], LEFT_CONTEXTS[::3]) if arguments.quick else (HOLD_BACKS, LEFT_CONTEXTS)
    settings = [replace(generous, hold_back_frames=frames) for frames in holds]
    settings += [LiveOptions(left_context_frames=frames) for frames in contexts]
    weights = "random, released size" if arguments.dummy else str(arguments.decoder)
    console = Console()
    table = Table(title=f"{count} replies of {units} units; weights: {weights}; torch {torch.__version__}")
    for name in ("hold-back", "ms", "left context", "mel near", "mel far", "mel step", "sound", "click", "x real time"):
        table.add_column(name, justify="right")
    rows = []
    for options in settings:
        found = measure(decoder, replies, wholes, options)
        rows.append({**asdict(options), **{key: round(value, 4) for key, value in found.items()}})
        ms = options.hold_back_frames * decoder.config.vocoder.frame_samples * 1000 / decoder.sample_rate
        values = [f"{found[key]:.3f}" for key in ("mel_near", "mel_far", "mel_step", "sound", "click", "x_real_time")]
        table.add_row(str(options.hold_back_frames), f"{ms:.0f}", str(options.left_context_frames), *values)
    console.print(table)
    if arguments.json is not None:
        result = {
            **provenance(),
            "torch": torch.__version__,
            "weights": weights,
            "device": arguments.device,
            "units": units,
            "rows": rows,
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
