"""Work, traffic and, where the hardware is known, seconds of one optimizer step, in closed form.

The numbers order layouts of one job; they are no forecast of a run. Every constant below says where it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

from adts_api.estimate_states import Formats, formats
from adts_api.pipelining import stages_per_rank
from adts_api.stages import Stack, bubble_fraction, stacks
from adts_api.topology import Topology, processes_per_worker, resolved_engine, topology
from adts_api.v1alpha1 import Spec

PEAK_FLOPS = {
    "H200": (989e12, 67e12),
    "H100": (989e12, 67e12),
    "B200": (2250e12, 75e12),
    "A100": (312e12, 19.5e12),
    "A10G": (70e12, 35e12),
    "L40S": (362e12, 91.6e12),
    "L4": (121e12, 30.3e12),
    "V100": (125e12, 15.7e12),
    "T4": (65e12, 8.1e12),
}
"""Dense FLOP/s of one GPU in half precision and in fp32, from the vendors' data sheets."""

EFFICIENCY = 0.4
"""Share of the peak that a step's own computation reaches. An assumption: Megatron's 7B model on eight H100 reaches
0.37 with its communication. The same for every layout, so that it moves seconds and hardly the order."""

LAUNCH_SECONDS = 5e-6
"""Time to launch one kernel from Python. An assumption, of the size of CUDA's launch and torch's dispatch."""

KERNELS_PER_LAYER = 120
"""Kernels of one layer, forward and backward: about 40 operations, and two backward ones for each. An assumption."""

LATENCY_SECONDS = 20e-6
"""Start of one collective or message. An assumption, of the size of NCCL's small-message latency over a network."""


@dataclass(frozen=True)
class Hardware:
    """What is known of the devices; None is unknown."""

    gpu: str | None = None
    """A name of PEAK_FLOPS."""
    worker_link: float | None = None
    """Bytes per second between two GPUs of one worker, each direction."""
    network_link: float | None = None
    """Bytes per second of one GPU to other workers, each direction."""

    def is_enough(self, spec: Spec) -> bool:
        """Whether seconds can be told: the GPU's speed and that of every link there is."""
        workers, inside = spec.workers.replicas, processes_per_worker(spec)
        has_links = (workers == 1 or self.network_link) and (inside == 1 or self.worker_link)
        return self.gpu is not None and bool(has_links)


@dataclass(frozen=True)
class Traffic:
    """Bytes one rank sends per step on one axis of the mesh."""

    axis: str
    bytes: float
    messages: int
    """Collectives or messages per step."""
    leaves_worker: bool


@dataclass(frozen=True)
class Cost:
    """One step of the slowest rank."""

    flops: float
    """Of forward and backward, recomputation included."""
    recomputed: float
    """Share of these flops that recomputation costs."""
    bubble: float
    """Share of the step in which a rank waits for other stages."""
    traffic: tuple[Traffic, ...]
    seconds: dict[str, float] | None
    """By cause: computation, bubble, and an axis for what its traffic is not hidden; None where hardware is unknown."""

    @property
    def work(self) -> float:
        """Flops with waiting counted as work."""
        return self.flops / (1 - self.bubble)

    @property
    def total_seconds(self) -> float | None:
        return None if self.seconds is None else sum(self.seconds.values())

    def sent(self, *, leaves_worker: bool) -> float:
        """Bytes of a step between workers, or inside one."""
        return sum(it.bytes for it in self.traffic if it.leaves_worker == leaves_worker)


def cost(spec: Spec, hardware: Hardware, every: list[Stack] | None = None) -> Cost:
    """What one step costs. Raises UnknownShapeError."""
    number, mesh = formats(spec), topology(spec)
    samples = spec.training.global_batch_size // mesh.dp // spec.parallelism.microbatches
    is_recomputed = spec.training.activation_checkpointing == "full"
    every = every or stacks(spec)
    passes = samples * spec.parallelism.microbatches / spec.parallelism.tensor
    forward = max(stack.forward_flops for stack in every) * passes
    layers = max(stack.layer_flops for stack in every) * passes
    again = layers if is_recomputed else 0.0
    bubble = 0.0
    if mesh.pp > 1:
        bubble = bubble_fraction(spec.parallelism.schedule, mesh.pp, spec.parallelism.microbatches)
    traffic = tuple(it for it in _traffic(spec, mesh, number, max(every, key=_size), samples) if it.bytes)
    flops = 3 * forward + again
    seconds = None
    if hardware.is_enough(spec):
        depth = max(len(stack.layers) for stack in every)
        seconds = _seconds(spec, hardware, flops, bubble, traffic, depth)
    return Cost(flops, again / flops, bubble, traffic, seconds)


def _size(stack: Stack) -> int:
    return stack.elements


def _traffic(spec: Spec, mesh: Topology, number: Formats, stack: Stack, samples: int) -> list[Traffic]:
    """A ring sends (n - 1)/n of the data per all-gather or reduce-scatter and twice that per all-reduce."""
    inside, microbatches = processes_per_worker(spec), spec.parallelism.microbatches
    message = samples * stack.shape.positions * stack.shape.width * number.residual
    is_recomputed = spec.training.activation_checkpointing == "full"
    reductions = (6 if is_recomputed else 4) * len(stack.layers) * microbatches
    hops = 2 * stages_per_rank(spec.parallelism.schedule) * microbatches if mesh.pp > 1 else 0
    return [
        Traffic("tensor", 2 * _ring(mesh.tp) * message * reductions, reductions, leaves_worker=False),
        Traffic("pipeline", hops * message / number.sequence, hops, leaves_worker=mesh.world_size > inside),
        *_data_traffic(spec, mesh, number, stack, inside),
    ]


def _data_traffic(spec: Spec, mesh: Topology, number: Formats, stack: Stack, inside: int) -> list[Traffic]:
    """Gradients, and under sharding parameters; of replicas that train apart the mean over a round."""
    microbatches, stage = spec.parallelism.microbatches, spec.zero.stage
    gradients, whole = stack.elements * number.master, stack.elements * number.compute
    messages = len(stack.layers) + 1
    leaves = mesh.dp * mesh.tp > inside
    every = spec.communication.sync_every
    if resolved_engine(spec) == "ddp":
        axis = "data" if every == 1 else "replicas"
        return [Traffic(axis, 2 * _ring(mesh.dp) * gradients / every, -(-messages // every), leaves)]
    reductions = microbatches if stage >= 2 and mesh.pp == 1 else 1
    gathers = 1 if stage <= 1 or (stage == 2 and mesh.pp > 1) else microbatches
    layers = stack.layer_elements * number.compute * microbatches if stage == 3 else 0
    shards = _ring(mesh.dp_shard) * (reductions * gradients + gathers * whole + layers)
    shared = mesh.dp_shard * mesh.tp > inside
    replicas = 2 * _ring(mesh.dp_replicate) * gradients / mesh.dp_shard / every
    return [
        Traffic("data", shards, messages * (reductions + gathers + (microbatches if layers else 0)), shared),
        Traffic("replicas", replicas, -(-messages // every) if replicas else 0, leaves),
    ]


def _ring(ranks: int) -> float:
    return (ranks - 1) / ranks


def _seconds(
    spec: Spec, hardware: Hardware, flops: float, bubble: float, traffic: tuple[Traffic, ...], depth: int
) -> dict[str, float]:
    """Computation at the assumed efficiency, or as fast as kernels can be launched; the traffic of the data axes hides
    behind the backward pass (of the last micro-batch, where gradients wait for it), but not that of an outer step, nor
    the rest."""
    half, full = PEAK_FLOPS[hardware.gpu or ""]
    peak = half if spec.precision.dtype in ("bf16", "fp16") else full
    microbatches = spec.parallelism.microbatches
    launches = depth * microbatches * KERNELS_PER_LAYER * LAUNCH_SECONDS
    computation = max(flops / (peak * EFFICIENCY), launches)
    result = {"computation": computation, "bubble": computation * bubble / (1 - bubble)}
    every = spec.zero.stage >= 2 and spec.parallelism.pipeline == 1
    window = computation * 2 / 3 / (1 if every else microbatches) if spec.communication.overlap else 0.0
    for it in traffic:
        link = hardware.network_link if it.leaves_worker else hardware.worker_link
        seconds = it.bytes / (link or float("inf")) + it.messages * LATENCY_SECONDS
        if it.axis == "data" or (it.axis == "replicas" and spec.communication.sync_every == 1):
            hidden = min(window, seconds)
            seconds, window = seconds - hidden, window - hidden
        result[it.axis] = seconds
    return result
