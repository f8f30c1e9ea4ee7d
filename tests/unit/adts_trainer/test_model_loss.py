"""Losses are sums over valid targets, in fp32 or better."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from adts_trainer.batch import IGNORED_TARGET
from adts_trainer.models import loss as loss_module
from adts_trainer.models.loss import cross_entropy_sum, squared_error_sum


@pytest.mark.parametrize("chunk", [1, 10, 1 << 24], ids=["row by row", "two rows", "at once"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_cross_entropy_and_its_gradient_equal_torch_s(
    monkeypatch: pytest.MonkeyPatch, chunk: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(loss_module, "_CHUNK_ENTRIES", chunk)
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(3, 4, 5, generator=generator, dtype=torch.float64) * 4).to(dtype)
    targets = torch.randint(5, (3, 4), generator=generator)
    targets[0, 1] = targets[2, 3] = IGNORED_TARGET
    ours, torchs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    value = cross_entropy_sum(ours, targets)
    expected = cross_entropy(torchs.to(precise).flatten(0, 1), targets.flatten(), reduction="sum")
    (value * 0.3).backward()
    (expected * 0.3).backward()
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 4e-3}[dtype]
    assert value.dtype == precise
    torch.testing.assert_close(value, expected, rtol=1e-6 if precise == torch.float32 else 1e-14, atol=0)
    torch.testing.assert_close(ours.grad, torchs.grad, rtol=tolerance, atol=tolerance)
    assert torch.all(ours.grad[0, 1] == 0)


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    value = cross_entropy_sum(logits, torch.tensor([1]))
    value.backward()
    assert value.item() == pytest.approx(1e4)
    assert logits.grad.tolist() == [[1.0, -1.0, 0.0]]


def test_a_batch_without_valid_targets_has_loss_zero_and_no_gradient() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    value = cross_entropy_sum(logits, torch.full((2,), IGNORED_TARGET))
    value.backward()
    assert value.item() == 0.0
    assert torch.all(logits.grad == 0)


def test_a_nan_logit_reaches_the_loss() -> None:
    logits = torch.tensor([[float("nan"), 0.0]])
    assert cross_entropy_sum(logits, torch.tensor([1])).isnan()


def test_squared_error_is_a_mean_over_values_and_a_sum_over_rows() -> None:
    outputs, targets = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    assert squared_error_sum(outputs, targets).item() == pytest.approx(5.0 + 2.0)
    assert squared_error_sum(outputs.double(), targets.double()).dtype == torch.float64
    assert squared_error_sum(outputs.half(), targets.half()).dtype == torch.float32
