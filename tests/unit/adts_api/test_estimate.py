"""The closed forms of memory and time: bounds, orders and sums that must hold whatever the sizes."""

from __future__ import annotations

from typing import Any

import pytest
from torch.distributed.pipelining import schedules
from torch.distributed.pipelining.schedules import _ComputationType as Computation

from adts_api.estimate_memory import KINDS, peak
from adts_api.estimate_time import Hardware, cost
from adts_api.pipelining import V_SHAPED, stages_per_rank
from adts_api.stages import bubble_fraction, in_flight, stacks
from adts_api.v1alpha1 import Spec

GPT: dict[str, Any] = {"type": "gpt", "layers": 8, "hiddenSize": 256, "heads": 8, "vocabularySize": 1000}
H100 = Hardware("H100", worker_link=450e9, network_link=50e9)


def spec(**blocks: Any) -> Spec:
    base: dict[str, Any] = {
        "model": GPT,
        "data": {"type": "synthetic", "sequenceLength": 128},
        "training": {"steps": 1, "globalBatchSize": 64},
        "workers": {"replicas": 1, "gpusPerWorker": 8},
    }
    merged = {**base, **{name: {**base.get(name, {}), **block} for name, block in blocks.items()}}
    return Spec.model_validate(merged, by_alias=True)


def pipelined(degree: int, **parallelism: Any) -> Spec:
    return spec(parallelism={"pipeline": degree, "microbatches": 8, **parallelism})


LOOPED = {
    "Interleaved1F1B": schedules.ScheduleInterleaved1F1B,
    "InterleavedZeroBubble": schedules.ScheduleInterleavedZeroBubble,
    "LoopedBFS": schedules.ScheduleLoopedBFS,
    "ZBVZeroBubble": schedules.ScheduleZBVZeroBubble,
    "DualPipeV": schedules.ScheduleDualPipeV,
}
TABLES = [
    (name, degree, rounds * degree * (2 if name in V_SHAPED else 1))
    for name in LOOPED
    for degree in (2, 4)
    for rounds in (1, 2, 4)
]


@pytest.mark.parametrize(("name", "degree", "microbatches"), TABLES)
def test_no_rank_holds_more_passes_than_the_bound_says(name: str, degree: int, microbatches: int) -> None:
    for rank in range(degree):
        held = most_held(torch_table(name, degree, microbatches, rank))
        bound = in_flight(name, degree, rank, microbatches)
        assert held <= bound <= 2 * held + 1, (rank, held, bound)


def torch_table(name: str, degree: int, microbatches: int, rank: int) -> list[Any]:
    """What torch's schedule makes one rank do, without process groups and modules."""
    schedule = object.__new__(LOOPED[name])
    stages = stages_per_rank(name)
    rounds = max(1, microbatches // degree)
    schedule.__dict__.update(
        pp_group_size=degree,
        n_local_stages=stages,
        number_of_rounds=rounds,
        microbatches_per_round=microbatches // rounds,
        num_stages=degree * stages,
        _num_stages=degree * stages,
        _n_microbatches=microbatches,
        rank=rank,
        _stages=[None] * stages,
    )
    return [action for action in schedule._calculate_single_rank_operations(rank) if action is not None]


def most_held(actions: list[Any]) -> int:
    """Forward passes less those whose activations are free: after the whole backward pass, or that of the weights."""
    held = most = 0
    for action in actions:
        for part in action.sub_actions or (action,):
            held += part.computation_type == Computation.FORWARD
            most = max(most, held)
            held -= part.computation_type in (Computation.FULL_BACKWARD, Computation.BACKWARD_WEIGHT)
    assert held == 0
    return most


def test_a_pipeline_holds_every_parameter_once_and_a_tied_matrix_twice() -> None:
    whole = stacks(spec())[0].elements
    for degree, schedule in ((2, "1F1B"), (4, "Interleaved1F1B"), (8, "GPipe")):
        ranks = stacks(pipelined(degree, schedule=schedule))
        assert sum(it.elements for it in ranks) == whole + ranks[-1].output_weight
    shaped = stacks(pipelined(4, schedule="ZBVZeroBubble"))
    assert sum(it.elements for it in shaped) == whole, "the first rank has both ends"


@pytest.mark.parametrize("schedule", ["GPipe", "1F1B", "Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble"])
def test_more_microbatches_shrink_the_bubble(schedule: str) -> None:
    fractions = [bubble_fraction(schedule, 4, microbatches) for microbatches in (4, 8, 16, 32)]
    assert fractions == sorted(fractions, reverse=True)
    assert 0 < fractions[-1] < fractions[0] < 1


def test_the_bubble_of_gpipe_is_the_papers() -> None:
    assert bubble_fraction("GPipe", 4, 8) == pytest.approx(3 / 11)
    assert bubble_fraction("Interleaved1F1B", 4, 8) < bubble_fraction("1F1B", 4, 8)
    assert bubble_fraction("ZBVZeroBubble", 4, 8) == 0


def test_kinds_of_memory_add_up_and_none_is_negative() -> None:
    for job in (spec(), spec(zero={"stage": 3}), pipelined(4), spec(precision={"dtype": "bf16"})):
        found = peak(job)
        assert tuple(found.kinds) == KINDS
        assert min(found.kinds.values()) >= 0
        assert sum(found.kinds.values()) == found.total


SMALLER: dict[str, tuple[Spec, Spec]] = {
    "stage 1 than 0": (spec(zero={"stage": 1}), spec(zero={"engine": "native"})),
    "stage 2 than 1": (
        spec(zero={"stage": 2}, parallelism={"microbatches": 4}),
        spec(zero={"stage": 1}, parallelism={"microbatches": 4}),
    ),
    "stage 3 than 2": (spec(zero={"stage": 3}), spec(zero={"stage": 2})),
    "recomputation": (spec(training={"activationCheckpointing": "full"}), spec()),
    "more micro-batches": (spec(parallelism={"microbatches": 4}, zero={"stage": 2}), spec(zero={"stage": 2})),
    "two tensor ranks of four data ranks": (
        spec(parallelism={"tensor": 8}, training={"globalBatchSize": 8}),
        spec(training={"globalBatchSize": 64}),
    ),
    "bf16": (spec(precision={"dtype": "bf16"}, zero={"stage": 3}), spec(zero={"stage": 3})),
    "1F1B than GPipe": (pipelined(4, schedule="1F1B"), pipelined(4, schedule="GPipe")),
    "sequence parallel": (
        spec(parallelism={"tensor": 4, "sequenceParallel": True}, precision={"dtype": "bf16"}),
        spec(parallelism={"tensor": 4}, precision={"dtype": "bf16"}),
    ),
    "sgd than adamw": (spec(optimizer={"name": "sgd"}), spec()),
    "no error feedback": (
        spec(compression={"method": "int8", "errorFeedback": False}),
        spec(compression={"method": "int8"}),
    ),
}


@pytest.mark.parametrize(("small", "large"), SMALLER.values(), ids=SMALLER)
def test_what_saves_memory_is_predicted_to(small: Spec, large: Spec) -> None:
    assert peak(small).total < peak(large).total


def test_stage_2_costs_what_stage_1_costs_in_a_pipeline() -> None:
    one, two = (peak(spec(parallelism={"pipeline": 2, "microbatches": 4}, zero={"stage": n})) for n in (1, 2))
    assert one.kinds == two.kinds


def test_no_seconds_without_the_hardware() -> None:
    assert cost(spec(), Hardware()).seconds is None
    assert cost(spec(), Hardware(gpu="H100")).seconds is None, "the links inside the worker are unknown"
    assert cost(spec(), H100).seconds is not None
    alone = spec(workers={"gpusPerWorker": 1})
    assert cost(alone, Hardware(gpu="H100")).seconds is not None, "there is no link"


def test_a_ring_sends_its_share_of_the_gradients() -> None:
    (data,) = cost(spec(), H100).traffic
    assert data.bytes == pytest.approx(2 * 7 / 8 * stacks(spec())[0].elements * 4)
    assert not data.leaves_worker
    (apart,) = cost(spec(workers={"replicas": 2, "gpusPerWorker": 4}), H100).traffic
    assert apart.leaves_worker


def test_replicas_that_train_apart_send_gradients_once_a_round() -> None:
    (together,), (apart,) = (cost(spec(communication={"syncEvery": it}), H100).traffic for it in (1, 10))
    assert (together.axis, apart.axis) == ("data", "replicas")
    assert apart.bytes == pytest.approx(together.bytes / 10)


def test_recomputation_costs_a_forward_pass_of_the_layers() -> None:
    plain, again = cost(spec(), H100), cost(spec(training={"activationCheckpointing": "full"}), H100)
    assert 1.2 < again.flops / plain.flops < 4 / 3
    assert again.recomputed == pytest.approx(1 - plain.flops / again.flops)
