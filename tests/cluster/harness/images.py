"""The project's images, built from its real Dockerfile on the stand-in base, and kept while their sources are the same.

After a change of our code alone it takes seconds: all layers below are kept.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from cluster.harness import base_image
from cluster.harness.build_storage import Storage, images_locked, open_storage
from cluster.harness.image_folder import Image, ImageFolder
from cluster.harness.machine import cache_folder, say
from cluster.harness.process import ClusterError

CHECKOUT = Path(__file__).resolve().parents[3]
SOURCES = {"trainer": ("crds", "trainer_image"), "operator": ("crds", "operator")}
"""Target of the Dockerfile -> folders that it copies."""
NAMES = {
    "trainer": "docker.io/adts/trainer:test",
    "operator": "docker.io/adts/operator:test",
    "lower": "docker.io/adts/trainer:lower",
}
"""Kind of image -> the name by which pods ask for it."""

LOWER_CONTRACT = """\
FROM localhost/adts/trainer:test
USER root
RUN file=$(python3 -c 'import adts_api.contract as contract; print(contract.__file__)') \\
 && lower=$(python3 -c 'import adts_api.contract as contract; print(contract.CONTRACT_VERSION - 1)') \\
 && sed -i "s/^CONTRACT_VERSION = .*/CONTRACT_VERSION = $lower/" "$file"
USER 65532:65532
"""


def trainer_image() -> Image:
    """The trainer's image as pods ask for it."""
    return _built("trainer", _key("trainer"), lambda storage: storage.build("trainer", CHECKOUT))


def operator_image() -> Image:
    """The operator's image as the chart asks for it."""
    return _built("operator", _key("operator"), lambda storage: storage.build("operator", CHECKOUT))


def lower_contract_image() -> Image:
    """The trainer's image as an older release would be: it speaks the contract of one version before."""
    trainer_image()
    return _built("lower", _key("trainer"), lambda storage: storage.derive("lower", LOWER_CONTRACT))


def image_folder() -> ImageFolder:
    return ImageFolder(cache_folder() / "images")


def _built(kind: str, key: str, build: Callable[[Storage], None]) -> Image:
    """The image of that kind and key, built unless the folder has it."""
    tag = f"{kind}-{key}"
    name = NAMES[kind]
    folder = image_folder()
    with images_locked():
        found = folder.find(tag, name)
        if found:
            return found
        begin = time.monotonic()
        with open_storage() as storage:
            build(storage)
            storage.copy(kind, folder.folder, tag)
        folder.tidy(kind)
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
