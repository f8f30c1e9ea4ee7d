"""Which formats a spec asks for."""

from __future__ import annotations

import pytest
import torch

from adts_api.training import Precision
from adts_trainer.precision import formats


@pytest.mark.parametrize(
    ("dtype", "master", "compute"),
    [
        ("fp32", torch.float32, torch.float32),
        ("bf16", torch.float32, torch.bfloat16),
        ("fp16", torch.float32, torch.float16),
        ("fp64", torch.float64, torch.float64),
    ],
)
def test_masters_are_fp32_except_in_fp64(dtype: str, master: torch.dtype, compute: torch.dtype) -> None:
    found = formats(Precision(dtype=dtype))
    assert (found.master, found.compute) == (master, compute)
    policy = found.sharding_policy()
    mixed = master != compute
    assert (policy.param_dtype, policy.reduce_dtype) == ((compute, master) if mixed else (None, None))


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16", "fp64"])
def test_autocast_computes_in_the_format(dtype: str) -> None:
    found = formats(Precision(dtype=dtype))
    linear = torch.nn.Linear(2, 2).to(found.master)
    with found.autocast(torch.device("cpu")):
        assert linear(torch.ones(1, 2, dtype=found.master)).dtype == found.compute
