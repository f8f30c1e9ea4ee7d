"""Images as files: one folder in OCI layout, whose layers are kept once however many images share them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
TAG = "org.opencontainers.image.ref.name"
NAME = "io.containerd.image.name"
"""Annotation by which containerd names what it imports."""
KEPT_SECONDS = 3600


@dataclass(frozen=True)
class Image:
    """An image of the folder under the name by which pods ask for it."""

    folder: Path
    name: str
    descriptor: dict[str, Any]
    """Media type, digest and size of its manifest."""

    @property
    def blobs(self) -> list[str]:
        """Digests of all it consists of, the manifest first."""
        manifest = json.loads(self.blob(self.descriptor["digest"]).read_text())
        return [self.descriptor["digest"], manifest["config"]["digest"], *(x["digest"] for x in manifest["layers"])]

    def size(self, without: set[str]) -> int:
        """Bytes of its blobs that are not among those given."""
        return sum(self.blob(digest).stat().st_size for digest in self.blobs if digest not in without)

    def write_archive(self, stream: IO[bytes], without: set[str]) -> None:
        """Writes it as a tar for `ctr images import`, leaving out the blobs that the reader has."""
        described = {**self.descriptor, "annotations": {NAME: self.name}}
        with tarfile.open(fileobj=stream, mode="w|") as tar:
            _add_text(tar, "oci-layout", {"imageLayoutVersion": "1.0.0"})
            for digest in self.blobs:
                if digest not in without:
                    tar.add(self.blob(digest), f"blobs/{digest.replace(':', '/')}")
            _add_text(tar, "index.json", {"schemaVersion": 2, "manifests": [described]})

    def blob(self, digest: str) -> Path:
        """File of a manifest, configuration or layer."""
        return self.folder / "blobs" / digest.replace(":", "/")


@dataclass(frozen=True)
class ImageFolder:
    """The folder. Other tools write images into it, under tags; ours is to find them and to tidy."""

    folder: Path

    def find(self, tag: str, name: str) -> Image | None:
        """The image with that tag, to be known by that name."""
        for descriptor in self._index()["manifests"]:
            if _tag(descriptor) == tag:
                plain = {key: descriptor[key] for key in ("mediaType", "digest", "size")}
                return Image(self.folder, name, plain)
        return None

    def add(self, tag: str, layer: bytes, config: dict[str, Any]) -> None:
        """Adds an image of one layer; the configuration gets the layer's digest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        layers = [self._write(layer, LAYER)]
        whole = {**config, "rootfs": {"type": "layers", "diff_ids": [layers[0]["digest"]]}}
        described = self._write(json.dumps(whole).encode(), CONFIG)
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described, "layers": layers}
        entry = {**self._write(json.dumps(manifest).encode(), MANIFEST), "annotations": {TAG: tag}}
        (self.folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
        self._write_index([*self._without([tag]), entry])

    def tidy(self, kind: str) -> None:
        """Forgets all but the newest image whose tag begins with the kind; deletes blobs that no image uses.

        Those of the last hour stay: another run, perhaps of another checkout, may be about to load its own.
        """
        entries = [entry for entry in self._index()["manifests"] if _tag(entry).startswith(f"{kind}-")]
        self._write_index(self._without([_tag(entry) for entry in entries[:-1] if self._age(entry) > KEPT_SECONDS]))
        used = {blob for entry in self._index()["manifests"] for blob in Image(self.folder, "", entry).blobs}
        for path in (self.folder / "blobs" / "sha256").iterdir():
            if f"sha256:{path.name}" not in used:
                path.unlink()

    def _age(self, entry: dict[str, Any]) -> float:
        """Seconds since the image was written."""
        return time.time() - Image(self.folder, "", entry).blob(entry["digest"]).stat().st_mtime

    def _without(self, tags: list[str]) -> list[dict[str, Any]]:
        return [entry for entry in self._index()["manifests"] if _tag(entry) not in tags]

    def _index(self) -> dict[str, Any]:
        path = self.folder / "index.json"
        return dict(json.loads(path.read_text())) if path.exists() else {"manifests": []}

    def _write_index(self, manifests: list[dict[str, Any]]) -> None:
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))

    def _write(self, content: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        path = self.folder / "blobs" / "sha256" / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def _tag(entry: dict[str, Any]) -> str:
    return str(entry.get("annotations", {}).get(TAG, ""))


def _add_text(tar: tarfile.TarFile, name: str, content: dict[str, Any]) -> None:
    text = json.dumps(content).encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(text)
    tar.addfile(entry, io.BytesIO(text))
