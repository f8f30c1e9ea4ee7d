"""What each compressor promises besides, over real gloo groups: the best low-rank sum, no bias, the ramp of top-k."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from adts_api.training import Compression
from adts_api.wire_bytes import wire_bytes
from support import compressor_cases as cases
from support.compressor_cases import SHAPES, lost
from support.wire_pool import Pool

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("cast", ["none", "bf16"])
def test_random_k_is_unbiased_without_error_feedback(pool: Pool, cast: str) -> None:
    vector, draws, keeps = torch.linspace(0.5, 2.0, 32, dtype=torch.float64), 2000, 0.25
    unbiased = Compression(method="randomk", ratio=keeps, cast=cast, error_feedback=False)
    # One draw is v / keeps with probability `keeps`, else 0: its variance is v^2 (1 / keeps - 1).
    five_sigma = 5 * vector * math.sqrt((1 / keeps - 1) / draws)
    (mean,) = pool.run(1, cases.mean_total, unbiased, vector, draws)
    assert ((mean - vector).abs() < five_sigma).all()
    assert (keeps * vector - vector).abs().min() > five_sigma.min(), "the factor of error feedback would be seen"


def matrices(kind: str, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """One gradient per rank for a bucket of one 30 x 20 matrix."""
    generator = torch.Generator().manual_seed(3)
    left = torch.randn(30, 20, generator=generator, dtype=torch.float64)
    factors = {
        "zero": 0 * left,
        "rank 1": left[:, :1] @ left[:1],
        "rank 2": left[:, :2] @ left[:2],
        "tiny": 1e-25 * left[:, :2] @ left[:2],
        "huge": 1e25 * left[:, :2] @ left[:2],
        "one entry": torch.zeros_like(left).index_put_(
            (torch.tensor([29]), torch.tensor([19])), torch.tensor(1.0).double()
        ),
        "full": left * torch.logspace(0, -3, 20, dtype=torch.float64),
    }
    return [(factors[kind] * (rank + 1)).flatten().to(dtype) for rank in range(2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["zero", "rank 1", "rank 2", "tiny", "huge", "one entry"])
def test_powersgd_is_exact_where_the_rank_suffices(pool: Pool, kind: str, dtype: torch.dtype) -> None:
    own = matrices(kind, dtype)
    exact = own[0] + own[1]
    method = Compression(method="powersgd", rank=2, error_feedback=False)
    for steps in (1, 4):
        for total in pool.run(2, cases.total_of, method, own, [(30, 20)], steps):
            assert (total - exact).norm() <= 1e3 * torch.finfo(dtype).eps * exact.norm()


def test_powersgd_comes_to_the_best_low_rank_sum_by_its_warm_start(pool: Pool) -> None:
    own = matrices("full")
    exact = (own[0] + own[1]).view(30, 20)
    best = float(torch.linalg.svdvals(exact)[2:].norm())
    method = Compression(method="powersgd", rank=2, error_feedback=False)
    errors = [
        float((pool.run(2, cases.total_of, method, own, [(30, 20)], steps)[0].view(30, 20) - exact).norm())
        for steps in (1, 30)
    ]
    assert errors[0] > 1.05 * best, "from a random start"
    assert errors[1] < 1.001 * best


def test_the_ramp_sends_more(pool: Pool) -> None:
    ramp = Compression(method="topk", ratio=0.01, warmup_steps=3)
    ranks = pool.run(2, cases.train, ramp, 4)
    steps = [ramp.model_copy(update={"ratio": ratio}) for ratio in (0.25, 0.0625, 0.015625, 0.01)]
    assert ranks[0].sent == sum(wire_bytes(step, SHAPES, 2, itemsize=8) or 0 for step in steps)
    assert lost(ranks) <= 1e-13


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("n", [1, 2, 10, 200])
def test_padding_of_the_last_part_changes_no_scale(pool: Pool, world: int, n: int) -> None:
    equal = [torch.full((n,), 2.0, dtype=torch.float64)] * world
    for total in pool.run(world, cases.total_of, Compression(method="onebit", block_size=64), equal, [(n,)], 1):
        assert torch.equal(total, world * equal[0])


BUILT = {
    "auto": (Compression(method="auto"), "ConfigError: spec.compression.method: auto is no compressor"),
    "own": (Compression(method="custom", factory="support.compressor_cases:MajorityVote"), "MajorityVote"),
    "no path": (
        Compression(method="custom", factory="nonsense"),
        "UserCodeError: spec.compression.factory: 'nonsense' is no",
    ),
    "no module": (Compression(method="custom", factory="no_such:f"), "importing no_such raised ModuleNotFoundError"),
    "raises": (Compression(method="custom", factory="support.compressor_cases:broken"), "raised RuntimeError: boom"),
    "something else": (
        Compression(method="custom", factory="support.compressor_cases:no_compressor"),
        "returned int; it must return an adts_trainer.communication.compressor.Compressor",
    ),
}


@pytest.mark.parametrize(("compression", "expected"), BUILT.values(), ids=BUILT.keys())
def test_own_compressors_come_by_import_path(pool: Pool, compression: Compression, expected: str) -> None:
    assert expected in pool.run(1, cases.built, compression)[0]


def test_bytes_nobody_can_know() -> None:
    assert wire_bytes(BUILT["own"][0], SHAPES, 2) is None
