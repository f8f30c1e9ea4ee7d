"""Losses as sums over valid targets, in fp32 (fp64 for fp64 outputs): the loop divides by the global count."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adts_trainer.batch import IGNORED_TARGET

_CHUNK_ENTRIES = 1 << 24


class _CrossEntropySum(torch.autograd.Function):
    """Cross-entropy without a second copy of the logits: fp32 exists for one chunk of rows at a time.

    Saved for backward are the logits as they came and one logsumexp a row. The gradient of a row is
    softmax(logits) - onehot(target), or 0 where the target is ignored.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        total = torch.zeros((), dtype=precise_type(logits.dtype), device=logits.device)
        sums = []
        for rows, row_targets in _chunks(logits, targets):
            precise = rows.to(total.dtype)
            lse = torch.logsumexp(precise, dim=-1)
            chosen = precise.gather(-1, row_targets.clamp(min=0)[:, None]).squeeze(-1)
            total = total + torch.where(row_targets == IGNORED_TARGET, 0.0, lse - chosen).sum()
            sums.append(lse)
        ctx.save_for_backward(logits, targets, torch.cat(sums))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, targets, lse = ctx.saved_tensors
        result = torch.empty_like(logits)
        start = 0
        for rows, row_targets in _chunks(logits, targets):
            stop = start + len(rows)
            precise = torch.exp(rows.to(lse.dtype) - lse[start:stop, None])
            index = row_targets.clamp(min=0)[:, None]
            precise.scatter_(-1, index, precise.gather(-1, index) - 1.0)
            scale = torch.where(row_targets == IGNORED_TARGET, 0.0, grads[0])
            result[start:stop] = precise.mul_(scale[:, None])
            start = stop
        return result, None


def _chunks(logits: Tensor, targets: Tensor) -> Any:
    rows = max(1, _CHUNK_ENTRIES // logits.shape[-1])
    return zip(logits.split(rows), targets.split(rows), strict=True)


def precise_type(dtype: torch.dtype) -> torch.dtype:
    """The type losses are computed in: fp64 for fp64, else fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Scalar: sum over targets [...] (int64, IGNORED_TARGET skipped) of -log softmax(logits [..., V])[target], nats."""
    return _CrossEntropySum.apply(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


def squared_error_sum(outputs: Tensor, targets: Tensor) -> Tensor:
    """Scalar: sum over rows of the mean squared error of outputs [B, O] against targets [B, O]."""
    dtype = precise_type(outputs.dtype)
    return F.mse_loss(outputs.to(dtype), targets.to(dtype), reduction="none").mean(dim=-1).sum()
