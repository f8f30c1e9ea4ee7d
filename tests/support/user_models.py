"""What users might bring: `support.user_models:<name>` as `spec.model.factory`."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

VOCABULARY = 61


class Tokens(nn.Module):
    """Ids [B, T] to logits [B, T, V], with torch's own dropout."""

    def __init__(self, width: int = 24, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for layer in self.hidden:
            x = self.dropout(torch.relu(layer(x)))
        return self.output(x)


class Misbehaving(Tokens):
    """In the training passes `calls` of rank `rank` (-1: of all), does what `action` says."""

    def __init__(self, rank: int, calls: list[int], action: str) -> None:
        super().__init__()
        self._rank, self._calls, self._action, self._count = rank, calls, action, 0

    def forward(self, ids: Tensor) -> Tensor:
        output = super().forward(ids)
        if self.training:
            self._count += 1
            if self._rank in (-1, dist.get_rank()) and self._count in self._calls:
                return self._act(output)
        return output

    def _act(self, output: Tensor) -> Tensor:
        match self._action:
            case "raise":
                raise ValueError("shapes of my own do not fit")
            case "exhaust":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            case "overflow":
                return output * 1e7
            case "nan":
                return output * float("nan")
            case "spike":
                return output * 1e3
        raise AssertionError(self._action)


class WithIdleParameter(Tokens):
    """Has a parameter that takes no part in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.forgotten = nn.Linear(4, 4)


class WithStatistics(Tokens):
    """Has a buffer that training changes and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        return super().forward(ids) * (1 + 0.01 * self.seen)


class Flat(nn.Module):
    """A model without repeated layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        return self.embedding(ids)
