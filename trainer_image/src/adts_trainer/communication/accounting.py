"""Bytes one rank hands to the collectives of data parallelism per optimizer step, in closed form. The few bytes of
control and the activations of tensor and pipeline parallelism are left out.
"""

from __future__ import annotations

from torch import nn

from adts_trainer.communication.reducer import local
from adts_trainer.distributed_setup import Processes
from adts_trainer.parallel.model import ParallelModel
from adts_trainer.parallel.partition import own_layers
from adts_trainer.precision import Formats

_KEPT_WHOLE = 100_000
"""Entries of a parameter that DeepSpeed's stage 3 keeps whole: its `stage3_param_persistence_threshold`."""


def wire_bytes_per_step(model: ParallelModel, processes: Processes, formats: Formats, micro_batches: int) -> int:
    """Sizes of the collectives' input tensors on this rank, summed over one optimizer step.

    ddp: one all-reduce of the gradients a step. native: a reduce-scatter of the gradients, padded to a multiple of the
    ranks along the first dimension, and an all-gather of the parameters' shards before the forward pass, in each
    micro-batch of stages 2 and 3 and otherwise once; stage 3 gathers the layers a second time before their backward
    pass. Between replicas of a sharded model one all-reduce of the shards' gradients a step.
    """
    trainable = [parameter for _, parameter in model.parameters if parameter.requires_grad]
    if model.engine == "ddp":
        return sum(p.numel() for p in trainable) * formats.master.itemsize if model.replica is not None else 0
    if model.engine == "deepspeed":
        return _by_deepspeed(model, processes.layout.dp_shard, formats, micro_batches)
    ranks = processes.layout.dp_shard
    gathered = 0
    in_layers = {id(p) for part in model.parts for layer in own_layers(model.built, part) for p in layer.parameters()}
    for _, parameter in model.parameters:
        times = 2 if model.stage == 3 and id(parameter) in in_layers else 1
        gathered += times * _padded(parameter, ranks) // ranks * formats.compute.itemsize
    reduced = sum(_padded(parameter, ranks) for parameter in trainable) * formats.master.itemsize
    between = sum(local(p.detach()).numel() for p in trainable) if processes.layout.dp_replicate > 1 else 0
    passes = micro_batches if model.stage >= 2 and not model.is_pipelined else 1
    return passes * (gathered + reduced) + between * formats.master.itemsize


def _by_deepspeed(model: ParallelModel, ranks: int, formats: Formats, micro_batches: int) -> int:
    """Stages 1 and 2 reduce whole gradients, after the last micro-batch and after each, and gather the updated shares
    once. Stage 3 scatters the gradients' sums in each micro-batch, and gathers for each what it does not keep whole."""
    sizes = [getattr(p, "ds_numel", p.numel()) for _, p in model.parameters]  # stage 3 has emptied them
    if ranks == 1:
        return 0
    passes = micro_batches if model.stage >= 2 else 1
    shares = [-(-size // ranks) for size in sizes]
    reduced = sum(shares) * ranks if model.stage == 3 else sum(sizes)
    often = [micro_batches if model.stage == 3 and size > _KEPT_WHOLE else 1 for size in sizes]
    gathered = sum(share * times for share, times in zip(shares, often, strict=True))
    return passes * reduced * formats.master.itemsize + gathered * formats.compute.itemsize


def _padded(parameter: nn.Parameter, ranks: int) -> int:
    """Entries of a parameter whose first dimension is padded to a multiple of `ranks`."""
    rows = parameter.shape[0]
    return -(-rows // ranks) * ranks * (parameter.numel() // rows)
