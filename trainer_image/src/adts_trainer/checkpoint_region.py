"""Parts of tensors in the protocol of torch.distributed.checkpoint: each rank says which rectangle of a whole tensor it
has, and gets back the same or any other rectangle. So one format serves all layouts, and any layout loads any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from torch.distributed.tensor import DTensor

from adts_trainer.parallel.tensor import Cut


@dataclass(frozen=True)
class Region:
    """What this rank has of one tensor."""

    tensor: Tensor
    offsets: torch.Size
    """Of its first entry in the whole tensor."""
    whole: torch.Size

    @classmethod
    def of(cls, tensor: Tensor, cut: Cut | None = None) -> Region:
        """The region of a tensor that FSDP2 may have sharded, after tensor parallelism may have cut it."""
        shape, own, offsets = tensor.shape, tensor, [0] * tensor.ndim
        if isinstance(tensor, DTensor):
            own = tensor.to_local()
            chunks = tensor.__create_chunk_list__()
            offsets = list(chunks[0].offsets) if chunks else offsets
        if cut is not None:
            shape = cut.whole_shape(shape)
            offsets[cut.dimension] += cut.first
        return cls(own, torch.Size(offsets), shape)

    @classmethod
    def like(cls, parameter: Tensor, value: Tensor, cut: Cut | None = None) -> Region:
        """The region of `value`, which has the shape of what this rank holds of a parameter."""
        if isinstance(parameter, DTensor):
            value = DTensor.from_local(
                value,
                parameter.device_mesh,
                parameter.placements,
                run_check=False,
                shape=parameter.shape,
                stride=parameter.stride(),
            )
        return cls.of(value, cut)

    def copy(self) -> Region:
        """The same, on the CPU and apart from the training."""
        return Region(self.tensor.detach().to("cpu", copy=True), self.offsets, self.whole)

    def at(self, offset: torch.Size | None) -> Tensor:
        """The tensor whose first entry is there in the whole one."""
        return self.tensor

    @property
    def is_empty(self) -> bool:
        """Whether this rank has nothing of a tensor that has something."""
        return self.tensor.numel() == 0 and self.whole.numel() > 0

    def __create_write_items__(self, name: str, _: object) -> list[WriteItem]:
        chunks = self.__create_chunk_list__()
        properties = TensorProperties.create_from_tensor(self.tensor)
        return [
            WriteItem(
                index=MetadataIndex(name, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=self.whole),
            )
            for chunk in chunks
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [] if self.is_empty else [ChunkStorageMetadata(self.offsets, self.tensor.shape)]


@dataclass(frozen=True)
class Pieces:
    """What this rank has of one tensor where that is no rectangle: a range of its entries in the order of rows."""

    pieces: list[Region]
    """Rectangles that the range is made of; none where this rank has nothing."""
    whole: torch.Size

    @classmethod
    def of(cls, flat: Tensor, shape: torch.Size, start: int, cut: Cut | None) -> Pieces:
        """`flat` [N] as the entries from `start` on of a tensor of this shape, which `cut` puts into a larger one."""
        pieces, done = [], 0
        whole = shape if cut is None else cut.whole_shape(shape)
        for offsets, size in rectangles(tuple(shape), start, start + flat.numel()):
            if cut is not None:
                offsets = (*offsets[: cut.dimension], offsets[cut.dimension] + cut.first, *offsets[cut.dimension + 1 :])
            count = math.prod(size)
            pieces.append(Region(flat.narrow(0, done, count).view(size), torch.Size(offsets), whole))
            done += count
        return cls(pieces, whole)

    def copy(self) -> Pieces:
        """The same, on the CPU and apart from the training."""
        return Pieces([piece.copy() for piece in self.pieces], self.whole)

    def at(self, offset: torch.Size | None) -> Tensor:
        """The piece whose first entry is there in the whole tensor."""
        return next(piece.tensor for piece in self.pieces if piece.offsets == offset)

    def __create_write_items__(self, name: str, _: object) -> list[WriteItem]:
        return [item for piece in self.pieces for item in piece.__create_write_items__(name, _)]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [chunk for piece in self.pieces for chunk in piece.__create_chunk_list__()]


Bounds = tuple[int, ...]


def rectangles(shape: Bounds, start: int, stop: int) -> list[tuple[Bounds, Bounds]]:
    """(offsets, sizes) of the rectangles that make up entries start to stop - 1, in the order of rows, of a tensor: the
    rest of a first row, whole rows, and the begin of a last one, where rows may be cut in the same way again."""
    if start >= stop:
        return []
    if not shape:
        return [((), ())]
    row = math.prod(shape[1:])
    first, last = -(-start // row), stop // row
    if first > last:  # within one row
        return _in_row(shape, last, start, stop)
    whole = [((first, *(0 for _ in shape[1:])), (last - first, *shape[1:]))] if first < last else []
    return [
        *_in_row(shape, first - 1, start, first * row),
        *whole,
        *_in_row(shape, last, last * row, stop),
    ]


def _in_row(shape: Bounds, number: int, start: int, stop: int) -> list[tuple[Bounds, Bounds]]:
    begin = number * math.prod(shape[1:])
    parts = rectangles(shape[1:], start - begin, stop - begin)
    return [((number, *offsets), (1, *sizes)) for offsets, sizes in parts]


@dataclass(frozen=True)
class Home:
    """Where an engine keeps the weights of one parameter in full precision, and the optimizer what belongs to them."""

    tensor: Tensor
    """The weights, and the key of the optimizer's state."""
    region: Callable[[Tensor], Region | Pieces]
    """What a tensor of the same shape has of the whole parameter."""


class SavePlanner(DefaultSavePlanner):
    """Knows regions."""

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        """The tensor that a write item asked for."""
        region: Region | Pieces = self.state_dict[index.fqn]
        return region.at(index.offset)


class LoadPlanner(DefaultLoadPlanner):
    """Knows regions."""

    def set_up_planner(
        self, state_dict: dict[str, Region], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Take the regions as they are: the default would look for tensors on the meta device in them, in vain."""
        self.flatten_state_dict = False
        self.original_state_dict = self.state_dict = state_dict
        self.metadata, self.is_coordinator = metadata, is_coordinator

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """The tensor that is to be filled."""
        region: Region | Pieces = self.state_dict[index.fqn]
        return region.at(index.offset)


def read_into(directory: Path, regions: Mapping[str, Region | Pieces]) -> None:
    """Fill regions from a checkpoint of any layout. Every rank calls it, with regions of its own."""
    dcp.load(dict(regions), storage_reader=dcp.FileSystemReader(directory), planner=LoadPlanner())
