"""Training loops as a user would write them with each library alone: what our engines are measured against.

All train the model of a spec on the samples of the spec, with mean cross-entropy, the library's own gradient clipping
and fused AdamW. Each function builds one and returns a function that runs some steps of it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn.parallel import DistributedDataParallel

from adts_api.v1alpha1 import DistributedTraining
from adts_trainer.batch import Batch
from adts_trainer.data_loader import open_dataset
from adts_trainer.distributed_setup import Processes
from adts_trainer.model import BuiltModel, build_model, initial_parameter
from adts_trainer.parallel.partition import own_stages
from adts_trainer.sampler import dropout_keys, sample_ids

CLIP_NORM = 1.0
Run = Callable[[int], None]
Loop = Callable[[DistributedTraining, Processes], Run]


class Task:
    """The model and the samples of a spec on one rank."""

    def __init__(self, job: DistributedTraining, processes: Processes) -> None:
        self.spec, self._processes = job.spec, processes
        self._dataset = open_dataset(
            job.spec.data,
            path=None,
            seed=0,
            cache_dir=Path("/tmp"),
            is_local_lead=True,
            barrier=lambda: None,
            model=job.spec.model,
        )
        self.share = job.spec.training.global_batch_size // processes.data_ranks
        self._position = processes.data_rank * self.share

    def build(self) -> BuiltModel:
        """The whole model, without storage."""
        return build_model(self.spec.model, self.spec.data, self._dataset.facts, seed=0, dtype=torch.float32)

    def model(self) -> BuiltModel:
        """The whole model with its initial weights."""
        built = self.build()
        fill(built.module)
        return built

    def batch(self) -> Batch:
        """This rank's samples of the next step."""
        ids = sample_ids(0, len(self._dataset), True, self._position, self.share)
        self._position += self.spec.training.global_batch_size
        return self._dataset.batch(ids, dropout_keys(0, 0, ids))


def alone(job: DistributedTraining, processes: Processes) -> Run:
    """Every rank for itself: what a step computes."""
    task = Task(job, processes)
    return _loop(task, task.model().module)


def ddp(
    job: DistributedTraining,
    processes: Processes,
    hook: tuple[object, Callable[..., Any]] | None = None,
    **options: Any,
) -> Run:
    """DistributedDataParallel with its defaults, or with options and a communication hook and its state."""
    task = Task(job, processes)
    model = DistributedDataParallel(task.model().module, **options)
    if hook is not None:
        model.register_comm_hook(*hook)
    return _loop(task, model)


def fsdp(job: DistributedTraining, processes: Processes) -> Run:
    """FSDP2, every layer a group; stage 3 gathers a layer twice, stage 2 keeps it."""
    task, mesh = Task(job, processes), init_device_mesh("cpu", (processes.world_size,))
    built = task.model()
    for layer in built.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=job.spec.zero.stage == 3)
    fully_shard(built.module, mesh=mesh, reshard_after_forward=False)
    return _loop(task, built.module)


def pipelining(job: DistributedTraining, processes: Processes) -> Run:
    """torch.distributed.pipelining, 1F1B, one stage a rank. The model must have no tied embeddings."""
    task = Task(job, processes)
    _, (part,) = own_stages(task.build, job.spec, processes)
    fill(part)
    number, stages, parts = processes.rank, processes.world_size, job.spec.parallelism.microbatches
    stage = PipelineStage(part, number, stages, processes.device, group=processes.group("pp"))
    schedule = Schedule1F1B(stage, parts, loss_fn=_cross_entropy)
    optimizer = _adamw(part.parameters())

    def step() -> None:
        batch = task.batch()
        inputs = (batch.inputs,) if number == 0 else ()
        targets: dict[str, Any] = {"target": batch.targets} if number == stages - 1 else {}
        schedule.step(*inputs, **targets, keys=batch.keys)
        gradients = [it.grad for it in part.parameters() if it.grad is not None]
        square = torch.nn.utils.get_total_norm(gradients).square()
        dist.all_reduce(square, group=processes.group("pp"))
        torch.nn.utils.clip_grads_with_norm_(part.parameters(), CLIP_NORM, square.sqrt())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return _repeated(step)


def deepspeed(job: DistributedTraining, processes: Processes, **changes: Any) -> Run:
    """DeepSpeed at the spec's stage with torch's AdamW and buckets like ours; `changes` of its configuration."""
    library, task = _deepspeed(), Task(job, processes)
    model = task.model().module
    bucket = int(job.spec.communication.bucket_megabytes * 2**20) // 4
    config = {
        "train_micro_batch_size_per_gpu": task.share,
        "gradient_clipping": CLIP_NORM,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": job.spec.zero.stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        **changes,
    }
    engine, *_ = library.initialize(
        model=model, optimizer=_adamw(model.parameters()), config=config, dist_init_required=False
    )

    def step() -> None:
        batch = task.batch()
        engine.backward(_cross_entropy(engine(batch.inputs, batch.keys), batch.targets))
        engine.step()

    return _repeated(step)


LOOPS: dict[str, Loop] = {"ddp": ddp, "fsdp": fsdp, "pipelining": pipelining, "deepspeed": deepspeed}


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Storage and initial weights for a model, or a stage of it."""
    module.to_empty(device="cpu")
    for name, parameter in module.named_parameters():
        parameter.copy_(initial_parameter(module, name, parameter.shape, parameter.dtype, 0))


def _loop(task: Task, model: nn.Module) -> Run:
    optimizer = _adamw(model.parameters())

    def step() -> None:
        batch = task.batch()
        _cross_entropy(model(batch.inputs, batch.keys), batch.targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return _repeated(step)


def _repeated(step: Callable[[], None]) -> Run:
    def run(steps: int) -> None:
        for _ in range(steps):
            step()

    return run


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=3e-4, fused=True)


def _deepspeed() -> Any:
    """The module, silent, on the process group that is there, compiling nothing."""
    os.environ["DS_ACCELERATOR"], os.environ["LOCAL_RANK"] = "cpu", "0"
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else a minute of g++ at the first start
    with contextlib.redirect_stdout(io.StringIO()):
        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
    return deepspeed
