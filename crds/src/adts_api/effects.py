"""Fields that only mean something beside a certain value of another field: elsewhere they are refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from adts_api.errors import FieldError
from adts_api.fields import choices_of, is_set, spec_leaves
from adts_api.training import Compression
from adts_api.v1alpha1 import Spec
from adts_api.wording import show

LOSSY = tuple(it for it in choices_of(Compression.model_fields["method"]) if it != "none")
"""Values of `compression.method` that compress."""


class Effect(NamedTuple):
    """`fields` of `block` have an effect only where `governor` has one of `values`; without values, where it is set."""

    block: str
    fields: str
    governor: str
    values: tuple[str, ...] = ()


EFFECTS: tuple[Effect, ...] = (
    Effect("model", "shape heads keyValueHeads intermediateSize tieEmbeddings", "model.type", ("gpt",)),
    Effect("model", "layers hiddenSize dropout", "model.type", ("gpt", "mlp")),
    Effect("model", "vocabularySize", "model.type", ("gpt", "huggingface", "custom")),
    Effect("model", "inputSize outputSize", "model.type", ("mlp",)),
    Effect("model", "ropeTheta", "model.type", ("gpt",)),
    Effect("model", "ropeTheta", "model.shape", ("llama",)),
    Effect("model", "factory arguments", "model.type", ("custom",)),
    Effect("model", "path pretrained", "model.type", ("huggingface",)),
    Effect("data", "sequenceLength", "model.type", ("gpt", "huggingface", "custom")),
    Effect("data", "sequenceLength", "data.type", ("tokens", "text", "jsonl", "synthetic")),
    Effect("data", "path claim", "data.type", ("tokens", "text", "jsonl", "tensors")),
    Effect("data", "tokenizer", "data.type", ("text", "jsonl")),
    Effect("data", "textField", "data.type", ("jsonl",)),
    Effect("data", "tokenType", "data.type", ("tokens",)),
    Effect("data.evaluation", "path", "data.type", ("tokens", "text", "jsonl", "tensors")),
    Effect("data.evaluation", "everySteps samples", "data.evaluation.path"),
    Effect("optimizer", "beta1 beta2 epsilon", "optimizer.name", ("adamw", "onebit-adam")),
    Effect("optimizer", "momentum", "optimizer.name", ("sgd",)),
    Effect("optimizer.schedule", "decaySteps minRatio", "optimizer.schedule.type", ("linear", "cosine", "wsd")),
    Effect("compression", "factory", "compression.method", ("custom",)),
    Effect("compression", "rank", "compression.method", ("powersgd", "auto")),
    Effect("compression", "ratio", "compression.method", ("topk", "randomk", "auto")),
    Effect("compression", "blockSize", "compression.method", ("int8", "fp8", "onebit", "auto")),
    Effect("compression", "cast", "compression.method", ("topk", "randomk", "powersgd")),
    Effect("compression", "errorFeedback warmupSteps minElements", "compression.method", LOSSY),
    Effect("checkpoint", "residual", "compression.method", LOSSY),
    Effect("precision", "initialLossScale lossScaleInterval", "precision.dtype", ("fp16",)),
)


def effect_errors(effect: Effect, spec: Spec) -> Iterator[FieldError]:
    """The fields of one row that are set and have no effect."""
    governor = spec_leaves()[effect.governor].value(spec)
    if effect.values and (governor in effect.values or not governor):
        return  # an empty governor is an error of its own
    if not effect.values and governor:
        return
    where = f"with {effect.governor} {governor}" if governor else f"without {effect.governor}"
    for name in effect.fields.split():
        field = spec_leaves()[f"{effect.block}.{name}"]
        if is_set(field, spec):
            value = field.value(spec)
            shown = "" if isinstance(value, dict) else f"{show(value)} "
            yield FieldError(f"spec.{field.path}", f"{shown}has no effect {where}", "remove it")
