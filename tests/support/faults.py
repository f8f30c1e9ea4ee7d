"""What can be done to a rank before it starts: other data, a full disk, slow steps. Importable in ranks."""

from __future__ import annotations

import errno
import os
from typing import Any

from adts_trainer import session
from adts_trainer.context import RankContext
from adts_trainer.selfcheck.uneven import UnevenTargets, uneven_targets

__all__ = [
    "UnevenTargets",
    "clipped_by_the_local_norm",
    "count_collectives",
    "disk_full_on_rank_1",
    "rank_1_ends_in_step_3",
    "rank_1_never_starts",
    "read_only_on_rank_0",
    "slow_steps",
    "uneven_targets",
    "without_compiler",
]


def disk_full_on_rank_1(context: RankContext) -> None:
    """No space left when rank 1 writes a checkpoint after the first one."""
    _fail_sync(context, 1, after=1, number=errno.ENOSPC)


def read_only_on_rank_0(context: RankContext) -> None:
    """The file system of the lead is read-only when it commits its second checkpoint."""
    _fail_sync(context, 0, after=12, number=errno.EROFS)


def _fail_sync(context: RankContext, rank: int, *, after: int, number: int) -> None:
    if context.rank != rank:
        return
    original, calls = os.fsync, 0

    def fsync(descriptor: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(number, os.strerror(number))
        original(descriptor)

    os.fsync = fsync


def clipped_by_the_local_norm(context: RankContext) -> None:
    """Each rank clips by the norm of the gradients it has, as `clip_grad_norm_` would: no rank asks the others."""
    from torch.nn.utils import get_total_norm

    from adts_trainer.parallel.model import ParallelModel

    def norm(self: ParallelModel) -> float:
        return get_total_norm([gradient for place in self.places if (gradient := place.gradient) is not None]).item()

    ParallelModel.norm = norm  # type: ignore[method-assign]


def rank_1_ends_in_step_3(context: RankContext) -> None:
    """A process that is gone, with an exit code of its own."""
    original = session.Session.run_step

    def run_step(self: session.Session, stop: bool) -> Any:
        if context.rank == 1 and self.state.step == 2:
            os._exit(9)
        return original(self, stop)

    session.Session.run_step = run_step  # type: ignore[method-assign]


def rank_1_never_starts(context: RankContext) -> None:
    """The others wait for it."""
    import time

    if context.rank == 1:
        time.sleep(3600)


def slow_steps(context: RankContext) -> None:
    """Steps of at least 20 ms, so that a signal meets a running job."""
    import time

    original = session.Session.run_step

    def run_step(self: session.Session, stop: bool) -> Any:
        time.sleep(0.02)
        return original(self, stop)

    session.Session.run_step = run_step  # type: ignore[method-assign]


def without_compiler(context: RankContext) -> None:
    """No C++ compiler is on PATH."""
    os.environ["PATH"] = "/nonexistent"
    os.environ.pop("CXX", None)


def count_collectives(context: RankContext) -> None:
    """Print the bytes that the collectives of each step send as rings, the control sums in fp64 left out."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    ranks = context.world_size
    inputs = {"allreduce_": (0, 2 / ranks), "_allgather_base_": (1, 1), "_reduce_scatter_base_": (1, 1 / ranks)}
    inputs["alltoall_base_"] = (1, 1 / ranks)

    class Counter(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.total = 0.0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func._schema.name.removeprefix("c10d::")
            if name in inputs:  # broadcasts happen once, when DDP lays out its buckets
                argument, share = inputs[name]
                given = args[argument]
                for tensor in given if isinstance(given, list) else [given]:
                    self.total += tensor.nbytes * (ranks - 1) * share if tensor.dtype != torch.float64 else 0
            return func(*args, **(kwargs or {}))

    original = session.Session.run_step

    def run_step(self: session.Session, stop: bool) -> Any:
        with Counter() as counter:
            result = original(self, stop)
        print(f"counted {counter.total:.0f}", flush=True)
        return result

    session.Session.run_step = run_step  # type: ignore[method-assign]
