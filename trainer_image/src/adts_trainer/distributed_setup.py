"""Process group and device mesh from the contract: gloo on CPU, gloo and NCCL on GPU."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from adts_api.errors import AdtsError
from adts_api.topology import Topology
from adts_trainer.context import RankContext
from adts_trainer.errors import DeviceMissingError, PortTakenError, StartTimeoutError

T = TypeVar("T")

_COLLECTIVE_TIMEOUT_SECONDS = 1800.0


class PendingSum:
    """A sum over all ranks under way; `wait` returns it."""

    def __init__(self, values: Sequence[float], world_size: int) -> None:
        self._values = torch.tensor(values, dtype=torch.float64)
        self._work = dist.all_reduce(self._values, async_op=True) if world_size > 1 else None

    def wait(self) -> list[float]:
        """The sums, in fp64: integers below 2**53 are exact."""
        work = self._work
        if work is not None:  # two threads may wait for it
            work.wait()
            self._work = None
        return self._values.tolist()


class Coordinates(NamedTuple):
    """Place of one rank in the mesh."""

    pp: int
    dp_replicate: int
    dp_shard: int
    tp: int


@dataclass(frozen=True)
class Processes:
    """The processes of the job as one of them sees them."""

    rank: int
    world_size: int
    device: torch.device
    mesh: DeviceMesh
    """All ranks, with the dimensions of `Topology`: pp, dp_replicate, dp_shard, tp."""
    layout: Topology

    @property
    def is_lead(self) -> bool:
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """Index among the ranks that see different samples."""
        return self.layout.data_rank(self.rank)

    @property
    def data_ranks(self) -> int:
        return self.layout.dp

    @property
    def counts_samples(self) -> bool:
        """Whether this rank is the one that counts its samples, of those that read the same."""
        return self.coordinates.pp == 0 and self.coordinates.tp == 0

    @property
    def coordinates(self) -> Coordinates:
        """This rank's place on each axis of the mesh."""
        return Coordinates(*self.layout.coordinates(self.rank))

    def group(self, axis: str) -> dist.ProcessGroup:
        """The ranks that differ from this one on one axis only."""
        return self.mesh.get_group(axis)

    def own_group(self, axis: str) -> dist.ProcessGroup:
        """A second group of the ranks of `group(axis)`, for collectives that run beside all others."""
        ranks = dist.get_process_group_ranks(self.group(axis))
        return dist.new_group(ranks, use_local_synchronization=True)

    def replica_group(self) -> dist.ProcessGroup:
        """The ranks that hold one copy of the model together: those with this rank's place on dp_replicate."""
        own = self.coordinates.dp_replicate
        ranks = [it for it in range(self.world_size) if Coordinates(*self.layout.coordinates(it)).dp_replicate == own]
        return dist.new_group(ranks, use_local_synchronization=True)

    def sum_later(self, *values: float) -> PendingSum:
        """Start summing a few numbers over all ranks, on the CPU, beside whatever the device does."""
        return PendingSum(values, self.world_size)

    def together(self, action: Callable[[], T]) -> list[T]:
        """Run an action on every rank; the results by rank. What one rank raises, all of them raise."""
        outcome: tuple[T | None, Exception | None]
        try:
            outcome = action(), None
        except (AdtsError, OSError) as own:
            outcome = None, own
        everyone: list[Any] = [None] * self.world_size
        dist.all_gather_object(everyone, outcome)
        for _, error in everyone:
            if error is not None:
                raise error
        return [result for result, _ in everyone]

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.sum_later(0.0).wait()


@contextmanager
def open_processes(context: RankContext, layout: Topology) -> Iterator[Processes]:
    """Join the job's process group; leave it at the end of a block that succeeds.

    After a failure the group is left as it is, because destroying it would wait for collectives that never end: the
    process is expected to exit. Under NCCL it is never destroyed.
    Raises DeviceMissingError, PortTakenError or StartTimeoutError.
    """
    device = _device(context)
    _join(context, device)
    degrees = (layout.pp, layout.dp_replicate, layout.dp_shard, layout.tp)
    mesh = init_device_mesh(device.type, degrees, mesh_dim_names=Coordinates._fields)
    processes = Processes(context.rank, context.world_size, device, mesh, layout)
    yield processes
    processes.barrier()
    if device.type == "cpu":
        dist.destroy_process_group()


def _device(context: RankContext) -> torch.device:
    """This rank's device, made current."""
    if context.device == "cpu":
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if found < context.local_world_size:
        raise DeviceMissingError(
            f"node {socket.gethostname()} (node rank {context.node_rank}): {found} CUDA devices, but "
            f"{context.local_world_size} processes want one each; lower spec.workers.gpusPerWorker, or set "
            "spec.training.device: cpu"
        )
    device = torch.device("cuda", context.local_rank)
    torch.cuda.set_device(device)
    return device


def _join(context: RankContext, device: torch.device) -> None:
    if _is_loopback(context.master_addr) or context.nnodes == 1:
        # The host's own name may resolve to nothing, or to an interface that is down.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback_interface())
    timeout = timedelta(seconds=max(_COLLECTIVE_TIMEOUT_SECONDS, context.start_timeout_seconds))
    cuda = device.type == "cuda"
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=_store(context),
            rank=context.rank,
            world_size=context.world_size,
            timeout=timeout,
            device_id=device if cuda else None,
        )
    except dist.DistError as error:
        raise _start_error(context, error) from error


def _store(context: RankContext) -> dist.Store:
    """The store of this attempt and round: torch's own prefix is constant, and would let a stale rank join."""
    if context.world_size == 1:
        return dist.HashStore()
    store = dist.TCPStore(
        "127.0.0.1" if context.master_addr == "localhost" else context.master_addr,  # a bare machine has no such name
        context.master_port,
        context.world_size,
        is_master=context.is_lead,
        timeout=timedelta(seconds=context.start_timeout_seconds),
    )
    return dist.PrefixStore(f"{context.job_uid}/{context.attempt}/{context.round}", store)


def _start_error(context: RankContext, error: Exception) -> Exception:
    """The failure of the start in the contract's words."""
    where = f"{context.master_addr}:{context.master_port}"
    if "EADDRINUSE" in str(error):
        return PortTakenError(
            f"MASTER_PORT: {context.master_port} is in use on {socket.gethostname()}; end the process that holds it, "
            "or set another MASTER_PORT"
        )
    return StartTimeoutError(
        f"rank {context.rank}: not all {context.world_size} processes met at {where} within "
        f"{context.start_timeout_seconds:g} s ({str(error).splitlines()[0]}); check that every worker runs and that "
        "MASTER_ADDR and MASTER_PORT are reachable from it"
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _loopback_interface() -> str:
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), names[0])
