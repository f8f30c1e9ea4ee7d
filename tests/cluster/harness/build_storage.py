"""buildah's storage in the cache: it keeps every layer that did not change, and leaves nothing mounted."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.harness import base_image, pip_settings
from cluster.harness.binaries import locked
from cluster.harness.machine import cache_folder, say
from cluster.harness.process import run

BUILD_SECONDS = 3600


@contextmanager
def images_locked() -> Iterator[None]:
    """Building, tidying and reading the image folder exclude each other."""
    with locked(cache_folder() / "images.lock"):
        yield


@contextmanager
def open_storage() -> Iterator[Storage]:
    """The storage, to be used under the lock."""
    release()
    try:
        with tempfile.TemporaryDirectory(prefix="adts-build-") as temporary:
            yield Storage(_folder(), Path(temporary))
    finally:
        release()


def release() -> None:
    """Unmounts what buildah leaves mounted, also after it was killed."""
    subprocess.run(["umount", _folder() / "overlay"], capture_output=True)
    shutil.rmtree(_run_folder(), ignore_errors=True)


class Storage:
    """Images by name, and all layers."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self._folder = folder
        self._temporary = temporary

    def build(self, target: str, checkout: Path) -> None:
        """Builds a target of the Dockerfile; layers that are there already are not built again."""
        self._build_base()
        if target == "trainer" and not self._has(_local(target)) and not pip_settings.has_cpu_torch():
            say(
                "torch comes from the registry with CUDA: an image of 6 GB, 17 GB of disk in all, about 5 minutes, "
                "once; PIP_FIND_LINKS with a folder that holds a CPU wheel of torch spares that"
            )
        base = ["--build-arg", f"BASE_IMAGE={self._base}"]
        options = [*base, "--target", target, *pip_settings.mounts(self._temporary)]
        self._build("--pull-never", "--layers", *options, "-t", _local(target), checkout)

    def derive(self, kind: str, containerfile: str) -> None:
        """Builds an image on one that is there."""
        file = self._temporary / "Containerfile"
        file.write_text(containerfile)
        self._build("--pull-never", "-t", _local(kind), "-f", file, self._temporary)

    def copy(self, kind: str, folder: Path, tag: str) -> None:
        """Copies an image into a folder of OCI layout, without the layers that are there, and all uncompressed.

        buildah's own push would compress all of it again every time.
        """
        folder.mkdir(parents=True, exist_ok=True)
        source = f"containers-storage:[overlay@{self._folder}+{_run_folder()}]{_local(kind)}"
        uncompressed = "--dest-oci-accept-uncompressed-layers"
        run("skopeo", "copy", "--quiet", uncompressed, source, f"oci:{folder}:{tag}", timeout=BUILD_SECONDS)
        self._buildah("rmi", "--prune", "--force", check=False)

    @property
    def _base(self) -> str:
        return f"localhost/adts/base:{base_image.key()}"

    def _build_base(self) -> None:
        """Makes the base image unless it is there. Nothing that was built on another base is of use any more."""
        if self._has(self._base):
            return
        release()
        shutil.rmtree(self._folder, ignore_errors=True)
        base_image.write_context(self._temporary / "base")
        self._build("-t", self._base, self._temporary / "base")

    def _has(self, name: str) -> bool:
        return bool(self._buildah("images", "--quiet", name, check=False).strip())

    def _build(self, *arguments: object) -> None:
        self._buildah("build", "--isolation", "chroot", *arguments)

    def _buildah(self, *arguments: object, check: bool = True) -> str:
        storage = ["--root", self._folder, "--runroot", _run_folder(), "--storage-driver", "overlay"]
        return run("nice", "buildah", *storage, *arguments, timeout=BUILD_SECONDS, check=check)


def _local(kind: str) -> str:
    return f"localhost/adts/{kind}:test"


def _folder() -> Path:
    return cache_folder() / "buildah"


def _run_folder() -> Path:
    return cache_folder() / "buildah-run"
