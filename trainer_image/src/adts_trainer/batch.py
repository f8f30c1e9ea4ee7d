"""What travels from the data to the model: one batch, and the facts of a data set that a model needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

IGNORED_TARGET = -100
"""Target of a position that carries no loss, torch's own convention."""

Task = Literal["tokens", "classification", "regression"]


@dataclass(frozen=True)
class DataFacts:
    """What the data says about the model it wants. A size of 0 means: the data does not say."""

    task: Task
    vocabulary_size: int = 0
    """tokens: ids are in [0, vocabulary_size)."""
    input_size: int = 0
    """classification and regression: features of one input."""
    output_size: int = 0
    """classes, or regression targets."""
    tokenizer: str = ""
    """tokens: `bytes` or the path of a tokenizer.json, if known."""


@dataclass(frozen=True)
class Batch:
    """B samples.

    task            inputs          targets
    tokens          int64 [B, T]    int64 [B, T], IGNORED_TARGET where there is no loss
    classification  float [B, F]    int64 [B]
    regression      float [B, F]    float [B, O]
    """

    inputs: Tensor
    targets: Tensor
    keys: Tensor
    """int64 [B]: dropout keys, a function of (seed, step, sample id)."""

    def __len__(self) -> int:
        return self.inputs.shape[0]

    @property
    def valid(self) -> int:
        """Targets that carry loss: tokens, or rows of an mlp's batch. Ask before `to`: on a GPU this would wait."""
        if self.targets.dtype == torch.int64:
            return int((self.targets != IGNORED_TARGET).sum())
        return len(self)

    def to(self, device: torch.device | str, float_dtype: torch.dtype) -> Batch:
        """The batch on a device; floating tensors in `float_dtype`."""

        def move(tensor: Tensor) -> Tensor:
            dtype = float_dtype if tensor.is_floating_point() else tensor.dtype
            return tensor.to(device=device, dtype=dtype, non_blocking=True)

        return Batch(move(self.inputs), move(self.targets), move(self.keys))

    def only(self, count: int) -> Batch:
        """The batch with no loss on the samples after the first `count`. Targets must be token ids or classes."""
        targets = self.targets.clone()
        targets[count:] = IGNORED_TARGET
        return replace(self, targets=targets)

    def split(self, parts: int) -> list[Batch]:
        """Equal micro-batches in order. Raises ValueError where B is not a multiple of `parts`."""
        if len(self) % parts:
            raise ValueError(f"{len(self)} samples do not split into {parts} equal micro-batches")
        pieces = zip(self.inputs.chunk(parts), self.targets.chunk(parts), self.keys.chunk(parts), strict=True)
        return [Batch(*piece) for piece in pieces]
