"""`compression: {method: auto}` on real ranks: it compresses where that pays, everywhere at once, and loses nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from support import auto_cases as cases
from support.ranks import Finished, run_job, spec
from support.wire_pool import Pool

pytestmark = pytest.mark.distributed

AUTO = {
    "compression": {"method": "auto", "minElements": 64, "rank": 2},
    "training": {"steps": 32},
    "precision": {"dtype": "fp32"},
}
COMPRESSORS = "fp16|bf16|int8|onebit|powersgd|topk"


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run_job(tmp_path_factory.mktemp("fast"), 2, spec(**AUTO), prepare=cases.talking).expect()


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two replicas, each of two tensor ranks: two groups that exchange gradients."""
    auto = spec(**AUTO, parallelism={"tensor": 2})
    return run_job(tmp_path_factory.mktemp("slow"), 4, auto, prepare=cases.slow, timeout=120).expect()


def changes(run: Finished) -> dict[str, list[tuple[str, str]]]:
    """Method and step of each change, by rank."""
    found: dict[str, list[tuple[str, str]]] = {}
    for rank, method, step in re.findall(r"rank (\d) has (\w+) from step (\d+)", run.output):
        found.setdefault(rank, []).append((method, step))
    return found


def test_the_prediction_is_told_with_its_reasons(fast: Finished) -> None:
    assert re.search(
        r"auto: dp_replicate 2 ranks, \S+ MB/s, \S+ ms; buckets of \S+ MiB; probed in \S+ s\n", fast.output
    )
    (told,) = re.findall(r"predicted seconds to exchange .*: (.*)", fast.output)
    assert {it.split()[0] for it in told.split(", ")} == {"none", *COMPRESSORS.split("|")}


def test_a_fast_link_ends_with_none_or_with_what_was_measured_to_be_faster(fast: Finished) -> None:
    (kept,) = re.findall(rf"auto: from step \d+: (none|{COMPRESSORS}): (.*)", fast.output)
    trial = dict(reversed(it) for it in re.findall(rf"(\S+) s with (none|{COMPRESSORS})", kept[1]))
    assert kept[0] == "none" or float(trial[kept[0]]) < float(trial["none"])


def test_a_slow_link_ends_with_a_compressor(slow: Finished) -> None:
    (kept,) = re.findall(rf"auto: from step \d+: ({COMPRESSORS}): the median step took", slow.output)
    assert slow.metrics[-1]["compression_ratio"] > 1.5
    assert changes(slow)["0"][-1][0] == kept
    assert slow.metrics[-1]["exposed_seconds"] < slow.metrics[2]["exposed_seconds"]


def test_all_ranks_change_at_the_same_step(slow: Finished) -> None:
    by_rank = changes(slow)
    assert set(by_rank) == set("0123")
    assert all(it == by_rank["0"] for it in by_rank.values())
    assert len(by_rank["0"]) >= 3, "to the rival, back to none, and to the rival again"


def test_the_loss_is_that_of_training(slow: Finished, fast: Finished) -> None:
    """The same samples and weights, through other changes of compressors."""
    assert fast.series("loss")[:5] == pytest.approx(slow.series("loss")[:5], rel=1e-4), "nothing is compressed yet"
    assert slow.series("loss")[-1] == pytest.approx(fast.series("loss")[-1], rel=0.1)
    assert slow.series("loss")[-1] < slow.series("loss")[0] - 0.3


def test_a_link_that_changes_is_measured_anew(tmp_path: Path) -> None:
    auto = spec(**{**AUTO, "training": {"steps": 72}})
    run = run_job(tmp_path, 2, auto, prepare=cases.slow_later).expect()
    before, _, after = run.output.partition("measuring anew")
    assert re.search(r"steps wait \S+ s for gradients instead of \S+ s; $", before)
    assert re.search(rf"from step \d+: ({COMPRESSORS}): the median step took", after)
    predicted = [float(it) for it in re.findall(r"none (\S+) \(0\)", run.output)]
    assert predicted[1] > 5 * predicted[0]
    by_rank = changes(run)
    assert by_rank["0"] == by_rank["1"]


ORDER = ("int8", "int8", "onebit", "powersgd", "topk", "bf16", "powersgd")


@pytest.mark.parametrize("world", [2, 3])
def test_a_change_flushes_the_residual_into_the_next_gradient(pool: Pool, world: int) -> None:
    for order in (ORDER, (*ORDER, "none")):
        ranks = pool.run(world, cases.lost_by_changes, order)
        given = torch.stack([own for _, own, _ in ranks]).sum(0)
        kept = torch.stack([residual for _, _, residual in ranks]).sum(0)
        assert all(torch.equal(applied, ranks[0][0]) for applied, _, _ in ranks)
        assert (ranks[0][0] + kept - given).norm() <= 1e-12 * given.norm()
        assert bool(kept.any()) == (order[-1] != "none")


def test_a_change_that_forgets_the_residual_is_noticed(pool: Pool) -> None:
    ranks = pool.run(2, cases.lost_by_changes, (*ORDER, "none"))
    given = torch.stack([own for _, own, _ in ranks]).sum(0)
    assert (ranks[0][0] - given).norm() <= 1e-12 * given.norm()
    naive = pool.run(2, cases.lost_by_changes, (*ORDER, "none"), True)
    assert (naive[0][0] - given).norm() > 0.05 * given.norm()


def test_the_probe_finds_a_slow_link_and_does_not_stay_long(pool: Pool) -> None:
    links = pool.run(2, cases.slow_link)
    assert links[0][0] == links[1][0], "the slowest rank's, for all"
    assert links[0][0].bytes_per_second == pytest.approx(4e6, rel=0.3)
    assert all(seconds < 2.0 for _, seconds in links)
