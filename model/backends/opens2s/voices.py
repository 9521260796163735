"""Voices by name: speaker embeddings from files of the operator's own."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.opens2s.config import SPEAKER_DIM

DEFAULT_VOICE = "default"


def load_voices(files: Mapping[str, str]) -> dict[str, Tensor | None]:
    """Name -> embedding, float32 [512]; "default" is first, and None (zeros: the released voice) unless it is named.

    Raises ValueError that names the file."""
    voices: dict[str, Tensor | None] = {DEFAULT_VOICE: None}
    for name, file in files.items():
        voices[name] = _read(name, Path(file).expanduser())
    return voices


def _read(name: str, path: Path) -> Tensor:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            values = loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
    except FileNotFoundError:
        raise ValueError(f"Voice {name!r}: there is no file {path}.") from None
    except (OSError, ValueError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"Voice {name!r}: {path} cannot be read as an array ({error}).") from None
    flat = np.ravel(values)
    if flat.shape != (SPEAKER_DIM,) or flat.dtype.kind not in "fiu":
        raise ValueError(
            f"Voice {name!r}: {path} holds {values.dtype} of shape {list(values.shape)}; "
            f"expected {SPEAKER_DIM} numbers."
        )
    embedding = torch.from_numpy(flat.astype(np.float32))
    if not torch.isfinite(embedding).all():
        raise ValueError(f"Voice {name!r}: {path} holds numbers that are not finite.")
    return embedding
