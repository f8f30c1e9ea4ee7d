"""Which cluster numbers are taken, by whom, and how a number is freed that a killed run left."""

from __future__ import annotations

from pathlib import Path

from cluster.harness import teardown
from cluster.harness.binaries import locked
from cluster.harness.layout import INDEXES, Layout
from cluster.harness.machine import say
from cluster.harness.process import ClusterError, ProcessId

LOCK = Path("/run/adts-clusters.lock")
"""Numbers are the machine's: runs with different caches share them."""
KEEP = "keep"
"""Stands in the place of an owner where the cluster is to stay."""


def claim(index: int | None = None) -> Layout:
    """Takes a number, the first free one if none is named, by making its folder; removes dead clusters on the way."""
    with locked(LOCK):
        sweep()
        for candidate in INDEXES if index is None else [index]:
            layout = Layout(candidate)
            taken = teardown.left(layout)
            if taken and index is not None:
                raise ClusterError(
                    f"cluster {index} cannot start, something of it exists already: {', '.join(taken)}; "
                    f"remove it with `make cluster-down`, or choose another index"
                )
            if not taken:
                layout.run_folder.mkdir()
                layout.folder.mkdir(mode=0o700)
                ProcessId.me().write(_owner_file(layout))
                return layout
    raise ClusterError(f"all {len(INDEXES)} cluster numbers are taken; `make cluster-down` removes them")


def sweep() -> None:
    """Removes clusters whose process is gone."""
    for index in INDEXES:
        layout = Layout(index)
        if layout.folder.exists() and not is_owned(layout):
            say(f"removing {layout.prefix}, which a killed run left")
            teardown.tear_down(layout)


def give_up(layout: Layout) -> None:
    """Lets the cluster outlive this process: only `make cluster-down` removes it."""
    _owner_file(layout).write_text(f"{KEEP}\n")


def owner(layout: Layout) -> ProcessId | None:
    """The process whose end is the cluster's end; a cluster that is to stay has none."""
    return ProcessId.read(_owner_file(layout))


def is_owned(layout: Layout) -> bool:
    """Whether somebody still wants the cluster: it is to stay, or the process that started it lives."""
    file = _owner_file(layout)
    if file.exists() and file.read_text().strip() == KEEP:
        return True
    identity = owner(layout)
    return identity is not None and identity.is_alive()


def _owner_file(layout: Layout) -> Path:
    return layout.folder / "owner"
