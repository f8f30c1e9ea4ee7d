"""Data parallelism: `ddp` replicates the model, `native` shards it with FSDP2 over `dp_shard`."""

from __future__ import annotations

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from adts_api.v1alpha1 import Spec
from adts_trainer.communication.shard_wire import CODECS, RoundedReduceScatter
from adts_trainer.distributed_setup import Processes
from adts_trainer.precision import Formats


def replicate(module: nn.Module, processes: Processes, bucket_megabytes: float) -> DistributedDataParallel | None:
    """DistributedDataParallel over real parameters that are equal on all data ranks already; None for a single one."""
    if processes.data_ranks == 1:
        return None
    on_gpu = processes.device.type == "cuda"
    replica = DistributedDataParallel(
        module,
        device_ids=[processes.device] if on_gpu else None,
        process_group=processes.group("dp_replicate"),
        bucket_cap_mb=bucket_megabytes,
        gradient_as_bucket_view=True,
        init_sync=False,
    )
    replica.broadcast_buffers = False  # running statistics of a user's model stay the rank's own; the lead's are saved
    return replica


def shard(module: nn.Module, layers: list[nn.Module], processes: Processes, spec: Spec, formats: Formats) -> None:
    """FSDP2: each layer is a group of parameters gathered together; the rest, with tied embeddings, is the root's.

    Stages 0 to 2 keep a layer whole from its forward to its backward pass, stage 3 gathers it twice. The root is needed
    first in the backward pass, so that it stays whole under all.
    """
    mesh, policy, stage = processes.mesh["dp_shard"], formats.sharding_policy(), spec.zero.stage
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=stage == 3, mp_policy=policy)
    fully_shard(module, mesh=mesh, reshard_after_forward=False, mp_policy=policy)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)  # the loss is divided by the global token count instead
            part.set_force_sum_reduction_for_comms(True)  # a factor alone becomes PREMUL_SUM, which gloo lacks
            if spec.precision.reduce_dtype in CODECS:
                part.set_custom_reduce_scatter(RoundedReduceScatter(CODECS[spec.precision.reduce_dtype]))
