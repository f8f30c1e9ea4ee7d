"""The shapes that planning uses are those of the trainer's own models, and so is what autograd keeps of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adts_api.estimate_states import formats
from adts_api.shapes import UnknownShapeError, model_shape
from adts_api.v1alpha1 import Spec
from adts_trainer.batch import DataFacts
from adts_trainer.model import BuiltModel, build_model
from adts_trainer.models.loss import cross_entropy_sum

MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"type": "gpt"},
    "gpt2, untied": {"type": "gpt", "tieEmbeddings": False, "layers": 1},
    "gpt2, narrow feed-forward, dropout": {"type": "gpt", "intermediateSize": 100, "dropout": 0.1, "layers": 3},
    "llama": {"type": "gpt", "shape": "llama"},
    "llama, grouped queries, untied": {"type": "gpt", "shape": "llama", "keyValueHeads": 2, "tieEmbeddings": False},
    "mlp": {"type": "mlp", "inputSize": 12, "outputSize": 5},
    "mlp, one layer": {"type": "mlp", "inputSize": 12, "outputSize": 5, "layers": 1},
}
T, V = 24, 61


def spec_of(model: dict[str, Any]) -> Spec:
    vocabulary = {"vocabularySize": V} if model["type"] == "gpt" else {}
    sizes = {"hiddenSize": 32, "layers": 2, **vocabulary, **model}
    return Spec.model_validate({"model": sizes, "data": {"type": "synthetic", "sequenceLength": T}}, by_alias=True)


def built(spec: Spec) -> BuiltModel:
    tokens = DataFacts("tokens", vocabulary_size=V)
    vectors = DataFacts("classification", input_size=12, output_size=5)
    facts = tokens if spec.model.type == "gpt" else vectors
    return build_model(spec.model, spec.data, facts, seed=0, dtype=torch.float32)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_parameters_have_the_names_and_shapes_of_the_trainers_models(model: dict[str, Any]) -> None:
    spec = spec_of(model)
    expected = {name: tuple(it.shape) for name, it in built(spec).module.named_parameters()}
    assert {name: it.shape for name, it in model_shape(spec).parameters.items()} == expected


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_flops_are_those_the_trainer_reports(model: dict[str, Any]) -> None:
    spec = spec_of(model)
    assert 3 * model_shape(spec).forward_flops == built(spec).flops_per_sample


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_autograd_keeps_the_activations_that_are_counted(model: dict[str, Any]) -> None:
    spec, samples = spec_of(model), 3
    shape, number = model_shape(spec), formats(spec)
    counted = sum(
        sum(number.saved(it) for it in part.saved) * samples + part.tables * number.master for part in shape.parts
    )
    assert kept_by_autograd(spec, samples) == counted


def kept_by_autograd(spec: Spec, samples: int) -> int:
    """Bytes of the storages saved for backward, without parameters and the batch."""
    it = built(spec)
    module = it.module.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.02)
    is_gpt = spec.model.type == "gpt"
    inputs = torch.randint(0, V, (samples, T)) if is_gpt else torch.randn(samples, 12)
    targets = torch.randint(0, V, (samples, T)) if is_gpt else torch.randint(0, 5, (samples,))
    known = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), inputs, targets)}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = cross_entropy_sum(module(inputs, torch.arange(samples)), targets)
    assert loss.requires_grad
    return sum(kept.values())


def test_tensor_parallel_ranks_hold_the_largest_part_of_what_does_not_divide() -> None:
    embedding = model_shape(spec_of({"type": "gpt"})).parameters["token_embedding.weight"]
    assert [embedding.elements(ranks) // 32 for ranks in (1, 2, 4)] == [61, 31, 16]


UNKNOWN = {
    "a command": ({"command": ["torchrun", "train.py"]}, "a command's memory is unknown"),
    "tokens of an unknown vocabulary": ({"model": {"type": "gpt"}, "data": {"type": "tokens"}}, "vocabularySize: 0"),
    "a user's model": ({"model": {"type": "custom", "factory": "a:b"}}, "a custom model are unknown"),
    "vectors of an unknown size": ({"model": {"type": "mlp", "outputSize": 2}}, "inputSize: 0"),
}


@pytest.mark.parametrize(("spec", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_sizes_that_only_the_data_knows_are_not_guessed(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownShapeError, match=message):
        model_shape(Spec.model_validate(spec, by_alias=True))


def test_bytes_have_a_known_vocabulary() -> None:
    spec = Spec.model_validate({"model": {"type": "gpt"}, "data": {"type": "text", "path": "x"}}, by_alias=True)
    assert model_shape(spec).outputs == 256
