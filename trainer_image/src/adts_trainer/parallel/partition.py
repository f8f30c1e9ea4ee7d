"""A model cut over the pp and tp ranks: into stages of layers, and each layer's matrices into parts."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import nn

from adts_api.errors import ConfigError
from adts_api.pipelining import split_layers, stage_indices, stages_per_rank
from adts_api.v1alpha1 import Spec
from adts_trainer.distributed_setup import Processes
from adts_trainer.model import BuiltModel, Loss, token_loss
from adts_trainer.models.gpt import GPT, Elsewhere
from adts_trainer.models.loss import VocabularyPart
from adts_trainer.parallel.pipeline import Shapes
from adts_trainer.parallel.regions import TensorRanks
from adts_trainer.parallel.tensor import cut, has_cut_logits
from adts_trainer.precision import Formats

Build = Callable[[], BuiltModel]


def own_stages(build: Build, spec: Spec, processes: Processes) -> tuple[BuiltModel, list[nn.Module]]:
    """The model of the spec, and this rank's stages of it: the whole where there is no pipeline.

    Raises ConfigError where the model has no stages.
    """
    built, degree, schedule = build(), spec.parallelism.pipeline, spec.parallelism.schedule
    if degree == 1:
        return built, [built.module]
    if not isinstance(built.module, GPT):
        raise ConfigError(
            f"spec.parallelism.pipeline: {degree} needs a model that knows its stages, and {spec.model.type} does not; "
            "use spec.model.type gpt, or 1"
        )
    bounds = split_layers(*_costs(built.module), degree * stages_per_rank(schedule))
    parts: list[nn.Module] = []
    for index in stage_indices(schedule, processes.coordinates.pp, degree):
        part = build().module if parts else built.module
        part.keep(*bounds[index])
        parts.append(part)
    return built, parts


def own_layers(built: BuiltModel, part: nn.Module) -> list[nn.Module]:
    """The repeated blocks that a stage has."""
    layers = part.layers if isinstance(part, GPT) else built.layers
    return [layer for layer in layers if not isinstance(layer, Elsewhere)]


def tensor_ranks(spec: Spec, processes: Processes) -> TensorRanks | None:
    """Who shares this rank's matrices; None where nobody does."""
    degree = spec.parallelism.tensor
    if degree == 1:
        return None
    sequence = spec.data.sequence_length if spec.parallelism.sequence_parallel else 0
    return TensorRanks(processes.group("tp"), processes.coordinates.tp, degree, sequence)


def cut_parts(built: BuiltModel, parts: list[nn.Module], ranks: TensorRanks | None) -> Loss:
    """Cut each part's matrices as its plan says; the loss for what then comes out.

    Raises ConfigError where the model has no plan, or one that does not fit it.
    """
    if ranks is None:
        return built.loss
    plan = getattr(built.module, "tensor_plan", None)
    if plan is None:
        raise ConfigError(
            f"spec.parallelism.tensor: {ranks.size} needs to know how to cut {type(built.module).__name__}; give it a "
            "method tensor_plan() that returns a table, or use 1"
        )
    for part in parts:
        cut(part, plan(), ranks)
    if not has_cut_logits(plan()):
        return built.loss
    if built.loss is not token_loss:
        raise ConfigError("tensor plan: logits is for models of tokens; leave the word out")
    return functools.partial(token_loss, part=VocabularyPart(ranks.group, ranks.part(built.vocabulary_size)[0]))


def shapes(spec: Spec, built: BuiltModel, ranks: TensorRanks | None, processes: Processes, formats: Formats) -> Shapes:
    """What travels between the stages of a gpt."""
    share = spec.training.global_batch_size // processes.data_ranks
    length = spec.data.sequence_length
    return Shapes(
        samples=share // spec.parallelism.microbatches,
        sequence=length,
        positions=ranks.positions if ranks is not None and ranks.sequence else length,
        features=spec.model.hidden_size,
        logits=ranks.part(built.vocabulary_size)[1] if ranks is not None else built.vocabulary_size,
        dtype=formats.compute,
    )


def _costs(model: GPT) -> tuple[list[float], float]:
    """Matrix entries that a token passes: of each layer, and of the head. A look-up in an embedding costs nothing."""
    layers = [float(sum(p.numel() for p in layer.parameters() if p.ndim == 2)) for layer in model.layers]
    assert model.head is not None
    return layers, float(model.head.weight.numel())
