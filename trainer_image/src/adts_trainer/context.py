"""Where one rank stands: what the launcher tells each process it starts. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class RankContext:
    """Place of one process in the job. The launcher makes it, `rank.run` receives it."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    node_rank: int
    nnodes: int
    master_addr: str
    master_port: int
    job_name: str
    job_uid: str
    attempt: int
    """Attempt of the gang; the fence of the checkpoint folder."""
    round: int
    """Restart in place; with the attempt the prefix of the TCPStore."""
    device: str
    """`cpu` or `cuda`."""
    threads: int
    """Intra-op threads of this rank."""
    run_dir: Path
    """Folder on tmpfs of this launcher: heartbeats, stacks."""
    start_timeout_seconds: float = 600.0
    """Bound of process-group start-up."""

    @property
    def is_lead(self) -> bool:
        """Whether this is rank 0, which logs, evaluates hooks and commits checkpoints."""
        return self.rank == 0

    @property
    def heartbeat_path(self) -> Path:
        """This rank's heartbeat file."""
        return self.run_dir / f"rank-{self.rank}.json"

    @property
    def stacks_path(self) -> Path:
        """Where SIGUSR1 writes this rank's Python stacks."""
        return self.run_dir / f"stacks-{self.rank}.txt"
