"""Unpacked images, kept from one cluster to the next: a new node finds them at once, for it only links to them.

containerd changes neither content nor unpacked layers after it has written them, only its databases: these are
copied. All nodes then read the same files, so the page cache holds a library once.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from cluster.harness import watchdog
from cluster.harness.binaries import binaries
from cluster.harness.build_storage import images_locked
from cluster.harness.claims import claim
from cluster.harness.containerd import Containerd
from cluster.harness.image_folder import Image
from cluster.harness.layout import INDEXES, Layout
from cluster.harness.machine import cache_folder, say

CONTENT = Path("io.containerd.content.v1.content") / "blobs" / "sha256"
SNAPSHOTS = Path("io.containerd.snapshotter.v1.overlayfs") / "snapshots"
IN_USE = "node-store"
"""Link in a cluster's folder to the store that its nodes read."""
TOLERATED_BYTES = 64 << 20
"""Layers of our own code change often and are small; the store is made anew when more than this is missing."""


def choose(layout: Layout) -> None:
    """Settles which store a new cluster's nodes read: the newest."""
    with images_locked():
        stores = _stores()
        if stores:
            (layout.folder / IN_USE).symlink_to(stores[-1])


def seed(layout: Layout, root: Path) -> None:
    """Fills the root of a containerd that has not started yet."""
    store = layout.folder / IN_USE
    if not store.exists():
        return

    def all_but_snapshots(folder: str, names: list[str]) -> list[str]:
        return names if Path(folder) == store / SNAPSHOTS else []

    shutil.copytree(store, root, ignore=all_but_snapshots, copy_function=_copy)
    for snapshot in (store.resolve() / SNAPSHOTS).iterdir():
        (root / SNAPSHOTS / snapshot.name).symlink_to(snapshot)


def refresh(images: Iterable[Image]) -> None:
    """Makes the store anew if it lacks much of these images."""
    wanted = list(images)
    stores = _stores()
    present = {f"sha256:{path.name}" for path in (stores[-1] / CONTENT).iterdir()} if stores else set()
    if sum(image.size(present) for image in wanted) <= TOLERATED_BYTES:
        return
    say("unpacking the images for the nodes (half a minute; again only after a change of their third-party layers)")
    begin = time.monotonic()
    layout = claim()
    watchdog.start(layout)
    try:
        folder = layout.folder / "store"
        containerd = Containerd("containerd-store", folder, layout.run_folder, layout.folder, binaries(), None)
        containerd.start()
        containerd.wait()
        for image in wanted:
            containerd.load(image)
        containerd.daemon.stop()
        with images_locked():
            _share_content(containerd.root / CONTENT, wanted)
            containerd.root.rename(cache_folder() / f"node-store-{time.time_ns()}")
            _remove_unused()
    finally:
        watchdog.stop(layout)
    say(f"unpacked in {time.monotonic() - begin:.0f} s")


def _stores() -> list[Path]:
    """All stores, the newest last."""
    return sorted(cache_folder().glob("node-store-*"))


def _remove_unused() -> None:
    """Removes all stores but the newest and those that a cluster's nodes read."""
    used = {(Layout(index).folder / IN_USE).resolve() for index in INDEXES}
    for store in _stores()[:-1]:
        if store.resolve() not in used:
            shutil.rmtree(store)


def _copy(source: str, target: str) -> None:
    """Databases are the node's own; all other files are never written again."""
    if source.endswith(".db"):
        shutil.copy2(source, target)
    else:
        os.link(source, target)


def _share_content(content: Path, images: list[Image]) -> None:
    """The image folder has the same files: one copy on disk is enough."""
    for image in images:
        for digest in image.blobs:
            original, copy = image.blob(digest), content / digest.removeprefix("sha256:")
            if original.exists() and copy.exists():
                copy.unlink()
                os.link(original, copy)
