"""Bytes one rank sends for data parallelism per optimizer step, in closed form. The few bytes of control and the
activations of tensor and pipeline parallelism are left out; what our own reducer sends is counted, not computed.
"""

from __future__ import annotations

from torch import nn

from adts_trainer.communication.shard_wire import CODECS
from adts_trainer.communication.wire import sent_by_all_reduce
from adts_trainer.distributed_setup import Processes
from adts_trainer.parallel.model import ParallelModel
from adts_trainer.parallel.partition import own_layers
from adts_trainer.precision import Formats

_KEPT_WHOLE = 100_000
"""Entries of a parameter that DeepSpeed's stage 3 keeps whole: its `stage3_param_persistence_threshold`."""


def wire_bytes_per_step(
    model: ParallelModel, processes: Processes, formats: Formats, micro_batches: int, reduce_dtype: str
) -> int:
    """What this rank sends in one optimizer step when collectives run as rings, our reducer's left out.

    ddp: one all-reduce of the gradients a step. native: a reduce-scatter of the gradients, padded to a multiple of the
    ranks along the first dimension, and an all-gather of the parameters' shards before the forward pass, in each
    micro-batch of stages 2 and 3 and otherwise once; stage 3 gathers the layers a second time before their backward
    pass.
    """
    trainable = [parameter for _, parameter in model.parameters if parameter.requires_grad]
    if model.engine == "ddp":
        whole = sum(p.numel() for p in trainable) * formats.master.itemsize
        return sent_by_all_reduce(whole, processes.layout.dp) if model.replica is not None else 0
    if model.engine == "deepspeed":
        return _by_deepspeed(model, processes.layout.dp_shard, formats, micro_batches, reduce_dtype)
    ranks = processes.layout.dp_shard
    gathered = 0
    in_layers = {id(p) for part in model.parts for layer in own_layers(model.built, part) for p in layer.parameters()}
    for _, parameter in model.parameters:
        times = 2 if model.stage == 3 and id(parameter) in in_layers else 1
        gathered += times * _padded(parameter, ranks) // ranks * formats.compute.itemsize
    wire = 2 if reduce_dtype in CODECS else formats.master.itemsize  # the scale of each message is left out
    reduced = sum(_padded(parameter, ranks) for parameter in trainable) // ranks * wire
    passes = micro_batches if model.stage >= 2 and not model.is_pipelined else 1
    return passes * (gathered + reduced) * (ranks - 1)


def _by_deepspeed(model: ParallelModel, ranks: int, formats: Formats, micro_batches: int, reduce_dtype: str) -> int:
    """Stages 1 and 2 sum whole gradients, after the last micro-batch and after each, and gather the updated shares
    once. Stage 3 scatters the gradients' sums in each micro-batch, and gathers for each what it does not keep whole."""
    sizes = [getattr(p, "ds_numel", p.numel()) for _, p in model.parameters]  # stage 3 has emptied them
    if ranks == 1:
        return 0
    passes = micro_batches if model.stage >= 2 else 1
    shares = [-(-size // ranks) for size in sizes]
    often = [micro_batches if model.stage == 3 and size > _KEPT_WHOLE else 1 for size in sizes]
    gathered = sum(share * times for share, times in zip(shares, often, strict=True)) * formats.compute.itemsize
    master = 2 if reduce_dtype in CODECS else formats.master.itemsize
    if model.stage == 3:
        return (passes * sum(shares) * master + gathered) * (ranks - 1)
    return passes * sent_by_all_reduce(sum(sizes) * master, ranks) + gathered * (ranks - 1)


def _padded(parameter: nn.Parameter, ranks: int) -> int:
    """Entries of a parameter whose first dimension is padded to a multiple of `ranks`."""
    rows = parameter.shape[0]
    return -(-rows // ranks) * ranks * (parameter.numel() // rows)
