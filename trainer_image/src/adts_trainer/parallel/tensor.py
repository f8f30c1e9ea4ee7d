"""Tensor parallelism (1909.08053, section 3): a model's matrices cut over the tp ranks, from a table of the model.

A plan maps patterns of module names to what becomes of the module:

column        Linear: each rank has some of the output features, biases with them
row           Linear: each rank has some of the input features; what it gives is summed over the ranks at the end
vocabulary    Embedding: each rank has some of the rows
positions     Embedding of positions: every rank has all of it, and gives the positions of its part
enter         a module at whose input a region begins; may stand before `column`
dropout       KeyedDropout between regions: knows which positions it sees
features      KeyedDropout inside a region: knows which features it sees

What no pattern names is the same on every rank. Parameters keep their names and become plain tensors of the rank's
part, for every engine: FSDP2 and DeepSpeed shard what they are given, and a checkpoint says where each part belongs
(`checkpoint_region.Region`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adts_api.errors import ConfigError
from adts_trainer.models.dropout import KeyedDropout
from adts_trainer.parallel.regions import TensorRanks, enter, leave, split

Plan = Mapping[str, str]


@dataclass(frozen=True)
class Cut:
    """Where a rank's part lies in a whole parameter."""

    dimension: int
    first: int
    whole: int
    """Size of the whole parameter along `dimension`."""

    def whole_shape(self, part: torch.Size) -> torch.Size:
        """Shape of the whole parameter, from the shape of a part."""
        return torch.Size(self.whole if axis == self.dimension else size for axis, size in enumerate(part))

    def of(self, whole: Tensor, part: torch.Size) -> Tensor:
        """The part, of this shape, of a whole tensor."""
        return whole.narrow(self.dimension, self.first, part[self.dimension])


class ColumnLinear(nn.Module):
    """x W^T + b for some of the outputs [..., in] -> [..., part of out]."""

    def __init__(self, whole: nn.Linear, ranks: TensorRanks) -> None:
        super().__init__()
        first, count = ranks.part(whole.out_features)
        self.cuts = {"weight": Cut(0, first, whole.out_features), "bias": Cut(0, first, whole.out_features)}
        self.weight = _part(whole.weight, 0, first, count)
        self.bias = None if whole.bias is None else _part(whole.bias, 0, first, count)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class RowLinear(nn.Module):
    """x W^T + b from some of the inputs [..., part of in] -> [..., out]; the bias is added once, after the sum."""

    def __init__(self, whole: nn.Linear, ranks: TensorRanks) -> None:
        super().__init__()
        first, count = ranks.part(whole.in_features)
        self._ranks = ranks
        self.cuts = {"weight": Cut(1, first, whole.in_features)}
        self.weight = _part(whole.weight, 1, first, count)
        self.bias = whole.bias

    def forward(self, x: Tensor) -> Tensor:
        y = leave(F.linear(x, self.weight), self._ranks)
        return y if self.bias is None else y + self.bias


class VocabularyEmbedding(nn.Module):
    """Rows of ids int64 [B, T] -> [B, T, H], each found on the one rank that has it."""

    def __init__(self, whole: nn.Embedding, ranks: TensorRanks) -> None:
        super().__init__()
        self._ranks = ranks
        self._first, self._count = ranks.part(whole.num_embeddings)
        self.cuts = {"weight": Cut(0, self._first, whole.num_embeddings)}
        self.weight = _part(whole.weight, 0, self._first, self._count)

    def forward(self, ids: Tensor) -> Tensor:
        here = ids - self._first
        is_elsewhere = (here < 0) | (here >= self._count)
        rows = F.embedding(here.masked_fill(is_elsewhere, 0), self.weight)
        return leave(rows.masked_fill(is_elsewhere[..., None], 0.0), self._ranks)


class PositionEmbedding(nn.Module):
    """Rows of positions [T] -> [T, H], or of this rank's part of them."""

    def __init__(self, whole: nn.Embedding, ranks: TensorRanks) -> None:
        super().__init__()
        self._ranks = ranks
        self.weight = whole.weight

    def forward(self, positions: Tensor) -> Tensor:
        return split(F.embedding(positions, self.weight), self._ranks)


_KINDS: dict[str, tuple[type[nn.Module], Any]] = {
    "column": (nn.Linear, ColumnLinear),
    "row": (nn.Linear, RowLinear),
    "vocabulary": (nn.Embedding, VocabularyEmbedding),
    "positions": (nn.Embedding, PositionEmbedding),
}


def cut(module: nn.Module, plan: Plan, ranks: TensorRanks) -> None:
    """Replace the modules that a plan names, in place. Raises ConfigError where the plan does not fit the model."""
    for name, words in list(_matches(module, plan)):
        found = module.get_submodule(name)
        for word in words.split():
            if word == "enter":
                found.register_forward_pre_hook(functools.partial(_enter, ranks))
            elif word in _KINDS:
                new = _replacement(module, name, word, ranks)
                new._forward_pre_hooks = found._forward_pre_hooks
                module.set_submodule(name, new)
            elif word in ("dropout", "features") and isinstance(found, KeyedDropout):
                if word == "features":
                    found.first_feature = ranks.part(found.features)[0]
                else:
                    found.first_position = ranks.first_position
            elif word != "logits":
                raise ConfigError(f"tensor plan of {type(module).__name__}: {name}: {word} is no word of a plan")
    if hasattr(module, "tie"):
        module.tie()


def cuts(module: nn.Module) -> dict[str, Cut]:
    """By name, the parameters of which this rank has a part only."""
    return {
        f"{prefix}.{name}": place
        for prefix, part in module.named_modules()
        for name, place in getattr(part, "cuts", {}).items()
    }


def summed_by_ranks(module: nn.Module, ranks: TensorRanks) -> set[str]:
    """Names of the whole parameters that see only this rank's positions: their gradients are still to be summed."""
    if not ranks.sequence:
        return set()
    complete = {
        f"{prefix}.{name}"
        for prefix, part in module.named_modules()
        for name, _ in part.named_parameters(recurse=False)
        if isinstance(part, PositionEmbedding)
    }
    return {name for name, _ in module.named_parameters()} - set(cuts(module)) - complete


def has_cut_logits(plan: Plan) -> bool:
    """Whether the model gives each rank its part of the vocabulary only."""
    return any("logits" in words.split() for words in plan.values())


def _matches(module: nn.Module, plan: Plan) -> Iterator[tuple[str, str]]:
    for name, _ in module.named_modules():
        for pattern, words in plan.items():
            if fnmatchcase(name, pattern):
                yield name, words


def _replacement(module: nn.Module, name: str, word: str, ranks: TensorRanks) -> nn.Module:
    kind, replacement = _KINDS[word]
    found = module.get_submodule(name)
    if not isinstance(found, kind):
        raise ConfigError(
            f"tensor plan of {type(module).__name__}: {name} is a {type(found).__name__}, but {word} is for "
            f"{kind.__name__}; correct the plan"
        )
    new: nn.Module = replacement(found, ranks)
    return new


def _enter(ranks: TensorRanks, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return enter(inputs[0], ranks), *inputs[1:]


def _part(whole: Tensor, dimension: int, first: int, count: int) -> nn.Parameter:
    return nn.Parameter(whole.detach().narrow(dimension, first, count).clone(), requires_grad=whole.requires_grad)
