"""A pod's environment on this machine: the contract's names with addresses, ports and folders that exist here."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adts_api.contract import RESERVED_ENV, Env
from adts_operator.cluster.local_pod import LOOPBACK
from adts_operator.cluster.mounts import to_local


def pod_environment(
    variables: Sequence[Mapping[str, Any]],
    *,
    index: int,
    ports: Sequence[int],
    mounts: Mapping[str, Path],
    termination: Path,
    share: Mapping[str, str],
    outer: Mapping[str, str],
) -> dict[str, str]:
    """What the container's `env` list means here, over the environment of `adts run` itself (`outer`).

    `ports` are that of rank 0's store and then one per launcher.
    """
    inherited = {name: value for name, value in outer.items() if name not in RESERVED_ENV}
    inherited["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), outer.get("PATH", os.defpath)])
    ours = {it["name"]: to_local(it.get("value", ""), mounts) for it in variables if "valueFrom" not in it}
    master, *launchers = ports
    table = {
        Env.MASTER_ADDR: LOOPBACK,
        Env.PET_MASTER_ADDR: LOOPBACK,
        Env.MASTER_PORT: str(master),
        Env.PET_MASTER_PORT: str(master),
        Env.LEAD: f"{LOOPBACK}:{launchers[0]}",
        Env.PORT: str(launchers[index]),
        Env.NODE_NAME: socket.gethostname(),
        Env.TERMINATION_FILE: str(termination),
    }
    return {**inherited, **ours, **table, **share}


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now. Another process may take one before it is used: the launcher then says so."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
