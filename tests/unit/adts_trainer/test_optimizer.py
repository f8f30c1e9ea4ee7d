"""Parameter groups, the global norm and clipping."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from adts_api.training import Optimizer
from adts_trainer.errors import UserCodeError
from adts_trainer.optimizer import build_optimizer, clip_factor, euclidean_norm, scale_gradients


@pytest.fixture
def module() -> nn.Module:
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_only_matrices_decay(name: str, module: nn.Module) -> None:
    optimizer = build_optimizer(module.parameters(), Optimizer(name=name, weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in module.named_parameters()} == {
        "0.weight": 0.3,
        "1.weight": 0.3,
        "1.bias": 0.0,
        "2.weight": 0.0,
        "2.bias": 0.0,
    }


def test_frozen_parameters_are_left_alone(module: nn.Module) -> None:
    module[0].weight.requires_grad_(False)
    optimizer = build_optimizer(module.parameters(), Optimizer())
    assert id(module[0].weight) not in {id(p) for group in optimizer.param_groups for p in group["params"]}


def test_a_model_of_matrices_alone_has_one_group() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2, bias=False).parameters(), Optimizer())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1]


def test_adamw_takes_its_hyperparameters_from_the_spec(module: nn.Module) -> None:
    group = build_optimizer(module.parameters(), Optimizer(beta1=0.8, beta2=0.9, epsilon=1e-5)).param_groups[0]
    assert (group["betas"], group["eps"]) == ((0.8, 0.9), 1e-5)


def test_the_norm_is_that_of_all_gradients_as_one_vector(module: nn.Module) -> None:
    module(torch.tensor([1, 2])).sum().backward()
    gradients = [parameter.grad for parameter in module.parameters()]
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    assert euclidean_norm(gradients).item() == pytest.approx(whole.norm().item(), rel=1e-6)


def test_parameters_without_gradient_do_not_count() -> None:
    assert euclidean_norm([None, torch.tensor([3.0, 4.0]), None]).item() == 5.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_entry_makes_the_norm_bad(bad: float) -> None:
    assert not math.isfinite(euclidean_norm([torch.ones(3), torch.tensor([1.0, bad])]).item())


@given(norm=st.floats(0, 1e6), limit=st.floats(1e-3, 1e3))
def test_a_clipped_gradient_is_as_long_as_allowed_and_never_longer(norm: float, limit: float) -> None:
    factor = clip_factor(norm, limit)
    assert factor <= 1.0
    assert norm * factor == pytest.approx(min(norm, limit))


def test_zero_never_clips() -> None:
    assert clip_factor(1e9, 0.0) == 1.0


def test_scaling_is_in_place() -> None:
    gradients = [torch.ones(2), torch.full((3,), 2.0)]
    scale_gradients(gradients, 0.5)
    assert [gradient.tolist() for gradient in gradients] == [[0.5, 0.5], [1.0, 1.0, 1.0]]


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(UserCodeError, match="no trainable parameter"):
        build_optimizer(nn.Identity().parameters(), Optimizer())
