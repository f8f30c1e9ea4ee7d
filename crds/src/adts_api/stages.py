"""What each pipeline rank holds of a model, how many micro-batches are in flight on it, and how long it waits.

The bounds on micro-batches in flight are tested against the tables of torch.distributed.pipelining (2.13).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

from adts_api.pipelining import split_layers, stage_indices, stages_per_rank
from adts_api.shapes import ModelShape, Part, model_shape
from adts_api.v1alpha1 import Spec


def in_flight(schedule: str, degree: int, rank: int, microbatches: int) -> int:
    """At most so many forward passes of one stage and one micro-batch whose saved activations a rank holds at once;
    d ranks, v stages of each, m micro-batches, r the rank.

    | Schedule | Bound | Source |
    | --- | --- | --- |
    | GPipe, LoopedBFS | m v | all forward passes come first (1811.06965; 2211.05953) |
    | 1F1B | min(m, d - r) | 2006.09503 |
    | Interleaved1F1B | (v - 1) m/rounds + 2 (d - 1 - r) + 1 | 2104.04473, warm-up of torch's schedule |
    | InterleavedZeroBubble | (v - 1) m/rounds + d | warm-up of torch's schedule, r weight gradients put off |
    | ZBVZeroBubble | 2 d | 2401.10241: as much as 1F1B's first rank, in halves |
    | DualPipeV | 2 d + 1 | DualPipe's read-me: d + 1 for d/2 ranks |
    """
    stages = stages_per_rank(schedule)
    everything = microbatches * stages
    per_round = microbatches // max(1, microbatches // degree)
    bound = {
        "1F1B": degree - rank,
        "Interleaved1F1B": (stages - 1) * per_round + 2 * (degree - 1 - rank) + 1,
        "InterleavedZeroBubble": (stages - 1) * per_round + degree,
        "ZBVZeroBubble": 2 * degree,
        "DualPipeV": 2 * degree + 1,
    }.get(schedule, everything)
    return min(everything, bound)


def bubble_fraction(schedule: str, degree: int, microbatches: int) -> float:
    """Share of a step in which a rank waits for others: idle slots over all slots, a slot a whole stage's pass.

    GPipe and 1F1B (d - 1) / (m + d - 1) (1811.06965); v stages a rank divide the idle time by v (2104.04473). With the
    backward pass in two, each as long as the forward pass, what is left of three slots is one in
    InterleavedZeroBubble (2401.10241, ZB-H1), half of one in DualPipeV (its read-me: (d/2 - 1) of d stages), and none
    in ZBVZeroBubble with at least 2 d - 1 micro-batches.
    """
    idle = (degree - 1) / stages_per_rank(schedule)
    if schedule == "InterleavedZeroBubble":
        idle /= 3
    elif schedule == "DualPipeV":
        idle /= 6
    elif schedule == "ZBVZeroBubble":
        idle = max(0.0, (2 * degree - 1 - microbatches) / 2)
    return idle / (microbatches + idle)


@dataclass(frozen=True)
class Stack:
    """What one pipeline rank holds of the model."""

    shape: ModelShape
    tensor: int
    """Ranks that share each matrix."""
    rank: int
    chunks: tuple[tuple[Part, ...], ...]
    """Parts by local stage."""
    passes: int
    """Forward passes of one local stage whose activations are held at once."""

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        return tuple(part for chunk in self.chunks for part in chunk)

    @cached_property
    def layers(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.is_layer)

    @cached_property
    def has_first(self) -> bool:
        return self.shape.first in self.parts

    @cached_property
    def has_last(self) -> bool:
        return self.shape.last in self.parts

    @cached_property
    def layer_elements(self) -> int:
        """Entries of the parameters of all its layers on one rank."""
        return sum(part.elements(self.tensor) for part in self.layers)

    @cached_property
    def root_elements(self) -> int:
        """Entries outside the layers. A tied output matrix on another stage than the embedding is a copy of its own."""
        rest = sum(part.elements(self.tensor) for part in self.parts if not part.is_layer)
        is_copy = self.shape.is_tied and self.has_last and not self.has_first
        return rest + (self.output_weight if is_copy else 0)

    @cached_property
    def elements(self) -> int:
        return self.layer_elements + self.root_elements

    @cached_property
    def largest_layer(self) -> int:
        """Entries of the largest layer."""
        return max((part.elements(self.tensor) for part in self.layers), default=0)

    @cached_property
    def output_weight(self) -> int:
        """Entries of the output matrix, wherever it is."""
        owner = self.shape.first if self.shape.is_tied else self.shape.last
        return owner.parameters[0 if self.shape.is_tied else -1 - (self.shape.positions == 1)].elements(self.tensor)

    @cached_property
    def embedding_weight(self) -> int:
        """Entries of the token embedding, if it is here."""
        if not self.has_first or not self.shape.first.parameters:
            return 0
        return self.shape.first.parameters[0].elements(self.tensor)

    @cached_property
    def layer_flops(self) -> float:
        """Forward flops of its layers, per sample."""
        return sum(part.forward_flops for part in self.layers)

    @cached_property
    def forward_flops(self) -> float:
        """Forward flops of all its parts, per sample."""
        return sum(part.forward_flops for part in self.parts)

    @cached_property
    def layer_operands(self) -> int:
        """Entries of the layers' parameters that autocast copies."""
        return sum(sum(p.elements(self.tensor) for p in part.parameters if p.is_operand) for part in self.layers)

    @cached_property
    def largest_weight(self) -> int:
        """Entries of the largest parameter of a layer."""
        return max((p.elements(self.tensor) for part in {*self.layers} for p in part.parameters), default=0)


def stacks(spec: Spec, shape: ModelShape | None = None) -> list[Stack]:
    """The parts of each pipeline rank. Raises UnknownShapeError."""
    shape = shape or model_shape(spec)
    degree, schedule = spec.parallelism.pipeline, spec.parallelism.schedule
    tensor = spec.parallelism.tensor
    if degree == 1:
        return [Stack(shape, tensor, 0, (shape.parts,), 1)]
    matrices = [float(sum(prod(it.shape) for it in layer.parameters if len(it.shape) == 2)) for layer in shape.layers]
    bounds = _bounds(
        tuple(matrices), shape.last.forward_flops / 2 / shape.positions, degree * stages_per_rank(schedule)
    )
    stages: list[tuple[Part, ...]] = [shape.layers[first:end] for first, end in bounds]
    stages[0] = (shape.first, *stages[0])
    stages[-1] = (*stages[-1], shape.last)
    microbatches = spec.parallelism.microbatches
    return [
        Stack(
            shape,
            tensor,
            rank,
            tuple(stages[stage] for stage in stage_indices(schedule, rank, degree)),
            in_flight(schedule, degree, rank, microbatches),
        )
        for rank in range(degree)
    ]


@lru_cache(maxsize=256)
def _bounds(layers: tuple[float, ...], head: float, stages: int) -> list[tuple[int, int]]:
    return split_layers(layers, head, stages)
