"""The decoder's files: config.yaml, flow.pt and hift.pt, checked tensor by tensor; or random weights without files.

Files are read as data (`weights_only`): a pickle that holds code is refused and nothing in it runs. Every key and shape
must be what the modules built from config.yaml expect, so a wrong or damaged file is found here and not in the sound.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.graphs import GraphPool

from .config import RELEASED, DecoderConfig
from .config_file import read_config
from .decoder import Decoder
from .errors import FETCH_COMMAND, MissingFileError, TensorError
from .flow import Flow
from .vocoder import FLOAT32_PARTS, Vocoder

FLOW_FILE = "flow.pt"
VOCODER_FILE = "hift.pt"
_GAIN, _DIRECTION = "weight_g", "weight_v"
_NAMED = 3  # tensors named in one message


def load_decoder(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Decoder:
    """The decoder in `folder` (config.yaml, flow.pt, hift.pt), ready to use.

    Raises DecoderError: MissingFileError, ConfigurationError or TensorError.
    """
    config = read_config(folder)
    flow, vocoder = build(config)
    _fill(flow, _checked(folder / FLOW_FILE, checkpoint_shapes(flow)), device, dtype)
    _fill(vocoder, _checked(folder / VOCODER_FILE, checkpoint_shapes(vocoder)), device, dtype)
    return Decoder(config, flow, vocoder)


def build(config: DecoderConfig, device: torch.device | str = "meta") -> tuple[Flow, Vocoder]:
    """Both modules with weights as torch initialises them; on "meta" they take no memory and no time."""
    pool = GraphPool()  # one for both: a piece goes through them one after the other
    with torch.device(device):
        return Flow(config.flow, pool), Vocoder(config.vocoder, pool)


def checkpoint_shapes(module: Flow | Vocoder) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor in the file of `module`."""
    folded = weight_normed(module) if isinstance(module, Vocoder) else frozenset()
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in module.state_dict().items():
        if name in folded:
            shapes[_part(name, _GAIN)] = (value.shape[0], *(1,) * (value.dim() - 1))
            shapes[_part(name, _DIRECTION)] = tuple(value.shape)
        else:
            shapes[name] = tuple(value.shape)
    return shapes


def weight_normed(vocoder: Vocoder) -> frozenset[str]:
    """Weights that the file holds as a gain and a direction: of all convolutions but those that take in the source."""
    return frozenset(
        f"{name}.weight"
        for name, module in vocoder.named_modules()
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)) and not name.startswith("source_downs.")
    )


def dummy_decoder(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: DecoderConfig = RELEASED,
    seed: int = 0,
) -> Decoder:
    """A decoder with random weights made on `device`, without files: for measurements and tests; it speaks noise.

    Scales keep activations near one, and the pitch near 120 Hz, so that every branch has something to do.
    """
    generator = torch.Generator(device).manual_seed(seed)
    flow, vocoder = build(config)
    for module in (flow, vocoder):
        values = {name: _random(name, tuple(value.shape), generator) for name, value in module.state_dict().items()}
        _assign(module, values, device, dtype)
    with torch.no_grad():
        vocoder.f0_predictor.classifier.bias.fill_(120.0)
        vocoder.f0_predictor.classifier.weight.mul_(10.0)
    return Decoder(config, flow, vocoder)


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    device = generator.device
    if len(shape) > 1:
        gain = 0.02 if name.endswith(("pos_bias_u", "pos_bias_v")) else 0.5 / math.sqrt(math.prod(shape[1:]))
        if name.endswith("input_embedding.weight"):
            gain = 1.0
        return torch.randn(shape, generator=generator, device=device) * gain
    if name.endswith(("weight", "alpha")):  # of normalisations and snakes
        return torch.ones(shape, device=device)
    return torch.randn(shape, generator=generator, device=device) * 0.02


def _fill(
    module: Flow | Vocoder, tensors: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
) -> None:
    values = dict(tensors)
    if isinstance(module, Vocoder):
        for name in weight_normed(module):
            gain, direction = values.pop(_part(name, _GAIN)).float(), values.pop(_part(name, _DIRECTION)).float()
            norm = torch.linalg.vector_norm(direction, dim=tuple(range(1, direction.dim())), keepdim=True)
            values[name] = gain * direction / norm
    _assign(module, values, device, dtype)


def _assign(
    module: Flow | Vocoder, values: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
) -> None:
    """Make `values` the module's weights, copied to `device`; parts that need it stay in float32."""
    state = {}
    for name, value in values.items():
        wide = isinstance(module, Vocoder) and name.startswith(FLOAT32_PARTS)
        # A copy even where nothing changes: the tensors of a file are views of it, and it may be replaced.
        state[name] = value.to(device=device, dtype=torch.float32 if wide else dtype, copy=True)
    module.load_state_dict(state, assign=True)


def _checked(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors of `path`, exactly those of `expected`."""
    tensors = _read(path)
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    if missing or extra:
        parts = [f"lacks {_names(missing)}"] if missing else []
        parts += [f"has {_names(extra)}, which config.yaml does not call for"] if extra else []
        raise TensorError(f"{path} {' and '.join(parts)}. {_remedy()}")
    for name, shape in expected.items():
        tensor = tensors[name]
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise TensorError(f"{path}: {name} is a {_kind(tensor)}, expected a plain tensor. {_remedy()}")
        if not tensor.is_floating_point():
            raise TensorError(f"{path}: {name} holds {tensor.dtype}, expected floating-point numbers. {_remedy()}")
        if tuple(tensor.shape) != shape:
            raise TensorError(
                f"{path}: {name} has shape {list(tensor.shape)}, expected {list(shape)} from config.yaml. {_remedy()}"
            )
    return tensors


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFileError(
            f"{path} does not exist; the decoder's folder holds config.yaml, flow.pt and hift.pt. "
            f"Run `{FETCH_COMMAND}` or name the folder that has them."
        )
    try:
        # Only the zip form, which every torch since 1.6 writes, can be mapped; the old one is read.
        content = torch.load(path, weights_only=True, mmap=zipfile.is_zipfile(path), map_location="cpu")
    except Exception as error:  # the unpickler meets hostile or damaged bytes: it raises nearly anything
        reason = " ".join(str(error).split())[:300]
        raise TensorError(
            f"{path} is not a complete file of tensors ({type(error).__name__}: {reason}); nothing in it was run. "
            f"{_remedy()}"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise TensorError(f"{path} holds a {_kind(content)}, expected a dictionary of named tensors. {_remedy()}")
    return content


def _part(name: str, part: str) -> str:
    return f"{name.removesuffix('weight')}{part}"


def _kind(value: object) -> str:
    return f"{value.layout} tensor" if isinstance(value, Tensor) else type(value).__name__


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _remedy() -> str:
    return f"Run `{FETCH_COMMAND}` to get the released files again, or correct config.yaml."
