"""What this machine or container offers: cores, devices, and whom the kernel killed for memory. No torch here."""

from __future__ import annotations

import importlib.metadata
import math
import os
from collections.abc import Mapping
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def available_cores(cgroups: Path = CGROUPS) -> int:
    """Cores this process may use: its CPU affinity, and the quota of its control group (rounded up), at least 1."""
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota(cgroups)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def cpu_quota(cgroups: Path = CGROUPS) -> float | None:
    """CPU seconds per second granted by the control group, version 2 or 1; None without a limit."""
    match _read(cgroups / "cpu.max").split():
        case [quota, period] if quota != "max":
            return int(quota) / int(period)
    quota, period = _read(cgroups / "cpu/cpu.cfs_quota_us").strip(), _read(cgroups / "cpu/cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota and period and int(quota) > 0 else None


def memory_kills(cgroups: Path = CGROUPS) -> int:
    """Processes of this container that the kernel killed for memory so far; 0 where it does not say."""
    for name in ("memory.events", "memory/memory.oom_control"):
        for line in _read(cgroups / name).splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def memory_peak_bytes(cgroups: Path = CGROUPS) -> int | None:
    """The most memory this container ever used, in bytes; None where the kernel does not say."""
    for name in ("memory.peak", "memory/memory.max_usage_in_bytes"):
        if text := _read(cgroups / name).strip():
            return int(text)
    return None


def cuda_devices(environ: Mapping[str, str], root: Path = Path("/")) -> int:
    """NVIDIA devices that CUDA_VISIBLE_DEVICES leaves of those of the driver."""
    present = len(list((root / "dev").glob("nvidia[0-9]*"))) or len(list((root / "proc/driver/nvidia/gpus").glob("*")))
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    named = [name.strip() for name in visible.split(",")]
    # CUDA itself stops at the first entry that is no device.
    valid = next((i for i, name in enumerate(named) if name in ("", "-1", "NoDevFiles")), len(named))
    return min(present, valid)


def torch_has_cuda() -> bool:
    """Whether the installed torch is not a CPU-only build, told from its version without importing it."""
    return not importlib.metadata.version("torch").endswith("+cpu")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
