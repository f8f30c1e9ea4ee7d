"""Degrees to ranks: the arithmetic that admission, `adts plan` and the mesh builder share. Pure integers."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, isqrt

from adts_api.v1alpha1 import Spec


def divisors(n: int) -> list[int]:
    """All divisors of n >= 1, ascending, in O(sqrt(n))."""
    small = [d for d in range(1, isqrt(n) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]


def nearest(value: int, candidates: list[int]) -> int:
    """The candidate closest to value; the smaller one of two equally close."""
    return min(candidates, key=lambda c: (abs(c - value), c))


def processes_per_worker(spec: Spec) -> int:
    """Processes of one pod: one per GPU, or as many as a CPU run asks for, or one."""
    return spec.workers.gpus_per_worker or spec.workers.processes_per_worker or 1


def world_size(spec: Spec) -> int:
    """Processes of the whole job."""
    return spec.workers.replicas * processes_per_worker(spec)


def resolved_engine(spec: Spec) -> str:
    """What `zero.engine: auto` means: deepspeed if offload is asked, ddp for stage 0 with one stage, else native."""
    if spec.zero.engine != "auto":
        return spec.zero.engine
    if spec.zero.offload.optimizer != "none" or spec.zero.offload.parameters != "none":
        return "deepspeed"
    return "ddp" if spec.zero.stage == 0 and spec.parallelism.pipeline == 1 else "native"


def resolved_device(spec: Spec) -> str:
    """What `training.device: auto` means: cuda where workers have GPUs, else cpu."""
    if spec.training.device != "auto":
        return spec.training.device
    return "cuda" if spec.workers.gpus_per_worker else "cpu"


@dataclass(frozen=True)
class Topology:
    """The one mesh, in the order (pp, dp_replicate, dp_shard, tp); tp is the fastest-running axis."""

    pp: int
    dp_replicate: int
    dp_shard: int
    tp: int

    @property
    def world_size(self) -> int:
        return self.pp * self.dp * self.tp

    @property
    def dp(self) -> int:
        """Data ranks: processes that see different samples."""
        return self.dp_replicate * self.dp_shard

    def coordinates(self, rank: int) -> tuple[int, int, int, int]:
        """(pp, dp_replicate, dp_shard, tp) of a global rank."""
        rest, tp = divmod(rank, self.tp)
        rest, shard = divmod(rest, self.dp_shard)
        pp, replicate = divmod(rest, self.dp_replicate)
        return pp, replicate, shard, tp

    def data_rank(self, rank: int) -> int:
        """Index of a global rank among the data ranks."""
        _, replicate, shard, _ = self.coordinates(rank)
        return replicate * self.dp_shard + shard

    def __str__(self) -> str:
        parts = [f"dp{self.dp}"]
        if self.tp > 1:
            parts.append(f"tp{self.tp}")
        if self.pp > 1:
            parts.append(f"pp{self.pp}")
        return " x ".join(parts)


def topology(spec: Spec) -> Topology:
    """The mesh of a valid spec. Raises ValueError where the degrees do not divide (validate reports it first)."""
    world, model_parallel = world_size(spec), spec.parallelism.tensor * spec.parallelism.pipeline
    if world % model_parallel:
        raise ValueError(f"tensor x pipeline = {model_parallel} does not divide the {world} processes")
    data = world // model_parallel
    shard = 1 if spec.zero.stage == 0 else (spec.zero.shard_degree or _default_shards(spec, data))
    if data % shard:
        raise ValueError(f"zero.shardDegree {shard} does not divide the {data} data ranks")
    return Topology(spec.parallelism.pipeline, data // shard, shard, spec.parallelism.tensor)


def _default_shards(spec: Spec, data: int) -> int:
    """All data ranks share one copy of the state; with compression or steps apart those of one worker, since these are
    about the traffic between copies."""
    if spec.compression.method == "none" and spec.communication.sync_every == 1:
        return data
    return gcd(data, max(1, processes_per_worker(spec) // spec.parallelism.tensor))


def layout(spec: Spec) -> str:
    """The layout in words, as it stands in status: `dp8 x tp2 x pp2, zero 1`."""
    return f"{topology(spec)}, zero {spec.zero.stage}"
