"""The order of samples is a permutation per epoch and a function of (seed, epoch, position) alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adts_trainer.sampler import dropout_keys, sample_ids

SEEDS = st.integers(0, 2**63 - 1)


@given(seed=SEEDS, size=st.integers(1, 5000), epoch=st.integers(0, 10**6))
def test_every_epoch_visits_each_sample_once(seed: int, size: int, epoch: int) -> None:
    ids = sample_ids(seed, size, True, epoch * size, size)
    assert ids.dtype == np.int64
    assert np.array_equal(np.sort(ids), np.arange(size))


@pytest.mark.parametrize("shuffle", [True, False])
@given(
    seed=SEEDS,
    size=st.integers(1, 700),
    start=st.integers(0, 5000),
    count=st.integers(0, 300),
    done=st.integers(0, 300),
)
def test_restart_at_any_position_continues_the_same_order(
    shuffle: bool, seed: int, size: int, start: int, count: int, done: int
) -> None:
    whole = sample_ids(seed, size, shuffle, start, count)
    done = min(done, count)
    again = sample_ids(seed, size, shuffle, start + done, count - done)
    assert np.array_equal(whole[done:], again)


@given(
    seed=SEEDS,
    size=st.integers(1, 500),
    step=st.integers(0, 200),
    share=st.integers(1, 8),
    ranks=st.sampled_from([1, 2, 3, 4, 8]),
)
def test_every_data_parallel_split_covers_the_same_ids(seed: int, size: int, step: int, share: int, ranks: int) -> None:
    batch = share * 24  # divides by every degree above
    whole = sample_ids(seed, size, True, step * batch, batch)
    parts = [sample_ids(seed, size, True, step * batch + r * batch // ranks, batch // ranks) for r in range(ranks)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_order_differs_between_epochs_and_between_seeds() -> None:
    first, second = sample_ids(1, 1000, True, 0, 1000), sample_ids(1, 1000, True, 1000, 1000)
    other = sample_ids(2, 1000, True, 0, 1000)
    for a, b in [(first, second), (first, other), (first, np.arange(1000))]:
        # The number of fixed points between two random permutations is Poisson with mean 1.
        assert np.count_nonzero(a == b) < 10


def test_order_carries_no_trace_of_the_position() -> None:
    size = 20_000
    ids = sample_ids(3, size, True, 0, size)
    assert abs(np.corrcoef(ids, np.arange(size))[0, 1]) < 0.03
    assert abs(np.corrcoef(ids[:-1], ids[1:])[0, 1]) < 0.03
    half = ids[: size // 2]
    assert abs(half.mean() / (size / 2) - 1) < 0.02


def test_every_permutation_of_a_small_set_occurs() -> None:
    seen = {tuple(sample_ids(0, 4, True, epoch * 4, 4)) for epoch in range(600)}
    assert len(seen) == 24


def test_without_shuffling_ids_are_positions_modulo_size() -> None:
    assert sample_ids(7, 5, False, 3, 6).tolist() == [3, 4, 0, 1, 2, 3]


def test_a_set_of_a_trillion_samples_costs_no_memory() -> None:
    ids = sample_ids(0, 10**12, True, 10**11, 1000)
    assert len(np.unique(ids)) == 1000
    assert ids.min() >= 0
    assert ids.max() < 10**12


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be at least 1, not 0"):
        sample_ids(0, 0, True, 0, 1)


@given(seed=SEEDS, step=st.integers(0, 10**9))
def test_dropout_keys_differ_by_sample_step_and_seed(seed: int, step: int) -> None:
    ids = np.arange(64, dtype=np.int64)
    keys = np.concatenate(
        [dropout_keys(seed, step, ids), dropout_keys(seed, step + 1, ids), dropout_keys(seed + 1, step, ids)]
    )
    assert keys.dtype == np.int64
    assert len(np.unique(keys)) == len(keys)


def test_dropout_key_of_a_sample_does_not_depend_on_its_place_in_the_batch() -> None:
    ids = np.array([9, 4, 7], dtype=np.int64)
    assert dropout_keys(5, 6, ids)[1] == dropout_keys(5, 6, ids[1:2])[0]
