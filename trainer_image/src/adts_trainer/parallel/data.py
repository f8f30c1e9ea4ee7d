"""Data parallelism: `ddp` replicates the model, `native` shards it with FSDP2 (ZeRO stage 2 and 3)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from adts_trainer.distributed_setup import Processes
from adts_trainer.model import BuiltModel
from adts_trainer.precision import Formats

_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class ParallelModel:
    """A model laid over the data ranks."""

    built: BuiltModel
    engine: str
    """ddp or native."""
    stage: int
    """ZeRO stage."""
    replica: DistributedDataParallel | None
    """The wrapper of `ddp`; None for `native` and for a single process."""
    gradient_divisor: int
    """What the engine divides the summed gradients by, to be made up for in the loss."""

    @property
    def bare(self) -> nn.Module:
        """The model itself: its parameter names are the model's own."""
        return self.built.module

    @property
    def trained(self) -> nn.Module:
        """What a training forward pass calls."""
        return self.replica or self.built.module

    @property
    def is_sharded(self) -> bool:
        """Whether each rank holds only its part of parameters, gradients and optimizer state."""
        return self.engine == "native"

    def micro_batch(self, *, last: bool) -> AbstractContextManager[None]:
        """Context of one forward and backward. ddp reduces gradients in the last one of a step only; native stage 2
        and 3 reduce-scatter every one, since whole gradients are what they must not keep."""
        if self.replica is None or last:
            return nullcontext()
        return self.replica.no_sync()

    def reshard(self) -> None:
        """Drop whole parameters that a forward pass without a backward left behind."""
        for module in self.bare.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def replicate(built: BuiltModel, processes: Processes, bucket_megabytes: float) -> ParallelModel:
    """DistributedDataParallel over real parameters that are equal on all ranks already."""
    if processes.data_ranks == 1:
        return ParallelModel(built, "ddp", 0, None, 1)
    on_gpu = processes.device.type == "cuda"
    replica = DistributedDataParallel(
        built.module,
        device_ids=[processes.device] if on_gpu else None,
        bucket_cap_mb=bucket_megabytes,
        gradient_as_bucket_view=True,
        init_sync=False,
    )
    replica.broadcast_buffers = False  # running statistics of a user's model stay the rank's own; the lead's are saved
    return ParallelModel(built, "ddp", 0, replica, processes.data_ranks)


def shard(built: BuiltModel, processes: Processes, stage: int, formats: Formats) -> ParallelModel:
    """FSDP2: each layer is a group of parameters gathered together; the rest, with tied embeddings, is the root's.

    Stage 2 keeps a layer whole from its forward to its backward pass, stage 3 gathers it twice. The root is needed
    first in the backward pass, so that it stays whole under both.
    """
    policy = formats.sharding_policy()
    for layer in built.layers:
        fully_shard(layer, mesh=processes.mesh, reshard_after_forward=stage == 3, mp_policy=policy)
    fully_shard(built.module, mesh=processes.mesh, reshard_after_forward=False, mp_policy=policy)
    for module in built.module.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # the loss is divided by the global token count instead
            module.set_force_sum_reduction_for_comms(True)  # a factor alone becomes PREMUL_SUM, which gloo lacks
    return ParallelModel(built, "native", stage, None, 1)
