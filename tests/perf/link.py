"""Two network namespaces joined by a cable of their own, whose ends can be shaped as a slow link.

Linux and root only. A run that was killed leaves its namespaces; the next run removes them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.harness.network import BURST, LATENCY, NAMESPACES, ip
from cluster.harness.process import run

ADDRESSES = ("10.77.41.1", "10.77.41.2")
"""Of the two ends; both namespaces have nothing else, so that any private range will do."""
DEVICE = "eth0"
_PREFIX = "adts-link"
_NAME = re.compile(rf"{_PREFIX}-(\d+)-[01]")


def refusal() -> str:
    """Why this machine cannot have such a cable, in a line; empty if it can."""
    if os.geteuid() != 0:
        return "namespaces and tc need root: run it as root, on Linux with iproute2"
    missing = [name for name in ("ip", "tc") if not run("sh", "-c", f"command -v {name}", check=False)]
    return f"{' and '.join(missing)} not found: install iproute2, on Linux" if missing else ""


@contextmanager
def cable() -> Iterator[tuple[str, str]]:
    """The names of two namespaces with a cable between them. All is gone after the block, and with it what runs there
    loses its network."""
    _remove_abandoned()
    first, second = (f"{_PREFIX}-{os.getpid()}-{end}" for end in (0, 1))
    try:
        for name in (first, second):
            ip("netns", "add", name)
            ip("link", "set", "lo", "up", namespace=name)
        ip("link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE, "netns", second, namespace=first)
        for name, address in zip((first, second), ADDRESSES, strict=True):
            ip("address", "add", f"{address}/24", "dev", DEVICE, namespace=name)
            ip("link", "set", DEVICE, "up", namespace=name)
        yield first, second
    finally:
        for name in (first, second):
            run("ip", "netns", "delete", name, check=False)


def shape(rate: str) -> None:
    """Limit what this namespace sends, as tc writes rates ("200mbit"); empty lifts the limit."""
    if rate:
        run("tc", "qdisc", "replace", "dev", DEVICE, "root", "tbf", "rate", rate, "burst", BURST, "latency", LATENCY)
    else:
        run("tc", "qdisc", "del", "dev", DEVICE, "root", check=False)


def sent_bytes() -> int:
    """What this namespace has sent over the cable so far, headers and all."""
    return int(Path(f"/sys/class/net/{DEVICE}/statistics/tx_bytes").read_text())


def _remove_abandoned() -> None:
    for file in NAMESPACES.glob(f"{_PREFIX}-*"):
        match = _NAME.fullmatch(file.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            run("ip", "netns", "delete", file.name, check=False)
