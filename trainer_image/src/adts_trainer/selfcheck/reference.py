"""The truth to compare with: a plain torch loop in one process, without the trainer's loop, optimizer or norm."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from adts_api.training import Data, Model
from adts_trainer.batch import Batch
from adts_trainer.data.dataset import Dataset
from adts_trainer.data.synthetic import SyntheticTokens
from adts_trainer.model import build_model, initial_parameter
from adts_trainer.sampler import dropout_keys, sample_ids
from adts_trainer.selfcheck.uneven import UnevenTargets


@dataclass(frozen=True)
class Reference:
    """Series over the steps, and the weights at the end."""

    losses: list[float]
    norms: list[float]
    """Euclidean norms of the gradient before clipping."""
    weights: dict[str, Tensor]


def truth(
    spec: dict[str, Any], *, uneven: bool = False, dtype: torch.dtype = torch.float64, parts: int = 1
) -> Reference:
    """`train_alone` for what the reference sees of a spec: it knows nothing of layouts, so that cells share it."""
    seen = {block: spec[block] for block in ("model", "data", "optimizer")}
    seen["training"] = {name: spec["training"][name] for name in ("steps", "globalBatchSize")}
    return _truth(json.dumps(seen, sort_keys=True), uneven, dtype, parts)


@functools.cache
def _truth(spec: str, uneven: bool, dtype: torch.dtype, parts: int) -> Reference:
    return train_alone(json.loads(spec), uneven=uneven, dtype=dtype, parts=parts)


def train_alone(spec: dict[str, Any], *, uneven: bool, dtype: torch.dtype, parts: int) -> Reference:
    """AdamW with warm-up, cosine decay and clipping on synthetic tokens, each batch in `parts` parts."""
    model_spec, data = Model.model_validate(spec["model"]), Data.model_validate(spec["data"])
    steps, size = spec["training"]["steps"], spec["training"]["globalBatchSize"]
    dataset: Dataset = SyntheticTokens(0, "", data.sequence_length, model_spec.vocabulary_size)
    dataset = UnevenTargets(dataset) if uneven else dataset
    module = build_model(model_spec, data, dataset.facts, seed=0, dtype=dtype).module.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(initial_parameter(module, name, parameter.shape, parameter.dtype, 0))
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = [p for p in module.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, foreach=False, fused=False)
    peak, clip = spec["optimizer"]["learningRate"], spec["optimizer"]["clipNorm"]
    warmup = spec["optimizer"]["schedule"]["warmupSteps"]
    losses, norms = [], []
    for step in range(steps):
        ids = sample_ids(0, len(dataset), True, step * size, size)
        batch = dataset.batch(ids, dropout_keys(0, step, ids))
        loss = sum(_backward(module, part, batch.valid) for part in batch.split(parts))
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
        for gradient in gradients:
            gradient.mul_(min(1.0, clip / norm))
        progress = max(0, step - warmup) / (steps - warmup)
        curve = (step + 1) / warmup if step < warmup else 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2
        for group in optimizer.param_groups:
            group["lr"] = peak * curve
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
        norms.append(norm)
    return Reference(losses, norms, {name: p.detach() for name, p in module.named_parameters()})


def _backward(module: torch.nn.Module, part: Batch, valid: int) -> float:
    """Add the gradients of a part of a batch with `valid` targets; its part of the mean loss, in nats."""
    logits = module(part.inputs, part.keys).flatten(0, 1)
    loss = cross_entropy(logits, part.targets.flatten(), reduction="sum") / valid
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()
