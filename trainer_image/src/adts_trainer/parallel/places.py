"""What one rank holds of a model, by the names of the whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor, nn

from adts_trainer.communication.bucket_layout import local
from adts_trainer.model import BuiltModel, Loss
from adts_trainer.parallel.tensor import Cut


@dataclass(frozen=True)
class Place:
    """One parameter of this rank."""

    name: str
    """In the whole model."""
    parameter: nn.Parameter
    cut: Cut | None = None
    """Where tensor parallelism cut it."""
    is_copy: bool = False
    """An output matrix that is the token embedding of another pipeline stage."""
    sees_a_part: bool = False
    """It is whole, but sees only this rank's positions of the sequence."""

    @property
    def own_name(self) -> str:
        """Unlike any other of this rank, which may hold both the embedding and its copy."""
        return f"{self.name}#copy" if self.is_copy else self.name

    @property
    def gradient(self) -> Tensor | None:
        """What this rank holds of it."""
        return None if self.parameter.grad is None else local(self.parameter.grad)


@dataclass(frozen=True)
class Layout:
    """A rank's part of the model, and who else has what of it."""

    built: BuiltModel
    """What the spec asks for; its module is the first of `parts`."""
    parts: list[nn.Module]
    """The model, or this rank's pipeline stages of it."""
    places: list[Place]
    loss: Loss
    tied: dist.ProcessGroup | None = None
    """Ranks of the embedding and of its copy, where they are two."""
