"""Which samples a data rank reads, and the digest that proves it."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from adts_api.topology import Topology
from adts_api.v1alpha1 import Spec
from adts_trainer.data.synthetic import SyntheticTokens
from adts_trainer.distributed_setup import Processes
from adts_trainer.feed import Feed, digest
from adts_trainer.sampler import sample_ids

GLOBAL = 48


def feed(rank: int, ranks: int, micro_batches: int = 1) -> Feed:
    spec = Spec.model_validate(
        {"training": {"globalBatchSize": GLOBAL}, "parallelism": {"microbatches": micro_batches}}
    )
    processes = Processes(rank, ranks, torch.device("cpu"), None, Topology(1, ranks, 1, 1))  # type: ignore[arg-type]
    return Feed(SyntheticTokens(0, "", 8, 61), spec, processes, torch.float32)


@given(
    ranks=st.sampled_from([1, 2, 3, 4, 6, 8, 12]),
    micro_batches=st.sampled_from([1, 2]),
    step=st.integers(0, 5),
    consumed=st.integers(0, 10_000),
)
def test_the_ranks_together_read_what_one_reads(ranks: int, micro_batches: int, step: int, consumed: int) -> None:
    alone = feed(0, 1).take(step, consumed)
    shares = [feed(rank, ranks, micro_batches).take(step, consumed) for rank in range(ranks)]
    parts = [batch for share in shares for batch in share.micro_batches]
    assert torch.equal(torch.cat([batch.inputs for batch in parts]), alone.micro_batches[0].inputs)
    assert torch.equal(torch.cat([batch.keys for batch in parts]), alone.micro_batches[0].keys)
    assert sum(share.digest for share in shares) == alone.digest
    assert sum(share.valid for share in shares) == alone.valid


def test_a_prepared_share_is_the_one_taken() -> None:
    ahead, late = feed(1, 2), feed(1, 2)
    ahead.prepare(3, 72)
    assert torch.equal(ahead.take(3, 72).micro_batches[0].inputs, late.take(3, 72).micro_batches[0].inputs)


def test_a_share_prepared_for_another_position_is_read_again() -> None:
    ahead = feed(0, 1)
    ahead.prepare(3, 72)
    assert ahead.take(3, 48).digest == feed(0, 1).take(3, 48).digest != ahead.take(3, 72).digest


def test_the_digest_sees_samples_that_were_exchanged() -> None:
    ids = sample_ids(0, 1000, True, 0, 16)
    exchanged = ids.copy()
    exchanged[[3, 9]] = exchanged[[9, 3]]
    assert digest(exchanged, 0) != digest(ids, 0)
    assert digest(ids, 1) != digest(ids, 0)
    assert digest(ids[:7], 0) + digest(ids[7:], 7) == digest(ids, 0)


def test_digests_of_a_million_samples_are_exact_in_fp64() -> None:
    assert digest(np.arange(1 << 20), 0) < 2**53
