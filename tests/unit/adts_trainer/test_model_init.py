"""Initial weights are a function of (seed, parameter name) and nothing else; they have GPT-2's distribution."""

import math

import pytest
import torch

from adts_api.training import Data, Model
from adts_trainer.batch import DataFacts
from adts_trainer.model import build_model, initial_parameter
from support.models import materialize

GPT2 = Model(type="gpt", layers=3, hidden_size=64, heads=4)
LLAMA = Model(type="gpt", shape="llama", layers=3, hidden_size=64, heads=4)
MLP = Model(type="mlp", layers=2, hidden_size=200)
FACTS = {"gpt": DataFacts("tokens", 300), "mlp": DataFacts("classification", input_size=100, output_size=10)}
every_model = pytest.mark.parametrize("spec", [GPT2, LLAMA, MLP], ids=["gpt2", "llama", "mlp"])


def weights(spec: Model, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    model = build_model(spec, Data(type="tokens", sequence_length=32), FACTS[spec.type], seed=seed, dtype=dtype)
    assert model.on_meta
    assert {p.device.type for p in model.module.parameters()} == {"meta"}
    materialize(model.module, "cpu", seed)
    return {name: parameter.detach() for name, parameter in model.module.named_parameters()}


@every_model
def test_order_and_process_state_do_not_matter(spec: Model) -> None:
    torch.manual_seed(1)
    first = weights(spec)
    torch.manual_seed(2)
    model = build_model(spec, Data(type="tokens", sequence_length=32), FACTS[spec.type], seed=0, dtype=torch.float32)
    for name in sorted(first, reverse=True):
        again = initial_parameter(model.module, name, first[name].shape, torch.float32, 0)
        assert torch.equal(first[name], again), name


@every_model
def test_every_dtype_starts_from_the_same_numbers(spec: Model) -> None:
    precise = weights(spec, dtype=torch.float64)
    for name, value in weights(spec).items():
        assert torch.equal(value, precise[name].float()), name


@every_model
def test_seed_changes_every_matrix(spec: Model) -> None:
    other = weights(spec, seed=1)
    for name, value in weights(spec).items():
        assert torch.equal(value, other[name]) == (value.ndim == 1), name


def test_names_inside_wrappers_draw_the_same() -> None:
    model = build_model(GPT2, Data(type="tokens"), FACTS["gpt"], seed=0, dtype=torch.float32)
    shape = torch.Size([8, 8])
    plain = initial_parameter(model.module, "layers.1.attention.q.weight", shape, torch.float32, 0)
    for name in ("module.layers.1.attention.q.weight", "layers.1._orig_mod.attention.q.weight",
                 "layers.1._checkpoint_wrapped_module.attention.q.weight"):  # fmt: skip
        assert torch.equal(initial_parameter(model.module, name, shape, torch.float32, 0), plain)


def test_a_draw_never_changes_between_releases() -> None:
    model = build_model(GPT2, Data(type="tokens"), FACTS["gpt"], seed=0, dtype=torch.float64)
    value = initial_parameter(model.module, "layers.0.attention.q.weight", torch.Size([64, 64]), torch.float64, 0)
    assert value[0, :2].tolist() == pytest.approx([-0.00399643073906409, -0.016300622883092964], rel=1e-12)


@pytest.mark.parametrize("spec", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_gpt_matrices_are_normal_and_vectors_constant(spec: Model) -> None:
    for name, value in weights(spec).items():
        if value.ndim == 1:
            assert torch.all(value == (0.0 if name.endswith("bias") else 1.0)), name
            continue
        residual = name.endswith(("attention.o.weight", "feed_forward.down.weight"))
        std = 0.02 / math.sqrt(2 * 3) if residual else 0.02
        assert value.std().item() == pytest.approx(std, rel=0.1), name
        assert abs(value.mean().item()) < 5 * std / math.sqrt(value.numel()), name


def test_mlp_keeps_the_scale_of_its_input() -> None:
    value = weights(MLP)
    assert value["layers.0.linear.weight"].std().item() == pytest.approx(math.sqrt(2 / 100), rel=0.05)
    assert value["output.weight"].std().item() == pytest.approx(math.sqrt(1 / 200), rel=0.1)
    assert torch.all(value["layers.1.linear.bias"] == 0)
