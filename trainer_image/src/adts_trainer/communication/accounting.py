"""Bytes one rank hands to collectives per optimizer step, in closed form. The few bytes of control are left out."""

from __future__ import annotations

from torch import nn

from adts_trainer.distributed_setup import Processes
from adts_trainer.parallel.data import ParallelModel
from adts_trainer.precision import Formats


def wire_bytes_per_step(model: ParallelModel, processes: Processes, formats: Formats, micro_batches: int) -> int:
    """Sizes of the collectives' input tensors on this rank, summed over one optimizer step.

    ddp: one all-reduce of the gradients a step. native: in each micro-batch a reduce-scatter of the gradients, padded
    to a multiple of the ranks along the first dimension, and an all-gather of the parameters' shards before the
    forward pass; stage 3 gathers the layers a second time before their backward pass.
    """
    trainable = [parameter for parameter in model.bare.parameters() if parameter.requires_grad]
    if not model.is_sharded:
        return sum(p.numel() for p in trainable) * formats.master.itemsize if model.replica is not None else 0
    ranks = processes.data_ranks
    gathered_bytes = 0
    in_layers = {id(p) for layer in model.built.layers for p in layer.parameters()}
    for parameter in model.bare.parameters():
        times = 2 if model.stage == 3 and id(parameter) in in_layers else 1
        gathered_bytes += times * _padded(parameter, ranks) // ranks * formats.compute.itemsize
    reduced_bytes = sum(_padded(parameter, ranks) for parameter in trainable) * formats.master.itemsize
    return micro_batches * (gathered_bytes + reduced_bytes)


def _padded(parameter: nn.Parameter, ranks: int) -> int:
    """Entries of a parameter whose first dimension is padded to a multiple of `ranks`."""
    rows = parameter.shape[0]
    return -(-rows // ranks) * ranks * (parameter.numel() // rows)
