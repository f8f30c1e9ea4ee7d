"""Optimizers, learning-rate schedules, and clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from adts_api import training
from adts_trainer.errors import UserCodeError
from adts_trainer.onebit_adam import OneBitAdam


def build_optimizer(
    parameters: Iterable[nn.Parameter], spec: training.Optimizer, warmup: int = 0
) -> torch.optim.Optimizer:
    """AdamW (1711.05101), SGD, or 1-bit Adam with so many steps of warm-up, over the trainable ones. Matrices decay;
    norms, biases and vectors do not.

    Raises UserCodeError where nothing is trainable.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if not trainable:
        raise UserCodeError("spec.model: has no trainable parameter; set requires_grad = True on those to train")
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if spec.name == "sgd":
        return SGD(groups, lr=spec.learning_rate, momentum=spec.momentum, fused=True)
    if spec.name == "onebit-adam":
        betas = (spec.beta1, spec.beta2)
        return OneBitAdam(groups, warmup, lr=spec.learning_rate, betas=betas, eps=spec.epsilon, fused=True)
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


def euclidean_norm(gradients: Iterable[Tensor | None]) -> Tensor:
    """Norm of all gradients as one vector, 0-dim in fp64; parameters without one have None."""
    present = [gradient for gradient in gradients if gradient is not None]
    return torch.nn.utils.get_total_norm(present).double()


def scale_gradients(gradients: Iterable[Tensor], factor: float) -> None:
    """Multiply in place; nothing is touched for a factor of 1."""
    if factor != 1.0:
        torch._foreach_mul_(list(gradients), factor)


def clip_factor(norm: float, clip_norm: float) -> float:
    """What brings a gradient of this norm to at most `clip_norm`; 0 never clips."""
    return clip_norm / norm if clip_norm and norm > clip_norm else 1.0
