"""The tensors of a checkpoint folder: one safetensors file, or shards with an index.

Headers are read first and everything is checked before a byte of weights moves. Shards are then opened one after the
other and their tensors copied straight into the parameters, on whatever device and of whatever dtype these are; on the
host there is never more than one shard in memory, as pages of its file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .config import read_json
from .errors import FETCH_COMMAND, ConfigurationError, MissingFileError, TensorError
from .tensors import Target

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
FLOATING = ("BF16", "F16", "F32")
MAX_NAMED = 5
"""Tensors that one message names."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as its file's header describes it."""

    path: Path
    shape: tuple[int, ...]
    dtype: str
    """In safetensors' spelling: BF16, F16, F32, I64, ..."""


def read_headers(checkpoint: Path) -> dict[str, StoredTensor]:
    """Name -> where and what, of all tensors. Raises MissingFileError, ConfigurationError or TensorError."""
    index = checkpoint / INDEX_FILE
    if not index.is_file():
        return _read_header(_single(checkpoint))
    files = _files_of(index)
    stored: dict[str, StoredTensor] = {}
    for name in sorted(set(files.values())):
        path = checkpoint / name
        if not path.is_file():
            raise MissingFileError(f"{path} is missing; {index.name} names it. Run `{FETCH_COMMAND}` to fetch it.")
        for key, tensor in _read_header(path).items():
            if key in stored:
                raise TensorError(f"Tensor {key} is in {stored[key].path} and in {path}. Run `{FETCH_COMMAND}`.")
            stored[key] = tensor
    for key, name in files.items():
        if key not in stored or stored[key].path.name != name:
            raise TensorError(f"{index} says that tensor {key} is in {name}; it is not. Run `{FETCH_COMMAND}`.")
    return stored


def check(targets: Iterable[Target], stored: Mapping[str, StoredTensor], checkpoint: Path) -> None:
    """Every target's tensor is there with the right shape and a floating type, and nothing else is.

    Raises TensorError that names the tensors."""
    known = {target.name: target for target in targets if target.name}
    missing = [name for name, target in known.items() if name not in stored and not target.is_optional]
    if missing:
        raise TensorError(f"{checkpoint} lacks {_names(missing)}, which config.json calls for. Run `{FETCH_COMMAND}`.")
    extra = [name for name in stored if name not in known and not name.endswith("rotary_emb.inv_freq")]
    if extra:
        raise TensorError(
            f"{checkpoint} has {_names(extra)}, which this model has no place for. Run `{FETCH_COMMAND}`."
        )
    for name, tensor in stored.items():
        target = known.get(name)
        if target is None:
            continue
        if tensor.dtype not in FLOATING:
            raise TensorError(
                f"{tensor.path}: tensor {name} is {tensor.dtype}; expected {', '.join(FLOATING)}. "
                f"Run `{FETCH_COMMAND}` to fetch it again."
            )
        if tensor.shape != target.shape:
            raise TensorError(
                f"{tensor.path}: tensor {name} has shape {list(tensor.shape)}; config.json calls for "
                f"{list(target.shape)}. One of them is of another checkpoint; run `{FETCH_COMMAND}`."
            )


@torch.inference_mode()
def fill(targets: Iterable[Target], stored: Mapping[str, StoredTensor]) -> None:
    """Copy the checked tensors into their targets, shard by shard. Raises TensorError for a damaged file."""
    by_path: dict[Path, list[Target]] = {}
    for target in targets:
        if not target.name:
            target.tensor.zero_()
        elif target.name in stored:
            by_path.setdefault(stored[target.name].path, []).append(target)
    for path, wanted in sorted(by_path.items()):
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                for target in wanted:
                    _copy(file, target)
        except (SafetensorError, OSError) as error:
            raise _damaged(path, error) from None


def _copy(file: Any, target: Target) -> None:
    if target.rows is None:
        target.tensor.copy_(file.get_tensor(target.name))
        return
    part = file.get_slice(target.name)
    start = 0
    for first, last in _runs(target.rows):
        size = last - first
        target.tensor[start : start + size].copy_(part[first:last])
        start += size


def _runs(rows: Iterable[int]) -> list[tuple[int, int]]:
    """Ranges of ids that follow each other, as (first, last + 1)."""
    runs: list[tuple[int, int]] = []
    for row in rows:
        if runs and runs[-1][1] == row:
            runs[-1] = (runs[-1][0], row + 1)
        else:
            runs.append((row, row + 1))
    return runs


def _single(checkpoint: Path) -> Path:
    path = checkpoint / SINGLE_FILE
    if path.is_file():
        return path
    pickles = sorted(file.name for file in checkpoint.glob("*.bin"))
    if pickles:
        raise MissingFileError(
            f"{checkpoint} has weights as pickles ({pickles[0]}); they can run code and are not loaded. "
            f"Run `{FETCH_COMMAND}` to get them as safetensors."
        )
    raise MissingFileError(f"{checkpoint} has neither {INDEX_FILE} nor {SINGLE_FILE}. Run `{FETCH_COMMAND}`.")


def _files_of(index: Path) -> dict[str, str]:
    values = read_json(index)
    files = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(files, dict) or not files or not all(isinstance(name, str) for name in files.values()):
        raise ConfigurationError(f"{index} has no weight_map from tensors to files. Run `{FETCH_COMMAND}`.")
    for name in files.values():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ConfigurationError(
                f"{index} names the file {name!r:.80}; expected a .safetensors file beside it. Run `{FETCH_COMMAND}`."
            )
    return files


def _read_header(path: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            return {name: StoredTensor(path, tuple(p.get_shape()), p.get_dtype()) for name, p in parts.items()}
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> TensorError:
    return TensorError(f"{path} is damaged or cut short ({error}). Run `{FETCH_COMMAND}` to fetch it again.")


def _names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"tensor {', '.join(names[:MAX_NAMED])}{more}"
