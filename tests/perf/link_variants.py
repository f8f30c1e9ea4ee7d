"""What the link benchmark compares: one training of the same model per variant, driven step by step."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from adts_api.v1alpha1 import DistributedTraining
from adts_api.validate import parse
from adts_trainer.communication.reducer import Traffic
from adts_trainer.context import RankContext
from adts_trainer.distributed_setup import Processes
from adts_trainer.selfcheck.cells import manifest, merged
from adts_trainer.session import Session
from perf.bare_loops import Run, alone, ddp, deepspeed
from perf.step_time import our_loop, our_session

COMPUTE, PLAIN, AUTO = "compute only", "torch ddp", "ours auto"
ONE_BUCKET_MEGABYTES = 1000
"""More than all gradients: the default makes a first bucket of 1 MB, and stock PowerSGD aborts on gloo with two."""
LONGEST_TRIAL_STEPS = 200
_SAID = "compression auto: "
_DECIDED = re.compile(r"from step (\d+): (\w+): (.*)")
_PROBED = re.compile(r"probed in ([\d.]+) s")


@dataclass
class Variant:
    """A training that does one step when asked."""

    step: Callable[[], None]
    traffic: Callable[[], Traffic | None] = lambda: None
    """What our reducer says of the last step; None where it has no part."""


@dataclass
class Builder:
    """Makes variants of one model on one rank."""

    base: dict[str, Any]
    """`spec` without compression and checkpoint."""
    context: RankContext
    processes: Processes
    folder: Path
    _made: int = 0

    def variant(self, name: str) -> Variant:
        """One of VARIANTS."""
        return VARIANTS[name](self)

    def job(self, **changes: Any) -> DistributedTraining:
        """The manifest with blocks changed, and a checkpoint folder that no other has."""
        self._made += 1
        own = {"checkpoint": {"path": str(self.folder / f"checkpoints-{self._made}")}}
        return parse(manifest(merged(self.base, own, changes)))

    def bare(self, loop: Callable[..., Run], *, zero: int = 0, **options: Any) -> Variant:
        """A loop of `bare_loops`."""
        run = loop(self.job(zero={"stage": zero}), self.processes, **options)
        return Variant(lambda: run(1))

    def ours(self, compression: dict[str, Any], **changes: Any) -> Variant:
        """A training of ours."""
        return of_session(our_session(self.job(compression=compression, **changes), self.context, self.processes))

    def deepspeed(self) -> Variant:
        """DeepSpeed at stage 0, where gradients are all that travels, cast to bf16 for it."""
        job = self.job(zero={"engine": "deepspeed", "stage": 1})
        changes = {"communication_data_type": "bf16", "zero_optimization": {"stage": 0}}
        run = deepspeed(job, self.processes, **changes)
        return Variant(lambda: run(1))


def of_session(session: Session) -> Variant:
    """A session as a variant. The model's reducer is nobody's to ask for from outside, but its traffic is the point."""
    run, model = our_loop(session), session.step._model
    return Variant(lambda: run(1), lambda: model.reducer.traffic if model.reducer is not None else None)


def _fp16_hook(builder: Builder) -> Variant:
    return builder.bare(ddp, hook=(None, fp16_compress_hook))


def _powersgd_hook(builder: Builder, **options: Any) -> Variant:
    state = PowerSGDState(process_group=None, matrix_approximation_rank=4, start_powerSGD_iter=2)
    return builder.bare(ddp, hook=(state, powerSGD_hook), **options)


MANY_BUCKETS = "torch powersgd hook, default buckets"
"""Aborts the process sooner or later: not one of VARIANTS that share processes."""
POWERSGD = {"method": "powersgd", "rank": 4, "cast": "fp16"}
VARIANTS: dict[str, Callable[[Builder], Variant]] = {
    COMPUTE: lambda it: it.bare(alone),
    PLAIN: lambda it: it.bare(ddp),
    "torch fp16 hook": _fp16_hook,
    "torch powersgd hook": lambda it: _powersgd_hook(it, bucket_cap_mb=ONE_BUCKET_MEGABYTES),
    MANY_BUCKETS: _powersgd_hook,
    "deepspeed bf16": lambda it: it.deepspeed(),
    "ours none": lambda it: it.ours({"method": "none"}),
    "ours bf16": lambda it: it.ours({"method": "bf16"}),
    "ours int8": lambda it: it.ours({"method": "int8"}),
    "ours onebit": lambda it: it.ours({"method": "onebit"}),
    "ours powersgd": lambda it: it.ours(POWERSGD),
    "ours topk": lambda it: it.ours({"method": "topk"}),
}
FIXED = tuple(name for name in VARIANTS if name.startswith("ours "))
SMALL_BUCKET_MEGABYTES = 4.0


def _overlapped(compression: dict[str, Any], **communication: Any) -> Callable[[Builder], Variant]:
    """A training whose reducer is ours, also where nothing is compressed, and which tells what its exchange cost."""
    changes = {"zero": {"engine": "native"}, "communication": communication}
    return lambda builder: builder.ours(compression, **changes)


OVERLAPPED: dict[str, Callable[[Builder], Variant]] = {
    COMPUTE: VARIANTS[COMPUTE],
    **{
        f"{compression['method']}, {told}": _overlapped(compression, **communication)
        for compression in ({"method": "none"}, {"method": "int8"}, POWERSGD)
        for told, communication in {
            "default buckets": {},
            f"{SMALL_BUCKET_MEGABYTES:g} MiB buckets": {"bucketMegabytes": SMALL_BUCKET_MEGABYTES},
        }.items()
    },
}
"""For the share of communication that is exposed: what leaves in large buckets cannot leave early."""


@dataclass
class Auto:
    """`compression: auto` on one link, from its probe to its decision."""

    variant: Variant
    said: list[str] = field(default_factory=list)
    """What it logged, on the lead."""
    steps: int = 0
    """Until it had decided."""

    @classmethod
    def decided(cls, builder: Builder) -> Auto:
        """Open a session and train until it has chosen, as its log says."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            it = cls(builder.ours({"method": "auto"}))
            while it.steps < LONGEST_TRIAL_STEPS:
                it.variant.step()
                it.steps += 1
                is_decided = any(_DECIDED.search(line) for line in output.getvalue().splitlines())
                if builder.processes.sum_later(float(is_decided)).wait()[0]:
                    break
        it.said = [line.removeprefix(_SAID) for line in output.getvalue().splitlines() if line.startswith(_SAID)]
        for line in it.said:
            print(f"  auto: {line}", file=sys.stdout, flush=True)
        return it

    def summary(self) -> dict[str, Any]:
        """Choice, reason, probe seconds, steps until the decision."""
        found = next((match for line in self.said if (match := _DECIDED.search(line))), None)
        probed = next((match for line in self.said if (match := _PROBED.search(line))), None)
        return {
            "chose": found[2] if found else "nothing yet",
            "because": found[3] if found else "",
            "probe seconds": float(probed[1]) if probed else None,
            "steps until decided": self.steps,
            "said": self.said,
        }
