"""Rules on workers, degrees and the global batch: what `topology` computes must come out whole."""

from __future__ import annotations

from collections.abc import Iterator

from adts_api.errors import FieldError
from adts_api.fields import is_set, spec_leaves
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


def rule_shard_degree(spec: Spec) -> Iterator[FieldError]:
    """Shards take equal parts of the data ranks."""
    data = world_size(spec) // (spec.parallelism.tensor * spec.parallelism.pipeline)
    degree = spec.zero.shard_degree
    if degree and data % degree:
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
    """Only ddp has gradient buckets of our size."""
    engine = resolved_engine(spec)
    if engine != "ddp" and is_set(spec_leaves()["communication.bucketMegabytes"], spec):
        problem = f"{spec.communication.bucket_megabytes:g} has no effect with engine {engine}"
        yield FieldError("spec.communication.bucketMegabytes", problem, "remove it")


def whole_topology(spec: Spec) -> Topology | None:
    """The mesh, or None where the degrees do not divide, which their own rules report."""
    try:
        return topology(spec)
    except ValueError:
        return None
