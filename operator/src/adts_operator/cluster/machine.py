"""What this machine has: cores and GPUs. No torch here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from adts_api.contract import Env
from adts_api.topology import resolved_device, world_size
from adts_api.v1alpha1 import DistributedTraining


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus(environ: Mapping[str, str], root: Path = Path("/")) -> list[str]:
    """Names by which CUDA_VISIBLE_DEVICES can pick the NVIDIA devices of this machine that it does not hide."""
    present = len(list((root / "dev").glob("nvidia[0-9]*"))) or len(list((root / "proc/driver/nvidia/gpus").glob("*")))
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(index) for index in range(present)]
    names = [name.strip() for name in visible.split(",")]
    end = next((i for i, name in enumerate(names) if name in ("", "-1", "NoDevFiles")), len(names))
    return names[: min(present, end)]  # CUDA stops at the first entry that is no device


def share(job: DistributedTraining, index: int, environ: Mapping[str, str]) -> dict[str, str]:
    """The part of the machine that one pod gets, as environment: threads on the CPU, its own GPUs."""
    env = {Env.THREADS: str(max(1, cores() // world_size(job.spec)))}
    count = job.spec.workers.gpus_per_worker
    if resolved_device(job.spec) == "cuda" and count:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus(environ)[index * count : (index + 1) * count])
    return env
