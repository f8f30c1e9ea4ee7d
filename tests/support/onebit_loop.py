"""The truth of 1-bit Adam without compression: AdamW, then SGD of its momentum over a variance that stays, in a plain
torch loop of one process. It shares the data, the initial weights and the schedule with the trainer, nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from adts_api.training import Data, Model, Optimizer
from adts_trainer.batch import IGNORED_TARGET
from adts_trainer.data.synthetic import SyntheticTokens
from adts_trainer.optimizer import learning_rate
from adts_trainer.sampler import dropout_keys, sample_ids
from support.apart_loop import backward, build


def train_onebit(spec: dict[str, Any]) -> tuple[list[float], dict[str, Tensor]]:
    """Losses over the steps, and the weights at the end."""
    model, data = Model.model_validate(spec["model"]), Data.model_validate(spec["data"])
    optimizer, steps = Optimizer.model_validate(spec["optimizer"]), spec["training"]["steps"]
    size, warmup = spec["training"]["globalBatchSize"], spec["compression"]["warmupSteps"]
    dataset = SyntheticTokens(0, "", data.sequence_length, model.vocabulary_size)
    module = build(model, data, dataset)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in module.named_parameters()}
    losses = []
    for step in range(steps):
        ids = sample_ids(0, len(dataset), True, step * size, size)
        batch = dataset.batch(ids, dropout_keys(0, step, ids))
        valid = int((batch.targets != IGNORED_TARGET).sum())
        losses.append(backward(module, batch, valid) / valid)
        rate = learning_rate(optimizer, steps, step)
        for name, parameter in module.named_parameters():
            _update(parameter, *moments[name], optimizer, rate, step + 1, min(step + 1, warmup))
    return losses, {name: p.detach() for name, p in module.named_parameters()}


@torch.no_grad()
def _update(parameter: nn.Parameter, m: Tensor, v: Tensor, spec: Optimizer, rate: float, count: int, seen: int) -> None:
    """`count`: of this update, from 1; `seen`: how many of them v has seen."""
    gradient = parameter.grad
    assert gradient is not None
    m.mul_(spec.beta1).add_(gradient, alpha=1 - spec.beta1)
    if seen == count:
        v.mul_(spec.beta2).add_(gradient.square(), alpha=1 - spec.beta2)
    decay = spec.weight_decay if parameter.ndim > 1 else 0.0
    step = (m / (1 - spec.beta1**count)) / ((v / (1 - spec.beta2**seen)).sqrt() + spec.epsilon)
    parameter.sub_(rate * (decay * parameter + step))
    parameter.grad = None
