"""Where each tensor of a checkpoint goes: its name there, and the part of a parameter here that it fills."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Target:
    """One tensor to be filled. Projections that are fused here have several, each a slice of one parameter."""

    name: str
    """Key in the checkpoint; "" for a tensor that the checkpoint does not have and that is zero."""
    tensor: Tensor
    """View of a parameter."""
    rows: Sequence[int] | None = None
    """Which rows of the checkpoint's tensor; None means all."""
    num_rows: int = 0
    """How many rows it has there, where only some are taken."""
    is_optional: bool = False
    """May be absent: a head that is the embedding table."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the checkpoint."""
        return tuple(self.tensor.shape) if self.rows is None else (self.num_rows, *self.tensor.shape[1:])


def targets_of(name: str, module: nn.Module) -> Iterator[Target]:
    """All own parameters of a module that the checkpoint has under the same names."""
    for parameter_name, parameter in module.named_parameters(recurse=False):
        yield Target(f"{name}.{parameter_name}", parameter.data)
