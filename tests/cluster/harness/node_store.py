"""Unpacked images, kept from one cluster to the next: a new node takes them over in a second, by hard links.

containerd changes neither content nor unpacked layers after it has written them, only its databases: these are
copied. Both nodes then read the same files, so the page cache holds a library once.
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
from cluster.harness.machine import cache_folder, say
from cluster.harness.process import run

CONTENT = Path("io.containerd.content.v1.content") / "blobs" / "sha256"
TOLERATED_BYTES = 64 << 20
"""Layers of our own code change often and are small; the store is made anew when more than this is missing."""


def seed(root: Path) -> None:
    """Fills the root of a containerd that has not started yet."""
    with images_locked():
        if not _store().exists():
            return
        root.parent.mkdir(parents=True, exist_ok=True)
        run("cp", "--archive", "--link", _store(), root, timeout=300)
    for database in root.rglob("*.db"):
        copy = database.with_suffix(".copy")
        shutil.copy2(database, copy)
        copy.replace(database)


def refresh(images: Iterable[Image]) -> None:
    """Makes the store anew if it lacks much of these images."""
    wanted = list(images)
    blobs = _store() / CONTENT
    present = {f"sha256:{path.name}" for path in blobs.iterdir()} if blobs.exists() else set()
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
            shutil.rmtree(_store(), ignore_errors=True)
            containerd.root.rename(_store())
    finally:
        watchdog.stop(layout)
    say(f"unpacked in {time.monotonic() - begin:.0f} s")


def _store() -> Path:
    return cache_folder() / "node-store"


def _share_content(content: Path, images: list[Image]) -> None:
    """The image folder has the same files: one copy on disk is enough."""
    for image in images:
        for digest in image.blobs:
            original, copy = image.blob(digest), content / digest.removeprefix("sha256:")
            if original.exists() and copy.exists():
                copy.unlink()
                os.link(original, copy)
