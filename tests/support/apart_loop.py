"""The truth of training apart: replicas one after another in one process, in a plain torch loop, and the outer step by
torch.optim.SGD. It shares the data, the initial weights and the schedule with the trainer, nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from adts_api.training import Data, Model, Optimizer
from adts_trainer.batch import IGNORED_TARGET
from adts_trainer.data.dataset import Dataset
from adts_trainer.data.synthetic import SyntheticTokens
from adts_trainer.model import build_model, initial_parameter
from adts_trainer.optimizer import learning_rate
from adts_trainer.sampler import dropout_keys, sample_ids
from adts_trainer.selfcheck.uneven import UnevenTargets


@dataclass(frozen=True)
class Apart:
    """Series over the steps, and the weights that all replicas have at the end."""

    losses: list[float]
    norms: list[float]
    """Of the first replica's gradient, before clipping."""
    weights: dict[str, Tensor]


def train_apart(
    spec: dict[str, Any], replicas: int, *, uneven: bool = False, judged_together: bool = False, nesterov: bool = True
) -> Apart:
    """What `replicas` replicas make of a spec, in fp64.

    `judged_together`: the obvious mistake of dividing by the targets of all replicas, and clipping by the norm of all.
    """
    model_spec, data = Model.model_validate(spec["model"]), Data.model_validate(spec["data"])
    optimizer_spec, outer = Optimizer.model_validate(spec["optimizer"]), spec["communication"]
    steps, size = spec["training"]["steps"], spec["training"]["globalBatchSize"]
    dataset: Dataset = SyntheticTokens(0, "", data.sequence_length, model_spec.vocabulary_size)
    dataset = UnevenTargets(dataset) if uneven else dataset
    start = build(model_spec, data, dataset)
    modules = [build(model_spec, data, dataset) for _ in range(replicas)]
    inner = [_optimizer(module, optimizer_spec) for module in modules]
    momentum = outer.get("outerMomentum", 0.9)
    rate = outer.get("outerLearningRate", 0.7)
    common = torch.optim.SGD(start.parameters(), lr=rate, momentum=momentum, nesterov=nesterov and momentum > 0)
    losses, norms = [], []
    for step in range(steps):
        ids = sample_ids(0, len(dataset), True, step * size, size)
        batches = [dataset.batch(own, dropout_keys(0, step, own)) for own in ids.reshape(replicas, -1)]
        valid = [int((it.targets != IGNORED_TARGET).sum()) for it in batches]
        totals = [
            backward(*it, sum(valid) if judged_together else own)
            for it, own in zip(zip(modules, batches, strict=True), valid, strict=True)
        ]
        own_norms = [_norm(module) for module in modules]
        for module, optimizer, norm in zip(modules, inner, own_norms, strict=True):
            norm = math.hypot(*own_norms) if judged_together else norm
            for parameter in module.parameters():
                parameter.grad.mul_(min(1.0, optimizer_spec.clip_norm / norm))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(optimizer_spec, steps, step)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(sum(totals) / sum(valid))
        norms.append(own_norms[0])
        if (step + 1) % outer["syncEvery"] == 0 or step + 1 == steps:
            _outer_step(start, modules, common)
    return Apart(losses, norms, {name: p.detach() for name, p in start.named_parameters()})


@torch.no_grad()
def _outer_step(start: nn.Module, modules: list[nn.Module], common: torch.optim.Optimizer) -> None:
    ends = zip(*(module.parameters() for module in modules), strict=True)
    for parameter, own in zip(start.parameters(), ends, strict=True):
        parameter.grad = torch.stack([parameter - it for it in own]).mean(0)
    common.step()
    for module in modules:
        for own, parameter in zip(module.parameters(), start.parameters(), strict=True):
            own.copy_(parameter)


def build(model: Model, data: Data, dataset: Dataset) -> nn.Module:
    """The model with its initial weights, in fp64."""
    module = build_model(model, data, dataset.facts, seed=0, dtype=torch.float64).module.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(initial_parameter(module, name, parameter.shape, parameter.dtype, 0))
    return module


def _optimizer(module: nn.Module, spec: Optimizer) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in module.parameters() if p.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [p for p in module.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    if spec.name == "sgd":
        return torch.optim.SGD(groups, momentum=spec.momentum, foreach=False)
    return torch.optim.AdamW(groups, betas=(spec.beta1, spec.beta2), eps=spec.epsilon, foreach=False)


def backward(module: nn.Module, batch: Any, divisor: int) -> float:
    """Gradients of the sum of losses over a divisor; the sum."""
    logits = module(batch.inputs, batch.keys).flatten(0, 1)
    total = cross_entropy(logits, batch.targets.flatten(), reduction="sum", ignore_index=IGNORED_TARGET)
    (total / divisor).backward()
    return total.item()


def _norm(module: nn.Module) -> float:
    return math.sqrt(sum(float(p.grad.square().sum()) for p in module.parameters()))
