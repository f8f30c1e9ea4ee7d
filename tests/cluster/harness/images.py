"""Builds the project's real Dockerfile on the stand-in base, fast after a change of our code alone.

buildah keeps every layer that did not change; skopeo copies the new ones into the image folder, uncompressed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.harness import base_image, pip_settings
from cluster.harness.binaries import locked
from cluster.harness.image_folder import Image, ImageFolder
from cluster.harness.machine import cache_folder, say
from cluster.harness.process import ClusterError, run

CHECKOUT = Path(__file__).resolve().parents[3]
SOURCES = {"trainer": ("crds", "trainer_image"), "operator": ("crds", "operator")}
"""Target of the Dockerfile -> folders that it copies."""

RUN_ROOT = Path("/run/adts-buildah")

LOWER_CONTRACT = """\
FROM localhost/adts/trainer:test
USER root
RUN file=$(python3 -c 'import adts_api.contract as c; print(c.__file__)') \\
 && sed -i 's/^CONTRACT_VERSION = .*/CONTRACT_VERSION = {version}/' "$file"
USER 65532:65532
"""


def trainer_image() -> Image:
    """The trainer's image as pods ask for it."""
    return _built("trainer")


def operator_image() -> Image:
    """The operator's image as the chart asks for it."""
    return _built("operator")


def image_folder() -> ImageFolder:
    return ImageFolder(cache_folder() / "images")


@contextmanager
def images_locked() -> Iterator[None]:
    """Building, tidying and reading the image folder exclude each other."""
    with locked(cache_folder() / "images.lock"):
        yield


def _built(target: str) -> Image:
    name = f"docker.io/adts/{target}:test"
    tag = f"{target}-{_key(target)}"
    folder = image_folder()
    with images_locked():
        found = folder.find(tag, name)
        if found:
            return found
        begin = time.monotonic()
        with _storage() as storage:
            storage.build_base()
            storage.build(target)
            storage.copy(target, folder.folder, tag)
        folder.tidy(target)
        say(f"image {name} built in {time.monotonic() - begin:.0f} s")
        built = folder.find(tag, name)
    if built is None:
        raise ClusterError(f"image {tag} is not in {folder.folder} after its build")
    return built


def _key(target: str) -> str:
    """Hash of all that the image is made of."""
    digest = hashlib.sha256(base_image.key().encode())
    files = [CHECKOUT / name for name in ("Dockerfile", "constraints.txt", "LICENSE")]
    for folder in SOURCES[target]:
        found = (path for path in (CHECKOUT / folder).rglob("*") if path.is_file())
        files += sorted(path for path in found if not _is_ignored(path))
    for file in files:
        digest.update(str(file.relative_to(CHECKOUT)).encode() + b"\0")
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _is_ignored(path: Path) -> bool:
    """As .dockerignore says: what tools leave in a source folder is not part of the image."""
    return any(part == "__pycache__" or part.endswith(".egg-info") for part in path.parts)


class _Storage:
    """buildah's storage in the cache: images by name and all layers."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self._folder = folder
        self._temporary = temporary

    def build_base(self) -> None:
        """Makes the base image unless it is there."""
        if self._has(self._base):
            return
        base_image.write_context(self._temporary / "base")
        self._buildah("build", "--isolation", "chroot", "-t", self._base, self._temporary / "base")

    def build(self, target: str) -> None:
        """Builds a target of the Dockerfile; layers that are there already are not built again."""
        if target == "trainer" and not self._has(_local(target)) and not pip_settings.has_cpu_torch():
            say(
                "torch comes from the registry with CUDA: about 5 GB to download and 15 GB of disk, once; "
                "PIP_FIND_LINKS with a folder that holds a CPU wheel of torch spares that"
            )
        base = ["--build-arg", f"BASE_IMAGE={self._base}"]
        options = [*base, "--target", target, *pip_settings.mounts(self._temporary)]
        self._buildah(
            "build", "--isolation", "chroot", "--pull-never", "--layers", *options, "-t", _local(target), CHECKOUT
        )

    def copy(self, target: str, folder: Path, tag: str) -> None:
        """Copies an image into the folder under a tag, without the layers that are there; drops what no tag needs."""
        folder.mkdir(parents=True, exist_ok=True)
        source = f"containers-storage:[overlay@{self._folder}+{RUN_ROOT}]{_local(target)}"
        uncompressed = "--dest-oci-accept-uncompressed-layers"
        run("skopeo", "copy", "--quiet", uncompressed, source, f"oci:{folder}:{tag}", timeout=900)
        self._buildah("rmi", "--prune", "--force", check=False)

    @property
    def _base(self) -> str:
        return f"localhost/adts/base:{base_image.key()}"

    def _has(self, name: str) -> bool:
        return bool(self._buildah("images", "--quiet", name, check=False).strip())

    def _buildah(self, *arguments: str | Path, check: bool = True) -> str:
        storage = ["--root", self._folder, "--runroot", RUN_ROOT, "--storage-driver", "overlay"]
        return run("nice", "buildah", *storage, *arguments, timeout=3600, check=check)


def _local(target: str) -> str:
    return f"localhost/adts/{target}:test"


@contextmanager
def _storage() -> Iterator[_Storage]:
    """The storage, ready; afterwards nothing of it is mounted."""
    folder = cache_folder() / "buildah"
    try:
        with tempfile.TemporaryDirectory(prefix="adts-build-") as temporary:
            yield _Storage(folder, Path(temporary))
    finally:
        subprocess.run(["umount", folder / "overlay"], capture_output=True)
        shutil.rmtree(RUN_ROOT, ignore_errors=True)
