"""Wire formats: what comes back is within the stated error of what went in, or visibly broken as the input was."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adts_api.wire_bytes import encoded_bytes
from adts_trainer.communication.codecs import BFloat16, Codec, Float8, Float16, Int8, Plain, Sign

NAMES = ("none", "bf16", "fp16", "int8", "fp8", "onebit")
DTYPES = (torch.float32, torch.float64)


def codec(name: str, block: int) -> Codec:
    makers = {"bf16": BFloat16, "fp16": Float16, "none": Plain}
    blockwise = {"int8": Int8, "fp8": Float8, "onebit": Sign}
    return blockwise[name](block) if name in blockwise else makers[name]()


def there_and_back(it: Codec, x: Tensor) -> Tensor:
    return it.decode(it.encode(x, real=x.numel()), x.shape[1], x.dtype)


def by_block(x: Tensor, block: int) -> list[Tensor]:
    return list(x.split(block, dim=1)) if x.shape[1] else []


def bound(name: str, x: Tensor, block: int) -> Tensor:
    """The largest error that the codec's docstring allows for each entry, and the rounding of the scale."""
    slack = 8 * torch.finfo(x.dtype).eps * x.abs() + torch.finfo(x.dtype).tiny
    largest = torch.cat(
        [b.abs().amax(1, keepdim=True).expand_as(b) for b in by_block(x, block if name in ("int8", "fp8") else 10**6)],
        1,
    )
    errors = {
        "none": 0 * x,
        "bf16": x.abs() / 2**8 + 2.0**-134,
        "fp16": x.abs() / 2**11 + largest / 2**39,
        "int8": largest / 254,
        "fp8": x.abs() / 2**4 + largest / 448 / 2**10,
    }
    return errors[name] * (1 + 1e-5) + slack


vectors = st.builds(
    lambda rows, n, seed, exponent, zeros: (
        torch.randn(rows, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        * 10.0**exponent
        * (torch.rand(rows, n, generator=torch.Generator().manual_seed(seed + 1)) >= zeros)
    ),
    rows=st.integers(1, 4),
    n=st.integers(1, 70),
    seed=st.integers(0, 1000),
    exponent=st.integers(-44, 35),
    zeros=st.sampled_from([0.0, 0.5, 0.97, 1.0]),
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["none", "bf16", "fp16", "int8", "fp8"])
@given(x=vectors, block=st.sampled_from([1, 3, 8, 256]))
def test_errors_are_bounded(name: str, dtype: torch.dtype, x: Tensor, block: int) -> None:
    x = x.to(dtype)
    back = there_and_back(codec(name, block), x)
    assert back.dtype == dtype
    assert back.shape == x.shape
    assert ((back - x).abs() <= bound(name, x, block)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@given(x=vectors, block=st.sampled_from([1, 3, 8, 256]))
def test_one_bit_keeps_signs_and_the_mean_magnitude(dtype: torch.dtype, x: Tensor, block: int) -> None:
    x = x.to(dtype)
    back = there_and_back(codec("onebit", block), x)
    for part, got in zip(by_block(x, block), by_block(back, block), strict=True):
        mean = part.abs().mean(1, keepdim=True)
        assert torch.allclose(got.abs(), mean.expand_as(got), rtol=1e-5, atol=1e-44)
        assert torch.equal(got >= 0, (part >= 0) | (mean == 0))


@given(
    name=st.sampled_from(NAMES), rows=st.integers(1, 3), n=st.integers(0, 40), block=st.integers(1, 20),
    dtype=st.sampled_from(DTYPES),
)  # fmt: skip
def test_bytes_are_as_the_formula_says(name: str, rows: int, n: int, block: int, dtype: torch.dtype) -> None:
    x = torch.ones(rows, n, dtype=dtype)
    wire = codec(name, block).encode(x, real=rows * n)
    assert wire.dtype == torch.uint8
    assert wire.shape == (rows, encoded_bytes(name, n, dtype.itemsize, block))
    assert there_and_back(codec(name, block), x).shape == (rows, n)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_shows(name: str, value: float, dtype: torch.dtype) -> None:
    x = torch.ones(2, 40, dtype=dtype)
    x[1, 13] = value
    back = there_and_back(codec(name, 8), x)
    assert not back[1, 13].isfinite()
    assert back[0].isfinite().all(), "the other row is another rank's"


def test_fp16_neither_loses_tiny_gradients_nor_overflows() -> None:
    for size in (1e-9, 1e9):
        x = torch.tensor([[1.0, -0.25, 1e-3]]) * size
        naive = x.to(torch.float16).to(x.dtype)
        assert (naive == 0).all() or naive.isinf().any()
        assert torch.allclose(there_and_back(Float16(), x), x, rtol=2**-11, atol=0)


def test_int8_an_outlier_spoils_its_own_block_only() -> None:
    x = torch.full((1, 16), 0.01)
    x[0, 3] = 1000.0
    assert (there_and_back(Int8(16), x)[0, 8:] == 0).all(), "one scale for all"
    assert torch.allclose(there_and_back(Int8(8), x)[0, 8:], x[0, 8:])


@pytest.mark.parametrize(("real", "lengths"), [(10, [4, 4, 2]), (9, [4, 4, 1]), (5, [4, 1, 0]), (12, [4, 4, 4])])
def test_padding_does_not_thin_the_mean_of_the_last_block(real: int, lengths: list[int]) -> None:
    x = torch.zeros(3, 4)
    x.view(-1)[:real] = 2.0
    back = Sign(4).decode(Sign(4).encode(x, real=real), 4, x.dtype)
    naive = Sign(4).decode(Sign(4).encode(x, real=x.numel()), 4, x.dtype)
    for row, length in enumerate(lengths):
        assert (back[row, :length] == 2.0).all()
        assert (naive[row, :length] == 2.0).all() == (length in (0, 4))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 7, 24])
def test_rows_are_encoded_each_for_itself(name: str, n: int) -> None:
    x = torch.randn(3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) * torch.tensor(
        [[1], [9], [0]]
    )
    it = codec(name, 5)
    whole = there_and_back(it, x)
    assert torch.equal(whole, torch.cat([there_and_back(it, row[None]) for row in x]))
