"""Rules on workers, degrees and the global batch: what `topology` computes must come out whole."""

from __future__ import annotations

from collections.abc import Iterator

from adts_api.errors import FieldError
from adts_api.fields import is_set, spec_leaves
from adts_api.pipelining import ALL_STAGES_BUSY, IN_ROUNDS, SPLIT_BACKWARD, stages_per_rank
from adts_api.topology import Topology, processes_per_worker, resolved_device, resolved_engine, topology, world_size
from adts_api.v1alpha1 import Spec
from adts_api.wording import use_divisor, use_multiple


def rule_processes(spec: Spec) -> Iterator[FieldError]:
    """GPUs and processes of a worker agree where both are given."""
    gpus, processes = spec.workers.gpus_per_worker, spec.workers.processes_per_worker
    if gpus and processes and gpus != processes:
        problem = f"{processes} differs from gpusPerWorker {gpus}, and a GPU has one process"
        yield FieldError("spec.workers.processesPerWorker", problem, "remove it")


def rule_device(spec: Spec) -> Iterator[FieldError]:
    """CUDA needs GPUs."""
    if resolved_device(spec) == "cuda" and not spec.workers.gpus_per_worker:
        fix = "set spec.workers.gpusPerWorker, or use cpu"
        yield FieldError("spec.training.device", "cuda needs workers with GPUs", fix)


def rule_tensor(spec: Spec) -> Iterator[FieldError]:
    """Tensor-parallel groups stay inside a worker."""
    tensor, processes = spec.parallelism.tensor, processes_per_worker(spec)
    if processes % tensor:
        problem = f"{tensor} does not divide the {processes} processes of a worker"
        yield FieldError("spec.parallelism.tensor", problem, use_divisor(tensor, processes))


def rule_pipeline(spec: Spec) -> Iterator[FieldError]:
    """Pipeline stages take equal parts of the tensor-parallel groups."""
    tensor, pipeline, world = spec.parallelism.tensor, spec.parallelism.pipeline, world_size(spec)
    if processes_per_worker(spec) % tensor == 0 and (world // tensor) % pipeline:
        groups = f"{world} processes" if tensor == 1 else f"{world // tensor} groups of {tensor} processes"
        problem = f"{pipeline} does not divide the {groups}"
        yield FieldError("spec.parallelism.pipeline", problem, use_divisor(pipeline, world // tensor))


def rule_tensor_sizes(spec: Spec) -> Iterator[FieldError]:
    """Every tensor rank has whole heads, and something of every matrix."""
    tensor, model = spec.parallelism.tensor, spec.model
    if tensor == 1 or processes_per_worker(spec) % tensor or model.type != "gpt":
        return
    sizes = {"heads": model.heads, "keyValueHeads": model.key_value_heads or model.heads}
    for field, count in sizes.items():
        if count % tensor:
            problem = f"{tensor} does not divide the {count} {field}, and a head is not cut"
            yield FieldError("spec.parallelism.tensor", problem, use_divisor(tensor, count))
            return
    if model.vocabulary_size and model.vocabulary_size < tensor:
        problem = f"{tensor} is more than the {model.vocabulary_size} token ids"
        yield FieldError("spec.parallelism.tensor", problem, f"use at most {model.vocabulary_size}")


def rule_sequence_parallel(spec: Spec) -> Iterator[FieldError]:
    """Positions are cut over tensor ranks only."""
    if not spec.parallelism.sequence_parallel:
        return
    path = "spec.parallelism.sequenceParallel"
    if spec.parallelism.tensor == 1:
        yield FieldError(path, "true has no effect with tensor 1", "set spec.parallelism.tensor, or remove it")
    elif spec.model.type != "gpt":
        yield FieldError(path, f"true needs positions to cut, which {spec.model.type} does not have", "remove it")


def rule_stages(spec: Spec) -> Iterator[FieldError]:
    """A pipeline has an engine, layers and micro-batches for its schedule."""
    pipeline, schedule = spec.parallelism.pipeline, spec.parallelism.schedule
    if pipeline == 1:
        if is_set(spec_leaves()["parallelism.schedule"], spec):
            problem = f"{schedule} has no effect with pipeline 1"
            yield FieldError("spec.parallelism.schedule", problem, "set spec.parallelism.pipeline, or remove it")
        return
    if spec.model.type != "gpt":
        problem = f"{pipeline} needs a model that knows its stages, and {spec.model.type} does not"
        yield FieldError("spec.parallelism.pipeline", problem, "use spec.model.type gpt, or 1")
        return
    engine = resolved_engine(spec)
    if engine == "ddp":
        problem = f"ddp with pipeline {pipeline} trains wrongly under every schedule but one"
        yield FieldError("spec.zero.engine", problem, "use native")
    if spec.zero.stage == 3 and schedule in SPLIT_BACKWARD:
        problem = f"{schedule} with zero.stage 3 trains wrongly: gradients of weights are computed after they are gone"
        yield FieldError("spec.parallelism.schedule", problem, "use 1F1B or Interleaved1F1B, or zero.stage 2")
    stages = pipeline * stages_per_rank(schedule)
    if spec.model.layers < stages:
        problem = f"{pipeline} with {schedule} has {stages} stages, more than the {spec.model.layers} layers"
        yield FieldError("spec.parallelism.pipeline", problem, "use fewer stages, or more layers")
    micro = spec.parallelism.microbatches
    if schedule in ALL_STAGES_BUSY and micro < stages:
        problem = f"{micro} is less than the {stages} stages of {schedule} with pipeline {pipeline}"
        yield FieldError("spec.parallelism.microbatches", problem, f"use at least {stages}")
    elif schedule in IN_ROUNDS and micro % max(1, micro // pipeline):
        problem = f"{micro} does not make equal rounds of {schedule} with pipeline {pipeline}"
        yield FieldError("spec.parallelism.microbatches", problem, use_multiple(micro, pipeline))


def rule_shard_degree(spec: Spec) -> Iterator[FieldError]:
    """Shards take equal parts of the data ranks."""
    data = world_size(spec) // (spec.parallelism.tensor * spec.parallelism.pipeline)
    degree = spec.zero.shard_degree
    if degree and spec.zero.stage == 0:
        yield FieldError("spec.zero.shardDegree", f"{degree} has no effect with zero.stage 0", "remove it")
    elif degree and data and data % degree:
        problem = f"{degree} does not divide the {data} data ranks"
        yield FieldError("spec.zero.shardDegree", problem, use_divisor(degree, data))


def rule_global_batch(spec: Spec) -> Iterator[FieldError]:
    """Every data rank gets an equal share of the batch, in equal micro-batches."""
    mesh = whole_topology(spec)
    microbatches, batch = spec.parallelism.microbatches, spec.training.global_batch_size
    if mesh is None or batch % (mesh.dp * microbatches) == 0:
        return
    unit, parts = mesh.dp * microbatches, f"{mesh.dp} data ranks"
    if microbatches > 1:
        parts += f" x {microbatches} microbatches = {unit}"
    problem = f"{batch} is no multiple of {parts}"
    yield FieldError("spec.training.globalBatchSize", problem, use_multiple(batch, unit))


def rule_bucket(spec: Spec) -> Iterator[FieldError]:
    """Only gradients that are summed over replicas travel in buckets of our size."""
    engine, mesh = resolved_engine(spec), whole_topology(spec)
    has_buckets = engine in ("ddp", "deepspeed") or (engine == "native" and mesh is not None and mesh.dp_replicate > 1)
    if not has_buckets and is_set(spec_leaves()["communication.bucketMegabytes"], spec):
        problem = f"{spec.communication.bucket_megabytes:g} has no effect with engine {engine}"
        yield FieldError("spec.communication.bucketMegabytes", problem, "remove it")


def whole_topology(spec: Spec) -> Topology | None:
    """The mesh, or None where the degrees do not divide, which their own rules report."""
    try:
        return topology(spec)
    except ValueError:
        return None
