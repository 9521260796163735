"""The parity fixtures of OpenS2S: what the reference computed, and the small checkpoint that it computed it with.

`OPENS2S_FIXTURES` names another folder of the same layout; its sizes, seeds, window lengths, interleaving and
vocabularies are read from its files. Layout: tests/data/opens2s/README.md.
"""

from __future__ import annotations

import json
import os
import re
import wave
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BUNDLED = Path(__file__).resolve().parent.parent / "data" / "opens2s"

# What `manifest.json` says where it says nothing.
DEFAULT_TOLERANCES = {"features": 1e-4, "logits": 2e-4, "mel": 1e-3, "wav": 2e-3}


class Fixtures:
    """One folder of fixtures."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkpoint = root / "checkpoint"
        """Small OpenS2S checkpoint in the released layout."""
        self.decoder = root / "decoder"
        """Small decoder: config.yaml, flow.pt, hift.pt."""

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """All arrays of `name`.npz."""
        with np.load(self.root / f"{name}.npz") as file:
            return {key: file[key] for key in file.files}

    def json(self, name: str) -> Any:
        return json.loads((self.root / f"{name}.json").read_text(encoding="utf-8"))

    def pcm(self, name: str) -> NDArray[np.int16]:
        """audio_in/`name`.wav: int16 [samples] at 16 kHz mono."""
        with wave.open(str(self.root / "audio_in" / f"{name}.wav")) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
            return np.frombuffer(file.readframes(file.getnframes()), np.int16)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return self.json("manifest")

    def tolerance(self, kind: str) -> float:
        """Absolute tolerance of "features", "logits", "mel" or "wav", from the manifest's own words."""
        for name, text in self.manifest.get("tolerance_hint", {}).items():
            match = re.search(r"abs\s+([0-9.eE+-]+)", text)
            if kind in name and match:
                return float(match[1].rstrip("."))
        return DEFAULT_TOLERANCES[kind]


def load_fixtures() -> Fixtures:
    """The folder that `OPENS2S_FIXTURES` names, else the bundled one."""
    return Fixtures(Path(os.environ.get("OPENS2S_FIXTURES") or BUNDLED).expanduser().resolve())
