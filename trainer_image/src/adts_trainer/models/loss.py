"""Losses as sums over valid targets, in fp32 (fp64 for fp64 outputs): the loop divides by the global count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from adts_trainer.batch import IGNORED_TARGET

_CHUNK_ENTRIES = 1 << 24


@dataclass(frozen=True)
class VocabularyPart:
    """The logits that one tensor-parallel rank has of each row: those of ids from `first` on."""

    group: dist.ProcessGroup
    first: int


class _CrossEntropySum(torch.autograd.Function):
    """Cross-entropy without a second copy of the logits: fp32 exists for one chunk of rows at a time.

    Saved for backward are the logits as they came and one logsumexp a row. The gradient of a row is
    softmax(logits) - onehot(target), or 0 where the target is ignored. With a part of the vocabulary the ranks exchange
    three numbers a row, never logits (1909.08053, section 3).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, part: VocabularyPart | None) -> Tensor:
        total = torch.zeros((), dtype=precise_type(logits.dtype), device=logits.device)
        sums = []
        for rows, row_targets in _chunks(logits, targets):
            lse, chosen = _lse_and_chosen(rows.to(total.dtype), row_targets, part)
            total = total + torch.where(row_targets == IGNORED_TARGET, 0.0, lse - chosen).sum()
            sums.append(lse)
        ctx.save_for_backward(logits, targets, torch.cat(sums))
        ctx.part = part
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits, targets, lse = ctx.saved_tensors
        result = torch.empty_like(logits)
        start = 0
        for rows, row_targets in _chunks(logits, targets):
            stop = start + len(rows)
            precise = torch.exp(rows.to(lse.dtype) - lse[start:stop, None])
            index, is_here = _index(row_targets, ctx.part, logits.shape[-1])
            precise.scatter_(-1, index, precise.gather(-1, index) - is_here.to(precise.dtype))
            scale = torch.where(row_targets == IGNORED_TARGET, 0.0, grads[0])
            result[start:stop] = precise.mul_(scale[:, None])
            start = stop
        return result, None, None


def _lse_and_chosen(rows: Tensor, targets: Tensor, part: VocabularyPart | None) -> tuple[Tensor, Tensor]:
    """Logsumexp [N] of rows [N, V] and the logit [N] of each target, over the whole vocabulary."""
    index, is_here = _index(targets, part, rows.shape[-1])
    chosen = rows.gather(-1, index).squeeze(-1)
    if part is None:
        return torch.logsumexp(rows, dim=-1), chosen
    largest = rows.amax(dim=-1)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=part.group)
    own = torch.exp(rows - largest[:, None]).sum(dim=-1)
    both = torch.stack((own, torch.where(is_here.squeeze(-1), chosen, 0.0)))
    dist.all_reduce(both, group=part.group)
    return both[0].log() + largest, both[1]


def _index(targets: Tensor, part: VocabularyPart | None, size: int) -> tuple[Tensor, Tensor]:
    """Column [N, 1] of each target among the `size` that are here, and whether it is one of them [N, 1]."""
    column = targets.clamp(min=0)[:, None] - (part.first if part else 0)
    is_here = (column >= 0) & (column < size)
    return torch.where(is_here, column, 0), is_here


def _chunks(logits: Tensor, targets: Tensor) -> Any:
    rows = max(1, _CHUNK_ENTRIES // logits.shape[-1])
    return zip(logits.split(rows), targets.split(rows), strict=True)


def precise_type(dtype: torch.dtype) -> torch.dtype:
    """The type losses are computed in: fp64 for fp64, else fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def cross_entropy_sum(logits: Tensor, targets: Tensor, part: VocabularyPart | None = None) -> Tensor:
    """Scalar: sum over targets [...] (int64, IGNORED_TARGET skipped) of -log softmax(logits [..., V])[target], nats.

    With a `part`, logits are this rank's, and every rank of its group gets the same sum.
    """
    return _CrossEntropySum.apply(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), part)


def squared_error_sum(outputs: Tensor, targets: Tensor) -> Tensor:
    """Scalar: sum over rows of the mean squared error of outputs [B, O] against targets [B, O]."""
    dtype = precise_type(outputs.dtype)
    return F.mse_loss(outputs.to(dtype), targets.to(dtype), reduction="none").mean(dim=-1).sum()
