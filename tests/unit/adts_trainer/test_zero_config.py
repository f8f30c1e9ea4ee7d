"""What DeepSpeed is told, its loss scaler in our words, and the flat ranges it keeps as rectangles."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adts_api.topology import Topology
from adts_api.training import Precision
from adts_api.v1alpha1 import Spec
from adts_trainer.checkpoint_region import Pieces, rectangles
from adts_trainer.parallel.tensor import Cut
from adts_trainer.parallel.zero_config import zero_config
from adts_trainer.parallel.zero_scaler import ZeroScaler
from adts_trainer.precision import LossScaler

FOUR = Topology(pp=1, dp_replicate=1, dp_shard=4, tp=1)


def config(*, on_gpu: bool = False, **blocks: Any) -> dict[str, Any]:
    blocks = {"zero": {"stage": 2}, "training": {"globalBatchSize": 32}, **blocks}
    return zero_config(Spec.model_validate(blocks), FOUR, on_gpu=on_gpu)


@pytest.mark.parametrize(
    ("blocks", "path", "value"),
    [
        ({}, "gradient_clipping", 0.0),
        ({"optimizer": {"clipNorm": 3.0}}, "gradient_clipping", 0.0),
        ({}, "train_micro_batch_size_per_gpu", 8),
        ({"parallelism": {"microbatches": 2}}, "train_micro_batch_size_per_gpu", 4),
        ({"parallelism": {"microbatches": 2}}, "gradient_accumulation_steps", 2),
        ({}, "zero_force_ds_cpu_optimizer", False),
        ({}, "communication_data_type", None),
        ({"precision": {"dtype": "bf16"}}, "communication_data_type", "fp32"),
        ({"precision": {"dtype": "bf16"}}, "data_types.grad_accum_dtype", "fp32"),
        ({"precision": {"dtype": "bf16"}, "zero": {"stage": 1}}, "data_types.grad_accum_dtype", "fp32"),
        ({"precision": {"dtype": "fp16"}, "zero": {"stage": 1}}, "data_types.grad_accum_dtype", "fp32"),
        ({"precision": {"dtype": "fp16", "lossScaleInterval": 7}}, "fp16.loss_scale_window", 7),
        ({"precision": {"dtype": "fp16"}}, "fp16.hysteresis", 1),
        ({"precision": {"dtype": "fp16"}}, "bf16", None),
        ({}, "pipeline", None),
        ({"parallelism": {"pipeline": 2, "tensor": 2}}, "pipeline.pipe_partitioned", True),
        ({"parallelism": {"pipeline": 2, "tensor": 2, "sequenceParallel": True}}, "pipeline.pipe_partitioned", False),
        ({"parallelism": {"pipeline": 2, "tensor": 2, "sequenceParallel": True}}, "pipeline.grad_partitioned", False),
        ({"communication": {"bucketMegabytes": 1.0}}, "zero_optimization.reduce_bucket_size", 1024 * 1024 // 4),
        ({}, "zero_optimization.offload_optimizer", None),
        ({"zero": {"stage": 1, "offload": {"optimizer": "cpu"}}}, "zero_optimization.offload_optimizer.device", "cpu"),
        ({"zero": {"stage": 3, "offload": {"parameters": "cpu"}}}, "zero_optimization.offload_param.device", "cpu"),
    ],
)
def test_the_configuration_says(blocks: dict[str, Any], path: str, value: Any) -> None:
    found: Any = config(**blocks)
    for key in path.split("."):
        found = (found or {}).get(key)
    assert found == value


@pytest.mark.parametrize("on_gpu", [False, True])
def test_memory_is_pinned_where_there_is_a_gpu(on_gpu: bool) -> None:
    offloaded = config(zero={"stage": 3, "offload": {"optimizer": "cpu"}}, on_gpu=on_gpu)["zero_optimization"]
    assert offloaded["offload_optimizer"]["pin_memory"] is on_gpu


class Theirs:
    """The counters of DeepSpeed's dynamic loss scaler."""

    def __init__(self, interval: int) -> None:
        self.cur_scale, self.cur_iter, self.last_overflow_iter = 2.0**16, 0, -1
        self.min_scale, self._interval = 1.0, interval

    def update_scale(self, overflow: bool) -> None:
        stable = self.cur_iter - self.last_overflow_iter - 1
        if overflow:
            self.cur_scale, self.last_overflow_iter = max(self.cur_scale / 2, self.min_scale), self.cur_iter
        elif stable > 0 and stable % self._interval == 0:
            self.cur_scale *= 2
        self.cur_iter += 1


FP16 = Precision(dtype="fp16", loss_scale_interval=3, initial_loss_scale=1000.0)


@given(st.lists(st.booleans(), max_size=20), st.lists(st.booleans(), max_size=20))
def test_a_restored_scale_goes_on_as_if_nothing_had_happened(before: list[bool], after: list[bool]) -> None:
    whole, first, second = (ZeroScaler(FP16, Theirs(3)) for _ in range(3))
    for overflow in before:
        whole._theirs.update_scale(overflow)
        first._theirs.update_scale(overflow)
    second.restore(first.state())
    for overflow in after:
        whole._theirs.update_scale(overflow)
        second._theirs.update_scale(overflow)
        assert second.scale == whole.scale


def test_the_scale_passes_between_the_two_scalers() -> None:
    ours, theirs = LossScaler(FP16), ZeroScaler(FP16, Theirs(3))
    assert theirs.scale == ours.scale == 1000.0
    ours.overflowed()
    ours.stepped()
    theirs.restore(ours.state())
    assert theirs.state() == ours.state() == {"active": True, "scale": 500.0, "goodSteps": 1}


def test_a_scale_below_one_is_reached_and_told() -> None:
    scaler = ZeroScaler(FP16.model_copy(update={"initial_loss_scale": 1.0}), Theirs(3))
    assert scaler.absorbs_overflow
    scaler._theirs.update_scale(True)
    assert (scaler.scale, scaler.absorbs_overflow) == (0.5, False)


shapes = st.lists(st.integers(1, 4), max_size=4).map(tuple)


@given(shapes, st.data())
def test_a_range_is_made_of_few_rectangles_in_its_order(shape: tuple[int, ...], data: st.DataObject) -> None:
    size = math.prod(shape)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    whole = torch.arange(size).view(shape)
    parts = rectangles(shape, start, stop)
    read = [whole[tuple(slice(o, o + s) for o, s in zip(*part, strict=True))].flatten() for part in parts]
    assert torch.equal(torch.cat([torch.arange(0), *read]), torch.arange(start, stop))
    assert len(parts) <= max(1, 2 * len(shape) - 1)


def test_the_pieces_of_a_range_share_its_storage_and_know_their_places() -> None:
    flat = torch.arange(5.0)
    pieces = Pieces.of(flat, torch.Size((3, 3)), 2, Cut(dimension=1, first=4, whole=10))
    assert [tuple(piece.offsets) for piece in pieces.pieces] == [(0, 6), (1, 4), (2, 4)]
    assert [tuple(piece.tensor.shape) for piece in pieces.pieces] == [(1, 1), (1, 3), (1, 1)]
    assert pieces.whole == (3, 10)
    pieces.at(torch.Size((1, 4))).fill_(7.0)
    assert flat.tolist() == [0.0, 7.0, 7.0, 7.0, 4.0]
    copy = pieces.copy()
    flat.zero_()
    assert copy.at(torch.Size((1, 4))).tolist() == [[7.0, 7.0, 7.0]]
