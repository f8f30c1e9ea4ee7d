"""The tensors of one safetensors file, or of a folder of them, of which slices can be read.

Files are mapped into memory: a slice is a view of the file, read where it is copied to.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from adts_trainer.errors import CheckpointError

FIELD = "spec.checkpoint.initializeFrom"


class StoredTensor:
    """One tensor in a file."""

    def __init__(self, handle: Any, name: str) -> None:
        """`handle` is of safetensors.safe_open."""
        self._handle, self._name = handle, name

    @property
    def shape(self) -> list[int]:
        return list(self._handle.get_slice(self._name).get_shape())

    @property
    def metadata(self) -> dict[str, str]:
        """What its file says of itself."""
        return self._handle.metadata() or {}

    def read(self, index: tuple[slice, ...]) -> Tensor:
        """A view of a part of it."""
        part: Tensor = self._handle.get_slice(self._name)[index]
        return part


def open_tensors(path: Path) -> dict[str, StoredTensor]:
    """By name, all tensors of a file, of `model.safetensors` in a folder, or of those that its index names.

    Raises CheckpointError where there are none, or a file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    tensors = {}
    for file in _files(path):
        try:
            handle = safe_open(file, framework="pt")
        except (SafetensorError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise problem(file, f"is no readable safetensors file ({reason}); copy it again") from error
        tensors |= {name: StoredTensor(handle, name) for name in handle.keys()}  # noqa: SIM118 - it is no mapping
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that is a mapping. Raises CheckpointError."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise problem(path, f"cannot be read ({type(error).__name__}: {error}); copy it again") from error


def problem(path: Path, words: str) -> CheckpointError:
    """What is wrong with a file or folder that the manifest names."""
    return CheckpointError(f"{FIELD}: {path}: {words}")


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    index, single = path / "model.safetensors.index.json", path / "model.safetensors"
    if index.is_file():
        files = read_json(index).get("weight_map")
        if not isinstance(files, dict) or not files:
            raise problem(index, "has no weight_map; copy it again")
        return [path / str(name) for name in sorted(set(files.values()))]
    if single.is_file():
        return [single]
    if not path.exists():
        raise problem(path, "no such file or folder; name a .safetensors file, or a folder with model.safetensors")
    if (path / "latest").is_file() or (path / "checkpoints" / "latest").is_file():
        raise problem(path, f"is a run; write its weights with: adts export {path} --out model.safetensors")
    raise problem(path, "holds no model.safetensors; write it with save_pretrained or adts export")
