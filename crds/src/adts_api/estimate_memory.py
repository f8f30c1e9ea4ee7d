"""Bytes of live tensors on one rank at the moments of a step when there are most of them, in closed form.

The peak of a step is the largest of a few moments: between forward and backward, in the backward pass of the output
matrix, of the top and of the bottom layer, when the embeddings' gradients arrive, and in the optimizer. Each moment is
a sum of named terms; the states that engines keep are in `estimate_states`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adts_api.estimate_states import Formats, formats, states
from adts_api.shapes import ModelShape, Part
from adts_api.stages import Stack, stacks
from adts_api.topology import resolved_engine, topology
from adts_api.v1alpha1 import Spec

KINDS = ("parameters", "gradients", "optimizer", "activations", "copies", "buffers", "working", "residuals")
"""parameters, gradients, optimizer: this rank's own state. activations: what the backward pass needs, and the batch.
copies: whole or half-precision copies of parameters. buffers: of collectives. working: short-lived gradients of
activations and weights. residuals: error feedback."""

MOMENTS = (
    "forward",
    "loss",
    "output",
    "top layer",
    "top gradients",
    "second layer",
    "bottom layer",
    "bottom gradients",
    "embedding",
    "optimizer",
)
"""In the order of a step: the end of the forward pass, the backward pass of the loss, of the output matrix, the begin
and the end of that of a layer, that of the embeddings, and the update."""

LOSS_CHUNK_ENTRIES = 1 << 24
"""Entries of the logits that the loss holds in fp32 at a time (adts_trainer.models.loss)."""


@dataclass(frozen=True)
class Peak:
    """Live bytes at the fullest moment of one rank's step."""

    rank: int
    """Pipeline rank."""
    moment: str
    kinds: dict[str, int]
    """Bytes of each of KINDS."""

    @property
    def total(self) -> int:
        return sum(self.kinds.values())


def peak(spec: Spec, every: list[Stack] | None = None) -> Peak:
    """The fullest rank's fullest moment. Of ranks that hold the same, only one with most passes in flight is looked at.
    Raises UnknownShapeError."""
    fullest: dict[tuple[Part, ...], Stack] = {}
    for stack in every or stacks(spec):
        other = fullest.setdefault(stack.parts, stack)
        if stack.passes > other.passes:
            fullest[stack.parts] = stack
    return max((it for stack in fullest.values() for it in moments(spec, stack)), key=lambda it: it.total)


def moments(spec: Spec, stack: Stack) -> Iterator[Peak]:
    """The moments of one rank's step: of its first backward passes, and of later ones, which find gradients. Where all
    forward passes come first, later ones find fewer activations, in the end those of one micro-batch."""
    number = formats(spec)
    share = spec.training.global_batch_size // topology(spec).dp
    microbatches = spec.parallelism.microbatches
    one = MicroBatch(spec, stack.shape, number, share // microbatches)
    batch = share * stack.shape.input_bytes + one.received(stack)
    kept = one.kept(stack)
    yield from _moments(spec, stack, one, batch, kept, is_later=False)
    if microbatches > 1:
        is_refilled = stack.passes < microbatches * len(stack.chunks)
        left = kept if is_refilled else sum(map(one.kept_of, stack.parts))
        yield from _moments(spec, stack, one, batch, left, is_later=True)


def _moments(spec: Spec, stack: Stack, one: MicroBatch, batch: int, kept: int, *, is_later: bool) -> Iterator[Peak]:
    own = states(spec, stack, is_later=is_later)
    for moment in MOMENTS:
        if not stack.has_last and moment in ("loss", "output"):
            continue
        saved, working = one.at(moment, stack, kept)
        held = own.at(moment)
        kinds = {
            "parameters": own.parameters,
            "gradients": held.gradients,
            "optimizer": own.optimizer,
            "activations": saved + batch,
            "copies": held.copies,
            "buffers": held.buffers,
            "working": working + held.working,
            "residuals": own.residuals,
        }
        yield Peak(stack.rank, moment, kinds)


@dataclass(frozen=True)
class MicroBatch:
    """The activations of one micro-batch of `samples` on one rank."""

    spec: Spec
    shape: ModelShape
    formats: Formats
    samples: int

    def saved(self, part: Part) -> int:
        """Bytes that autograd keeps of a part."""
        return sum(self.formats.saved(it) for it in part.saved) * self.samples + part.tables * 4

    def logits(self) -> int:
        """Bytes of one copy of the logits, in the compute format."""
        entries = self.shape.positions * -(-self.shape.outputs // self.formats.tensor)
        return entries * self.samples * self.formats.compute

    def boundary(self) -> int:
        """Bytes of the activation between two layers."""
        entries = self.shape.positions * self.shape.width // self.formats.sequence
        return entries * self.samples * self.formats.residual

    def kept_of(self, part: Part) -> int:
        """Bytes kept of a part from forward to backward: all that is saved, or a layer's input only."""
        is_recomputed = self.spec.training.activation_checkpointing == "full" and part.is_layer
        return self.boundary() if is_recomputed else self.saved(part)

    def kept(self, stack: Stack) -> int:
        """Bytes kept on one rank when most passes are in flight. Which of several local stages they are of changes all
        the time: the largest is counted, but no more than every micro-batch of every stage."""
        chunks = [sum(map(self.kept_of, chunk)) for chunk in stack.chunks]
        microbatches = self.spec.parallelism.microbatches if self.spec.parallelism.pipeline > 1 else 1
        return min(stack.passes * max(chunks), microbatches * sum(chunks))

    def received(self, stack: Stack) -> int:
        """Bytes of what neighbours sent, besides what autograd keeps. torch's stages have a buffer for each micro-batch
        and direction. DeepSpeed's have one for each direction, keep what they sent and received as long as it is in
        flight, and the last one keeps logits until the next are there."""
        degree = self.spec.parallelism.pipeline
        if degree == 1:
            return 0
        sides = 2 * len(stack.chunks) - stack.has_first - stack.has_last
        if resolved_engine(self.spec) == "deepspeed":
            return sides * (stack.passes + 1) * self.boundary() + (self.logits() if stack.has_last else 0)
        return sides * self.spec.parallelism.microbatches * self.boundary()

    def at(self, moment: str, stack: Stack, kept: int) -> tuple[int, int]:
        """(saved, working) bytes at a moment, `kept` of them between forward and backward."""
        last = self.saved(self.shape.last) if stack.has_last else 0
        logits, layers = self.logits(), stack.layers
        others = max(0, kept - sum(map(self.kept_of, stack.chunks[0])))  # of other micro-batches
        own = self.kept_of(layers[0])
        match moment:
            case "forward":
                return kept, 0
            case "loss":
                outputs = -(-self.shape.outputs // self.formats.tensor)
                entries = min(max(1, LOSS_CHUNK_ENTRIES // outputs), self.samples * self.shape.positions) * outputs
                return kept, logits + 2 * entries * self.formats.master
            case "output":
                return kept - logits, logits + self.boundary()
            case "top layer":
                return kept - last + self.again(layers[-1]), self.boundary() + self.working(layers[-1])
            case "top gradients":
                return kept - last - self.kept_of(layers[-1]), self.boundary()
            case "second layer":
                second = layers[-2] if len(layers) > 1 else layers[-1]
                left = kept - last - (self.kept_of(layers[-1]) if len(layers) > 1 else 0)
                return left + self.again(second), self.boundary() + self.working(second)
            case "bottom layer":
                return others + own + self.again(layers[0]), self.boundary() + self.working(layers[0])
            case "bottom gradients" | "embedding":
                return others, self.boundary()
            case _:
                return 0, 0

    def again(self, layer: Part) -> int:
        """Bytes that recomputing a layer brings back."""
        return self.saved(layer) if self.spec.training.activation_checkpointing == "full" else 0

    def working(self, part: Part) -> int:
        """Bytes of gradients of activations inside a layer's backward pass."""
        return part.working // self.formats.tensor * self.samples * self.formats.compute
