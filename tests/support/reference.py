"""The truth to compare with: a plain torch loop in one process, without the trainer's loop, optimizer or norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from adts_api.training import Data, Model
from adts_trainer.data.dataset import Dataset
from adts_trainer.data.synthetic import SyntheticTokens
from adts_trainer.model import build_model, initial_parameter
from adts_trainer.sampler import dropout_keys, sample_ids


@dataclass(frozen=True)
class Reference:
    """Series over the steps, and the weights at the end."""

    losses: list[float]
    norms: list[float]
    weights: dict[str, Tensor]


def train_alone(spec: dict[str, Any], dataset: Dataset | None = None) -> Reference:
    """20 steps (or as many as the spec says) of AdamW with cosine decay and clipping, in fp64."""
    model_spec, data = Model.model_validate(spec["model"]), Data.model_validate(spec["data"])
    steps, size = spec["training"]["steps"], spec["training"]["globalBatchSize"]
    dataset = dataset or SyntheticTokens(0, "", data.sequence_length, model_spec.vocabulary_size)
    module = build_model(model_spec, data, dataset.facts, seed=0, dtype=torch.float64).module.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(initial_parameter(module, name, parameter.shape, parameter.dtype, 0))
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = [p for p in module.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, foreach=False, fused=False)
    peak, warmup, clip = spec["optimizer"]["learningRate"], 2, spec["optimizer"]["clipNorm"]
    losses, norms = [], []
    for step in range(steps):
        ids = sample_ids(0, len(dataset), True, step * size, size)
        batch = dataset.batch(ids, dropout_keys(0, step, ids))
        loss = cross_entropy(module(batch.inputs, batch.keys).flatten(0, 1), batch.targets.flatten())
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in module.parameters()))
        for parameter in module.parameters():
            parameter.grad.mul_(min(1.0, clip / norm))
        progress = max(0, step - warmup) / (steps - warmup)
        curve = (step + 1) / warmup if step < warmup else 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2
        for group in optimizer.param_groups:
            group["lr"] = peak * curve
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        norms.append(norm)
    return Reference(losses, norms, {name: p.detach() for name, p in module.named_parameters()})
