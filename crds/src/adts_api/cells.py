"""Which fields, values and combinations have code. Validation, `docs/manifest.md` and the tests read this table.

A field that is not listed in `IMPLEMENTED` is refused when it is set: a new field of the spec can be forgotten here,
but never ignored in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adts_api.errors import FieldError
from adts_api.fields import Field, is_set
from adts_api.topology import resolved_engine
from adts_api.v1alpha1 import Spec
from adts_api.wording import one_of, show

IMPLEMENTED: frozenset[str] = frozenset(
    f"{block}.{field}".lstrip(".")
    for block, fields in {
        "": "image command",
        "workers": "replicas gpusPerWorker processesPerWorker gpuMemory template",
        "parallelism": "mode tensor pipeline schedule microbatches sequenceParallel",
        "zero": "stage engine shardDegree",
        "zero.offload": "optimizer parameters",
        "precision": "dtype reduceDtype initialLossScale lossScaleInterval",
        "compression": "method factory rank ratio blockSize errorFeedback warmupSteps minElements cast",
        "communication": "bucketMegabytes overlap syncEvery outerLearningRate outerMomentum",
        "model": "type shape layers hiddenSize heads keyValueHeads intermediateSize vocabularySize tieEmbeddings"
        " dropout ropeTheta inputSize outputSize factory arguments path pretrained",
        "data": "type path claim tokenizer textField tokenType sequenceLength shuffle",
        "data.evaluation": "path everySteps samples",
        "optimizer": "name learningRate weightDecay beta1 beta2 epsilon momentum clipNorm",
        "optimizer.schedule": "type warmupSteps decaySteps minRatio",
        "training": "steps globalBatchSize device seed deterministic compile activationCheckpointing onDivergence"
        " lossSpikeFactor logEverySteps tensorboard",
        "checkpoint": "path claim everySteps keep asynchronous resume initializeFrom export residual",
        "runPolicy": "suspend cleanPodPolicy backoffLimit activeDeadlineSeconds startDeadlineSeconds"
        " gracePeriodSeconds permanentExitCodes managedBy ttlSecondsAfterFinished",
        "scheduling": "gang queue priorityClassName topologyKey",
    }.items()
    for field in fields.split()
)
"""Fields of the spec that have code, by path."""

PRECISIONS = ("fp32", "bf16", "fp16", "fp64")
DEEPSPEED_PRECISIONS = ("fp32", "bf16", "fp16")
"""Its masters are fp32, under an fp64 model too."""


@dataclass(frozen=True)
class Cell:
    """One engine at one ZeRO stage."""

    engine: str
    stage: int
    precisions: tuple[str, ...] = ()
    """Compute formats that run; none means that the cell is refused."""
    reason: str = ""
    """Why it is refused, as in `ddp with zero.stage 1 <reason>`."""
    nearest: tuple[str, int] | None = None
    """Engine and stage of the closest cell that runs."""

    @property
    def supported(self) -> bool:
        return bool(self.precisions)


CELLS: tuple[Cell, ...] = (
    Cell("ddp", 0, PRECISIONS),
    Cell("ddp", 1, reason="replicates all state and cannot shard it", nearest=("native", 2)),
    Cell("ddp", 2, reason="replicates all state and cannot shard it", nearest=("native", 2)),
    Cell("ddp", 3, reason="replicates all state and cannot shard it", nearest=("native", 3)),
    Cell("native", 0, PRECISIONS),
    Cell("native", 1, PRECISIONS),
    Cell("native", 2, PRECISIONS),
    Cell("native", 3, PRECISIONS),
    Cell("deepspeed", 0, reason="clips gradients wrongly", nearest=("ddp", 0)),
    Cell("deepspeed", 1, DEEPSPEED_PRECISIONS),
    Cell("deepspeed", 2, DEEPSPEED_PRECISIONS),
    Cell("deepspeed", 3, DEEPSPEED_PRECISIONS),
)
"""Every engine at every ZeRO stage."""


def cell(engine: str, stage: int) -> Cell:
    """The row of an engine and a ZeRO stage. Every pair has one."""
    return next(row for row in CELLS if (row.engine, row.stage) == (engine, stage))


def is_implemented(path: str) -> bool:
    """Whether a field, by its path below spec, has code."""
    return path in IMPLEMENTED


def rule_not_yet(field: Field, spec: Spec) -> Iterator[FieldError]:
    """A field that is set and has no code."""
    if not is_set(field, spec) or is_implemented(field.path):
        return
    value, path = field.value(spec), f"spec.{field.path}"
    shown = "" if isinstance(value, (dict, list)) else f"{value if isinstance(value, str) else show(value)} "
    yield FieldError(path, f"{shown}is not supported yet", "remove it")


def rule_engine_cell(spec: Spec) -> Iterator[FieldError]:
    """Engine x stage x precision is a cell that runs."""
    zero, engine = spec.zero, resolved_engine(spec)
    if zero.engine == "auto" and engine == "deepspeed" and zero.stage == 0:
        return  # offload chose it, and is refused itself
    row = cell(engine, zero.stage)
    if row.nearest:
        nearest_engine, nearest_stage = row.nearest
        if nearest_engine == engine:
            yield FieldError("spec.zero.stage", f"{zero.stage} {row.reason}", f"use {nearest_stage}")
            return
        fix = nearest_engine if nearest_stage == zero.stage else f"{nearest_engine} with zero.stage {nearest_stage}"
        yield FieldError("spec.zero.engine", f"{engine} with zero.stage {zero.stage} {row.reason}", f"use {fix}")
    elif spec.precision.dtype not in row.precisions:
        problem = f"{spec.precision.dtype} does not run with engine {engine} at zero.stage {zero.stage}"
        yield FieldError("spec.precision.dtype", problem, f"use {one_of(row.precisions)}")
