"""What an engine keeps of the parameters: masters, gradients, optimizer state, whole copies and buffers, in bytes.

Every term is a function of the moment of the step. ddp, native and DeepSpeed's stage 1 are measured by a test; what is
said of its other stages follows its papers (1910.02054, 2101.06840) and defaults, and is not measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from adts_api.shapes import Saved
from adts_api.stages import Stack
from adts_api.topology import Topology, resolved_device, resolved_engine, topology
from adts_api.v1alpha1 import Spec

MASTER_BYTES_OF_BUCKET = 4
"""`communication.bucketMegabytes` counts fp32 entries, whatever they travel as."""

LAYER_BEGINS = ("top layer", "second layer", "bottom layer")
LAYER_ENDS = ("top gradients", "bottom gradients")
BACKWARD = ("output", *LAYER_BEGINS, *LAYER_ENDS, "embedding")


@dataclass(frozen=True)
class Formats:
    """Bytes per entry, and the divisors of tensor parallelism."""

    master: int
    compute: int
    is_autocast: bool
    """ddp in half precision: fp32 parameters, every matrix product casts its inputs."""
    tensor: int
    sequence: int
    """Ranks that share an activation of the stream between layers: `tensor` with sequenceParallel, else 1."""

    @property
    def is_mixed(self) -> bool:
        return self.master != self.compute

    @property
    def residual(self) -> int:
        """Of the stream between layers."""
        return self.master if self.is_autocast else self.compute

    def saved(self, it: Saved) -> int:
        """Bytes of a saved tensor per sample on one rank."""
        size = {"compute": self.compute, "residual": self.residual, "precise": self.master, "byte": 1}[it.format]
        copies = it.copies if self.is_autocast else 1
        divisor = {"whole": 1, "tensor": self.tensor, "sequence": self.sequence}[it.cut]
        return -(-it.elements // divisor) * size * copies


def formats(spec: Spec) -> Formats:
    """The formats of a spec."""
    master = 8 if spec.precision.dtype == "fp64" else 4
    compute = 2 if spec.precision.dtype in ("bf16", "fp16") else master
    tensor = spec.parallelism.tensor
    is_autocast = compute != master and resolved_engine(spec) == "ddp"
    return Formats(master, compute, is_autocast, tensor, tensor if spec.parallelism.sequence_parallel else 1)


@dataclass(frozen=True)
class Held:
    """Bytes that change over a step."""

    gradients: int = 0
    copies: int = 0
    buffers: int = 0
    working: int = 0


@dataclass(frozen=True)
class States:
    """What one rank keeps, whatever the engine."""

    spec: Spec
    stack: Stack
    mesh: Topology
    formats: Formats
    is_later: bool
    """Whether gradients of earlier micro-batches are there already."""

    @property
    def own(self) -> int:
        """Entries of its share of the parameters."""
        return -(-self.stack.elements // self.mesh.dp_shard)

    @property
    def parameters(self) -> int:
        return self.own * self.formats.master

    @property
    def optimizer(self) -> int:
        """AdamW keeps two numbers an entry, SGD one, without momentum none. Replicas that train apart keep where they
        started, and the outer step's momentum if it has one."""
        numbers = 2 if self.spec.optimizer.name != "sgd" else 1 if self.spec.optimizer.momentum else 0
        outer = 1 + bool(self.spec.communication.outer_momentum) if self.is_apart else 0
        return self.own * self.formats.master * (numbers + outer)

    @property
    def is_apart(self) -> bool:
        """Whether replicas make steps of their own: then nothing of a gradient waits to travel between them."""
        return self.spec.communication.sync_every > 1

    @property
    def residuals(self) -> int:
        """Error feedback: what each rank lost, and for wires that are summed at an owner what the owner lost."""
        compression = self.spec.compression
        if compression.method == "none" or not compression.error_feedback or self.mesh.dp_replicate == 1:
            return 0
        sums_at_owner = compression.method in ("bf16", "fp16", "int8", "fp8", "onebit", "auto")  # auto: the largest
        return self.own * 4 + (self.own * 4 // self.mesh.dp_replicate if sums_at_owner else 0)

    @property
    def is_recomputed(self) -> bool:
        return self.spec.training.activation_checkpointing == "full"

    def arrived(self, moment: str) -> int:
        """Entries whose gradient exists at a moment of the first micro-batch."""
        stack = self.stack
        output = stack.output_weight if stack.has_last else 0
        one = stack.largest_layer
        return {
            "output": output,
            "top layer": output,
            "top gradients": output + one,
            "second layer": output + one,
            "bottom layer": output + stack.layer_elements - one,
            "bottom gradients": output + stack.layer_elements,
            "embedding": stack.elements,
            "optimizer": stack.elements,
        }.get(moment, 0)

    def fresh(self, moment: str) -> int:
        """Entries of the gradient that just came out of its kernel, where it must still be added to another."""
        stack = self.stack
        if moment == "output":
            return stack.output_weight if stack.has_last else 0
        if moment in LAYER_BEGINS:
            return stack.largest_weight
        return stack.embedding_weight if moment == "embedding" else 0

    def at(self, moment: str) -> Held:
        """What is held at a moment of the step."""
        raise NotImplementedError


class Ddp(States):
    """Everything on every data rank. DDP's buckets stay all the time; the gradients are views of them, but those of
    the micro-batches before the last one, which are not reduced, are tensors of their own."""

    def at(self, moment: str) -> Held:
        stack, number = self.stack, self.formats
        has_buckets = self.mesh.dp > 1 and not self.is_apart
        is_whole = has_buckets or self.is_later
        gradients = stack.elements if is_whole else self.arrived(moment)
        twice = has_buckets and self.is_later and moment != "optimizer"
        is_tied_again = moment == "embedding" and stack.shape.is_tied
        working = self.fresh(moment) if is_whole or is_tied_again else 0
        width = number.master + number.compute if number.is_autocast and moment != "embedding" else number.master
        return Held(
            gradients * number.master,
            copies=self.casts(moment),
            buffers=stack.elements * number.master if twice else 0,
            working=working * width,
        )

    def casts(self, moment: str) -> int:
        """Autocast's copies of the operands: cached during the forward pass, kept by the graph where no layer is
        recomputed, and freed layer by layer in the backward pass."""
        if not self.formats.is_autocast:
            return 0
        stack = self.stack
        layers = stack.layer_operands
        one = layers // max(1, len(stack.layers))
        output = stack.output_weight if stack.has_last else 0
        kept = one if self.is_recomputed else layers
        entries = {
            "forward": layers + output,
            "loss": output + (0 if self.is_recomputed else layers),
            "output": output + (0 if self.is_recomputed else layers),
            "top layer": kept,
            "top gradients": kept,
            "second layer": kept,
            "bottom layer": one,
        }.get(moment, 0)
        return entries * self.formats.compute


class Native(States):
    """FSDP2: each layer is a group of parameters gathered together, the rest is the root's group, whole all step."""

    @property
    def keeps_whole_gradients(self) -> bool:
        """Stage 0 and 1 reduce in the last micro-batch only; in a pipeline every stage does."""
        return self.is_later and (self.spec.zero.stage <= 1 or self.spec.parallelism.pipeline > 1)

    def at(self, moment: str) -> Held:
        own = -(-self.arrived(moment) // self.mesh.dp_shard)
        if self.is_later:
            own = self.own if not self.keeps_whole_gradients or moment == "optimizer" else self.stack.elements
        return Held(own * self.formats.master, self.whole(moment), self.traffic(moment), self.unreduced(moment))

    def whole(self, moment: str) -> int:
        """Whole parameters in the compute format."""
        stack, layer = self.stack, self.stack.largest_layer
        if moment == "optimizer":
            return 0
        layers = stack.layer_elements if self.spec.zero.stage <= 2 else layer
        gone = {"top gradients": layer, "second layer": layer, "bottom layer": layers - layer}.get(moment, 0)
        if moment in ("bottom gradients", "embedding"):
            gone = layers
        if self.spec.zero.stage == 3:
            gone = 0 if moment in LAYER_BEGINS or moment == "forward" else layer
        return (stack.root_elements + layers - gone) * self.formats.compute

    def traffic(self, moment: str) -> int:
        """Buffers of the collectives. An all-gather's output outlives its copy until the next one's; in the backward
        pass of stage 3 it is there a layer ahead. A reduce-scatter's input stays until the next layer's; gloo works on
        a copy of it."""
        stack, number = self.stack, self.formats
        gathered = stack.largest_layer * number.compute if self.mesh.dp_shard > 1 else 0
        scattered = stack.largest_layer * number.master
        copies = 2 if resolved_device(self.spec) == "cpu" else 1
        ahead = gathered if self.spec.zero.stage == 3 else 0
        arrived = -(-self.arrived(moment) // self.mesh.dp_shard)
        replicated = arrived * number.master if self.mesh.dp_replicate > 1 and not self.is_apart else 0
        inputs = {
            "forward": gathered,
            "output": ahead,
            "top layer": ahead,
            "top gradients": ahead + copies * scattered,
            "second layer": ahead + scattered,
            "bottom layer": scattered,
            "bottom gradients": copies * scattered,
            "embedding": copies * stack.root_elements * number.master,
        }.get(moment, 0)
        return inputs + replicated

    def unreduced(self, moment: str) -> int:
        """Gradients before their reduction: of the root from the output matrix on, of one layer at a time."""
        stack, number = self.stack, self.formats
        output = stack.output_weight if stack.has_last else 0
        entries = output if moment in BACKWARD else 0
        if moment in LAYER_ENDS:
            entries += stack.largest_layer
        if moment == "embedding":
            entries = stack.root_elements
        return entries * number.compute


class DeepSpeed(States):
    """ZeRO 1 to 3: half-precision (or second fp32) parameters beside flat fp32 masters of this rank's share. Stage 1
    adds whole gradients up in fp32, and allocates its bucket, however large, in each backward pass."""

    @property
    def parameters(self) -> int:
        stage, offload = self.spec.zero.stage, self.spec.zero.offload
        masters = 0 if offload.optimizer != "none" else self.own * self.formats.master
        working = self.own if stage == 3 else self.stack.elements
        return masters + (0 if offload.parameters != "none" else working * self.formats.compute)

    @property
    def optimizer(self) -> int:
        return 0 if self.spec.zero.offload.optimizer != "none" else super().optimizer

    def at(self, moment: str) -> Held:
        stack, number, stage = self.stack, self.formats, self.spec.zero.stage
        entries = int(self.spec.communication.bucket_megabytes * 1024 * 1024) // MASTER_BYTES_OF_BUCKET
        whole = stack.root_elements + 2 * stack.largest_layer if stage == 3 else 0
        fresh = self.fresh(moment) * number.compute
        if stage > 1:
            bucket = min(entries, stack.elements) * number.compute
            return Held(self.own * number.compute, whole * number.compute, bucket, fresh)
        buckets = 2 if self.spec.parallelism.pipeline > 1 and moment == "embedding" else 1  # its pipeline adds one
        has_begun = self.is_later or self.arrived(moment) > 0
        gradients = stack.elements if self.is_later else self.arrived(moment)
        return Held(gradients * number.master, 0, has_begun * buckets * entries * number.master, fresh)


def states(spec: Spec, stack: Stack, *, is_later: bool) -> States:
    """The states of the spec's engine on one rank, in the first or in a later micro-batch."""
    engine = {"ddp": Ddp, "native": Native, "deepspeed": DeepSpeed}[resolved_engine(spec)]
    return engine(spec, stack, topology(spec), formats(spec), is_later)
