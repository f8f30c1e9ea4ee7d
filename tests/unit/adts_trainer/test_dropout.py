"""Keyed dropout: a function of (key, site, position, feature), and statistically dropout."""

import pytest
import torch

from adts_trainer.models.dropout import KeyedDropout

KEYS = torch.arange(64) * 7919 + 3


def drop(x: torch.Tensor, keys: torch.Tensor, p: float, site: int) -> torch.Tensor:
    dropped: torch.Tensor = KeyedDropout(p, site, x.shape[-1])(x, keys)
    return dropped


def mask(keys: torch.Tensor = KEYS, p: float = 0.3, site: int = 0, T: int = 32, H: int = 64) -> torch.Tensor:
    return drop(torch.ones(len(keys), T, H, dtype=torch.float64), keys, p, site)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_kept_fraction_is_right_and_the_mean_is_kept(p: float) -> None:
    dropped = mask(p=p)
    n = dropped.numel()
    assert set(dropped.unique().tolist()) == {0.0, 1.0 / (1.0 - p)}
    standard_error = (p * (1 - p) / n) ** 0.5
    assert abs((dropped == 0).double().mean().item() - p) < 5 * standard_error


def test_every_sample_position_and_feature_drops_alike() -> None:
    dropped = (mask() == 0).double()
    for dim, others in [(0, (1, 2)), (1, (0, 2)), (2, (0, 1))]:
        rates = dropped.mean(dim=others)
        error = (0.3 * 0.7 * dropped.shape[dim] / dropped.numel()) ** 0.5
        assert (rates - 0.3).abs().max().item() < 5 * error


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (mask(keys=KEYS + 1), False),
        (mask(keys=KEYS ^ (1 << 40)), False),
        (mask(keys=-KEYS), False),
        (mask(site=1), False),
        (mask(p=0.3), True),
    ],
    ids=["next key", "high bit of the key", "negative key", "next site", "again"],
)
def test_masks_of_other_keys_and_sites_are_independent(other: torch.Tensor, same: bool) -> None:
    a, b = (mask() == 0).double().flatten(), (other == 0).double().flatten()
    correlation = torch.corrcoef(torch.stack([a, b]))[0, 1].item()
    assert correlation == pytest.approx(1.0) if same else abs(correlation) < 5 / len(a) ** 0.5


@pytest.mark.parametrize("dim", [1, 2])
def test_neighbours_are_independent(dim: int) -> None:
    dropped = (mask() == 0).double()
    n = dropped.shape[dim] - 1
    pair = torch.stack([dropped.narrow(dim, 0, n).flatten(), dropped.narrow(dim, 1, n).flatten()])
    assert abs(torch.corrcoef(pair)[0, 1].item()) < 5 / pair.shape[1] ** 0.5


def test_rows_of_vectors_and_shorter_sequences_agree() -> None:
    assert torch.equal(mask(T=8), mask(T=32)[:, :8])
    vectors = drop(torch.ones(64, 100), KEYS, 0.5, 2)
    assert (vectors == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_gradient_passes_where_the_value_did() -> None:
    x = torch.randn(4, 5, 6, dtype=torch.float64, requires_grad=True)
    y = drop(x, KEYS[:4], 0.5, 0)
    y.sum().backward()
    assert torch.equal(x.grad, torch.where(y == 0, 0.0, 2.0).double())


def test_a_part_of_positions_and_features_drops_what_the_whole_drops_there() -> None:
    module = KeyedDropout(0.3, 0, 64)
    module.first_position, module.first_feature = 8, 16
    part = module(torch.ones(64, 4, 32, dtype=torch.float64), KEYS)
    assert torch.equal(part, mask()[:, 8:12, 16:48])


def test_evaluation_drops_nothing() -> None:
    x = torch.ones(2, 3)
    assert KeyedDropout(0.5, 0, 3).eval()(x, KEYS[:2]) is x


def test_probability_zero_is_the_identity() -> None:
    x = torch.randn(2, 3)
    assert drop(x, KEYS[:2], 0.0, 0) is x


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_mask_does_not_depend_on_the_dtype(dtype: torch.dtype) -> None:
    y = drop(torch.ones(64, 32, 64, dtype=dtype), KEYS, 0.3, 0)
    assert y.dtype == dtype
    assert torch.equal(y == 0, mask() == 0)
