"""The sandbox image of the test nodes: one static program, without a file system around it."""

from __future__ import annotations

import io
import platform
import tarfile
from pathlib import Path

from cluster.harness.containerd import SANDBOX_IMAGE
from cluster.harness.image_folder import Image, ImageFolder
from cluster.harness.process import ClusterError

TAG = "pause"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Machine -> its name in image configurations."""


def pause_image(program: Path, folder: ImageFolder) -> Image:
    """Adds the image to the folder."""
    buffer = io.BytesIO()
    content = program.read_bytes()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("pause")
        entry.size, entry.mode = len(content), 0o755
        tar.addfile(entry, io.BytesIO(content))
    config = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
    }
    folder.add(TAG, buffer.getvalue(), config)
    image = folder.find(TAG, SANDBOX_IMAGE)
    if image is None:
        raise ClusterError(f"{SANDBOX_IMAGE} is not in {folder.folder}")
    return image
