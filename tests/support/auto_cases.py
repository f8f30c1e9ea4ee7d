"""What ranks do in the tests of `compression: {method: auto}`: links slow by agreement, and changes half-way."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from torch import Tensor, nn

from adts_api.training import Compression
from adts_trainer.commands.bench_comm import bench
from adts_trainer.communication import decisions, methods
from adts_trainer.communication.auto import Tuner
from adts_trainer.communication.bucket import Build, Policy
from adts_trainer.communication.channel import Channel
from adts_trainer.communication.prediction import Link
from adts_trainer.communication.probe import measure_link
from adts_trainer.communication.reducer import Reducer, Traffic
from adts_trainer.communication.wire import Wire
from adts_trainer.context import RankContext
from adts_trainer.parallel import apply


class SlowWire(Wire):
    """Not a network: the bytes travel as ever, and then the rank sleeps in proportion to those it sent."""

    bytes_per_second = 4e5

    def all_reduce(self, tensor: Tensor) -> None:
        with self._slowly():
            super().all_reduce(tensor)

    def all_gather(self, tensor: Tensor) -> Tensor:
        with self._slowly():
            return super().all_gather(tensor)

    def all_to_all(self, rows: Tensor) -> Tensor:
        with self._slowly():
            return super().all_to_all(rows)

    @contextmanager
    def _slowly(self) -> Iterator[None]:
        before = self.sent
        yield
        time.sleep((self.sent - before) / self.bytes_per_second)


class TalkingTuner(Tuner):
    """Says on every rank what it changes to."""

    def before(self, step: int, last: Traffic) -> Build | None:
        build = super().before(step, last)
        if build is not None:
            print(f"rank {self._processes.rank} has {self._method} from step {step}", flush=True)
        return build


def talking(context: RankContext) -> None:
    """Changes of this rank can be read in its output."""
    apply.Tuner = TalkingTuner  # type: ignore[misc]


def slow(context: RankContext) -> None:
    """And its gradients travel over a SlowWire."""
    talking(context)
    apply.Wire = SlowWire  # type: ignore[misc]


def slow_later(context: RankContext) -> None:
    """The link becomes slow once all is decided, and `auto` looks again soon."""

    class Later(TalkingTuner):
        def before(self, step: int, last: Traffic) -> Build | None:
            build = super().before(step, last)
            if self._phase.kind == "kept":
                SlowWire.bytes_per_second = 1e6
            return build

    slow(context)
    decisions.CHECK_STEPS = decisions.RETRY_STEPS = 4
    SlowWire.bytes_per_second = 1e12
    apply.Tuner = Later  # type: ignore[misc]


def slow_link(wire: Wire) -> tuple[Link, float]:
    """What the probe finds on 4 MB/s, and the seconds it takes."""
    made = SlowWire(wire.group)
    made.bytes_per_second = 4e6
    begin = time.perf_counter()
    return measure_link(made, torch.device("cpu"), wire.group), time.perf_counter() - begin


def lost_by_changes(wire: Wire, order: Sequence[str], forgets: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Steps through a reducer that changes its compressor before each: what was applied, what this rank gave, and what
    it still keeps. `forgets`: the obvious change, to a channel made anew."""
    parameter = nn.Parameter(torch.zeros(48, 32, dtype=torch.float64))
    reducer = Reducer([("w", parameter)], wire, 25.0, policy=_policy("none"), tune=lambda step, _: _build(order[step]))
    applied, given = torch.zeros(48, 32).double(), torch.zeros(48, 32).double()
    for step in range(len(order)):
        gradient = torch.randn(48, 32, generator=torch.Generator().manual_seed(100 * step + wire.rank)).double()
        if forgets:
            for bucket in reducer.buckets:
                bucket.channel = Channel(bucket.exact, error_feedback=True)
        reducer.begin(step, 1, lambda: 1.0)
        (parameter * gradient).sum().backward()
        reducer.finish()
        assert parameter.grad is not None
        applied, given = applied + parameter.grad, given + gradient
        reducer.commit()
        reducer.drop()
        parameter.grad = None
    return applied, given, reducer.residuals()["w"] + reducer.owner_residuals()["w"]


def _build(method: str) -> Build:
    return functools.partial(methods.build, Compression.model_validate({"method": method, "rank": 2}), seed=0)


def _policy(method: str) -> Policy:
    return Policy(_build(method), frozenset(), 0, 0, error_feedback=True)


def bench_as_rank(environ: Mapping[str, str], output: Path) -> None:
    """`adts bench comm` as a process that something else has started."""
    os.environ.update(environ)
    with output.open("w") as stream, redirect_stdout(stream):
        bench.main(["comm", "--size", "0.1", "--method", "none", "--repetitions", "1"], standalone_mode=False)
