"""A safetensors file with `inputs` and `targets`: data of the mlp."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from adts_trainer.batch import Batch, DataFacts
from adts_trainer.data.files import file_size, find_files
from adts_trainer.errors import DataError


class TensorDataset:
    """Rows of `inputs` [N, F] with a class (int64 [N]) or values (float [N, O] or [N]) each, in memory."""

    def __init__(self, path: str) -> None:
        """Raises DataError where the file, a tensor, a shape or a type is not as above."""
        source, self._inputs, self._targets = _load(path)
        classes = not self._targets.is_floating_point()
        if classes:
            self._targets = self._targets.to(torch.int64)
            if int(self._targets.min()) < 0:
                raise DataError(f"{source}: targets: class {int(self._targets.min())} is negative; classes start at 0")
            outputs = int(self._targets.max()) + 1
        else:
            self._targets = self._targets.reshape(len(self._targets), -1)
            outputs = self._targets.shape[1]
        task = "classification" if classes else "regression"
        self.facts = DataFacts(task, input_size=self._inputs.shape[1], output_size=outputs)
        self.tokens_per_sample = 1

    def __len__(self) -> int:
        return self._inputs.shape[0]

    def batch(self, ids: np.ndarray, keys: np.ndarray) -> Batch:
        """Inputs [B, F] in the file's float type; targets int64 [B] or float [B, O]."""
        rows = torch.from_numpy(ids)
        return Batch(self._inputs[rows], self._targets[rows], torch.from_numpy(keys))


def _load(path: str) -> tuple[str, Tensor, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = find_files(path, (".safetensors",))
    if len(files) > 1:
        raise DataError(f"spec.data.path: {path}: {len(files)} files; tensors are read from exactly one")
    source = str(files[0])
    file_size(files[0])
    try:
        tensors = load_file(source)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(
            f"{source}: is no safetensors file: {error}; write it with safetensors.torch.save_file"
        ) from error
    missing = {"inputs", "targets"} - tensors.keys()
    if missing:
        raise DataError(
            f"{source}: has no tensor {' and '.join(sorted(missing))} (it has {', '.join(sorted(tensors)) or 'none'}); "
            "save `inputs` [N, F] and `targets` [N] or [N, O]"
        )
    inputs, targets = tensors["inputs"], tensors["targets"]
    _check_shapes(source, inputs, targets)
    return source, inputs, targets


def _check_shapes(source: str, inputs: Tensor, targets: Tensor) -> None:
    shape, target_shape = list(inputs.shape), list(targets.shape)
    if inputs.ndim != 2 or not inputs.is_floating_point():
        raise DataError(f"{source}: inputs are {inputs.dtype} {shape}; they must be floating point [N, F]")
    if targets.is_floating_point() and targets.ndim not in (1, 2):
        raise DataError(f"{source}: targets are {target_shape}; values to regress must be [N] or [N, O]")
    if not targets.is_floating_point() and (targets.ndim != 1 or targets.dtype == torch.bool):
        raise DataError(f"{source}: targets are {targets.dtype} {target_shape}; classes must be int64 [N]")
    if inputs.shape[0] != targets.shape[0]:
        raise DataError(f"{source}: {shape[0]} inputs but {target_shape[0]} targets; each row needs one of both")
    if inputs.numel() == 0:
        raise DataError(f"{source}: inputs are {shape}, nothing to train on; save at least one row and one feature")
