"""Optimizers, learning-rate schedules, and the global gradient norm."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, AdamW

from adts_api import training
from adts_trainer.errors import UserCodeError


def build_optimizer(module: nn.Module, spec: training.Optimizer) -> torch.optim.Optimizer:
    """AdamW (1711.05101) or SGD over the trainable parameters. Matrices decay; norms, biases and vectors do not.

    Raises UserCodeError where nothing is trainable.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise UserCodeError("spec.model: has no trainable parameter; set requires_grad = True on those to train")
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if spec.name == "sgd":
        return SGD(groups, lr=spec.learning_rate, momentum=spec.momentum, fused=True)
    return AdamW(groups, lr=spec.learning_rate, betas=(spec.beta1, spec.beta2), eps=spec.epsilon, fused=True)


def learning_rate(spec: training.Optimizer, steps: int, step: int) -> float:
    """Learning rate of update `step` (0-based) of `steps`: linear warm-up from 0, then the schedule's curve.

    cosine and linear fall from the end of the warm-up over `decaySteps` (0: to the end) to minRatio and stay there;
    wsd stays at the peak and falls linearly over its last `decaySteps` (0: a fifth of the steps).
    """
    schedule = spec.schedule
    if step < schedule.warmup_steps:
        return spec.learning_rate * (step + 1) / schedule.warmup_steps
    if schedule.type == "constant":
        return spec.learning_rate
    if schedule.type == "wsd":
        length = schedule.decay_steps or steps // 5
        start = steps - length
    else:
        start = schedule.warmup_steps
        length = schedule.decay_steps or steps - start
    progress = min(1.0, max(0.0, (step - start) / max(1, length)))
    remaining = (1 + math.cos(math.pi * progress)) / 2 if schedule.type == "cosine" else 1 - progress
    return spec.learning_rate * (schedule.min_ratio + (1 - schedule.min_ratio) * remaining)


def local_gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradients this rank holds: whole, or its shard of each."""
    gradients = (parameter.grad for parameter in parameters)
    return [_local(gradient) for gradient in gradients if gradient is not None]


def global_norm(gradients: list[Tensor], *, sharded: bool) -> float:
    """Euclidean norm of the whole gradient. `sharded`: every rank holds a part of it, and all ranks call this.

    Squares are added in fp64, so that a large but finite norm stays finite.
    """
    norm = torch.nn.utils.get_total_norm(gradients).double()
    if sharded:
        norm = norm.square()
        dist.all_reduce(norm)
        norm = norm.sqrt()
    return norm.item()


def scale_gradients(gradients: Iterable[Tensor], factor: float) -> None:
    """Multiply in place; nothing is touched for a factor of 1."""
    if factor != 1.0:
        torch._foreach_mul_(list(gradients), factor)


def clip_factor(norm: float, clip_norm: float) -> float:
    """What brings a gradient of this norm to at most `clip_norm`; 0 never clips."""
    return clip_norm / norm if clip_norm and norm > clip_norm else 1.0


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
