"""The parity matrix: what is trained over several processes and compared with one. A cell is one line of it.

A test demands a cell for every combination that validation lets pass (`coverage.combinations`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from adts_api.fields import choices_of
from adts_api.pipelining import SPLIT_BACKWARD, stages_per_rank
from adts_api.training import Parallelism
from adts_api.v1alpha1 import API_VERSION, KIND

BASE: dict[str, Any] = {
    "model": {"type": "gpt", "layers": 3, "hiddenSize": 32, "heads": 4, "vocabularySize": 61},
    "data": {"type": "synthetic", "sequenceLength": 16},
    "optimizer": {"learningRate": 3e-3, "clipNorm": 0.5, "schedule": {"warmupSteps": 2}},
    "training": {"steps": 20, "globalBatchSize": 16, "device": "cpu", "logEverySteps": 1, "tensorboard": False},
    "precision": {"dtype": "fp64"},
    "checkpoint": {"asynchronous": True},
}
"""A gpt of 42,000 parameters on synthetic tokens, in fp64, clipped at every step. Its embeddings are tied, its layers
are odd, and its vocabulary divides by nothing."""


LLAMA, UNEVEN = "llama, untied, dropout", "uneven targets"

VARIANTS: dict[str, dict[str, Any]] = {
    LLAMA: {"model": {"shape": "llama", "keyValueHeads": 2, "tieEmbeddings": False, "dropout": 0.1}},
    UNEVEN: {},  # the data brings them, see `uneven.py`
    "sequence parallel": {"parallelism": {"sequenceParallel": True}},
    "15 positions": {"data": {"sequenceLength": 15}},
    "recomputed": {"training": {"activationCheckpointing": "full"}},
    "many buckets": {"communication": {"bucketMegabytes": 0.01}},
    "12 samples": {"training": {"globalBatchSize": 12}},
    "2 shards": {"zero": {"shardDegree": 2}},
    "optimizer on cpu": {"zero": {"offload": {"optimizer": "cpu"}}},
    "optimizer on nvme": {"zero": {"offload": {"optimizer": "nvme"}}},
    "parameters on cpu": {"zero": {"offload": {"parameters": "cpu"}}},
    "parameters on nvme": {"zero": {"offload": {"parameters": "nvme"}}},
}
"""Changes of BASE that have a name."""

SCHEDULES = choices_of(Parallelism.model_fields["schedule"])
"""Every pipeline schedule of the spec."""
PIPELINE_MICRO_BATCHES = 4


@dataclass(frozen=True)
class Cell:
    """One line of the matrix."""

    engine: str
    stage: int
    dp: int = 1
    """Data ranks."""
    tp: int = 1
    pp: int = 1
    schedule: str = ""
    """Of the pipeline; empty without one."""
    precision: str = "fp64"
    microbatches: int = 0
    """0: as many as every schedule takes with a pipeline, 1 without."""
    also: tuple[str, ...] = ()
    """Names of VARIANTS."""
    quick: bool = False
    """Whether `--quick` runs it."""

    @property
    def world(self) -> int:
        """Processes."""
        return self.dp * self.tp * self.pp

    @property
    def layout(self) -> str:
        """`dp2 x tp2`, degrees of 1 left out."""
        degrees = {"dp": self.dp, "tp": self.tp, "pp": self.pp}
        return " x ".join(f"{axis}{degree}" for axis, degree in degrees.items() if degree > 1) or "one process"

    @property
    def details(self) -> str:
        """What is special about it beside its columns; may be empty."""
        parts = [f"{self.microbatches} micro-batches"] if self.microbatches else []
        return ", ".join([*parts, *self.also])

    @property
    def name(self) -> str:
        """Every cell has its own: `native stage 2, dp2 x pp2, GPipe, fp64`."""
        parts = (f"{self.engine} stage {self.stage}", self.layout, self.schedule, self.precision, self.details)
        return ", ".join(part for part in parts if part)

    def spec(self, device: str = "cpu") -> dict[str, Any]:
        """`spec` of its manifest."""
        parallelism: dict[str, Any] = {"tensor": self.tp, "pipeline": self.pp}
        parallelism["microbatches"] = self.microbatches or (PIPELINE_MICRO_BATCHES if self.pp > 1 else 1)
        own: dict[str, Any] = {
            "zero": {"engine": self.engine, "stage": self.stage},
            "parallelism": parallelism,
            "precision": {"dtype": self.precision},
            "workers": {"processesPerWorker" if device == "cpu" else "gpusPerWorker": self.world},
            "training": {"device": device},
        }
        if self.schedule:
            parallelism["schedule"] = self.schedule
            stages = self.pp * stages_per_rank(self.schedule)
            own["model"] = {"layers": max(BASE["model"]["layers"], stages + 1 - stages % 2)}
        return merged(BASE, own, *(VARIANTS[name] for name in self.also))


def merged(base: dict[str, Any], *changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A copy of a spec with the fields of blocks replaced."""
    result = copy.deepcopy(base)
    for change in changes:
        for block, fields in change.items():
            result[block] = {**result.get(block, {}), **fields}
    return result


def manifest(spec: dict[str, Any]) -> dict[str, Any]:
    """The resource around a spec."""
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "selfcheck"}, "spec": spec}


def schedules(stage: int) -> tuple[str, ...]:
    """Those that train rightly at a ZeRO stage."""
    return tuple(name for name in SCHEDULES if stage < 3 or name not in SPLIT_BACKWARD)


def schedules_of_eight(stage: int) -> tuple[str, ...]:
    """Those that tensor x pipeline x data ranks run at a ZeRO stage: one with a stage a rank, and one with several.

    All of them run under tensor x pipeline without shards and under pipeline x data with each stage.
    """
    return "1F1B", schedules(stage)[-1]


CELLS: tuple[Cell, ...] = (
    Cell("ddp", 0),
    Cell("ddp", 0, dp=2, quick=True),
    Cell("ddp", 0, dp=4),
    Cell("ddp", 0, dp=2, microbatches=4),
    Cell("ddp", 0, dp=2, microbatches=4, also=(UNEVEN,)),
    Cell("ddp", 0, dp=2, also=("many buckets",)),
    Cell("ddp", 0, dp=2, also=("recomputed",)),
    Cell("ddp", 0, dp=2, also=(LLAMA,)),
    Cell("ddp", 0, tp=2, also=("sequence parallel", "15 positions"), quick=True),
    Cell("ddp", 0, tp=4),
    Cell("ddp", 0, dp=2, tp=2),
    Cell("ddp", 0, dp=2, tp=2, microbatches=2, also=(LLAMA, UNEVEN, "sequence parallel", "recomputed"), quick=True),
    Cell("native", 0, dp=2),
    Cell("native", 0, dp=4, microbatches=2, also=("many buckets",)),
    Cell("native", 0, tp=2),
    Cell("native", 0, tp=2, also=("sequence parallel", "15 positions")),
    Cell("native", 0, dp=2, tp=2),
    Cell("native", 0, dp=2, tp=2, also=(LLAMA, "sequence parallel")),
    *(Cell("native", 0, pp=2, schedule=name, quick=name == "ZBVZeroBubble") for name in schedules(0)),
    *(Cell("native", 0, tp=2, pp=2, schedule=name, quick=name == "Interleaved1F1B") for name in schedules(0)),
    *(Cell("native", 0, dp=2, pp=2, schedule=name) for name in schedules(0)),
    Cell("native", 0, pp=4, schedule="1F1B"),
    Cell("native", 0, pp=2, schedule="1F1B", also=(LLAMA,)),
    Cell("native", 0, pp=2, schedule="1F1B", microbatches=8, also=(UNEVEN, "15 positions")),
    Cell("native", 0, pp=2, schedule="Interleaved1F1B", also=("recomputed",)),
    Cell("native", 0, dp=2, pp=2, schedule="GPipe", also=(LLAMA, UNEVEN)),
    Cell("native", 0, tp=2, pp=2, schedule="1F1B", also=("sequence parallel", "15 positions")),
    Cell("native", 0, dp=2, tp=2, pp=2, schedule="1F1B"),
    Cell("native", 0, dp=2, tp=2, pp=2, schedule="DualPipeV", also=("sequence parallel",)),
    *(Cell("native", stage, dp=2, quick=stage == 1) for stage in (1, 2, 3)),
    *(Cell("native", stage, dp=2, microbatches=2) for stage in (1, 2, 3)),
    *(Cell("native", stage, dp=4, also=("2 shards",), quick=stage == 3) for stage in (1, 2, 3)),
    *(Cell("native", stage, dp=2, tp=2, quick=stage == 3) for stage in (1, 2, 3)),
    Cell("native", 2, dp=4, microbatches=2),
    Cell("native", 2, dp=4, microbatches=2, also=("2 shards", UNEVEN, "many buckets")),
    Cell("native", 2, dp=2, also=(LLAMA, "recomputed")),
    Cell("native", 2, dp=2, tp=2, also=(LLAMA, "sequence parallel", "15 positions")),
    Cell("native", 3),
    Cell("native", 3, dp=3, also=("12 samples",)),
    Cell("native", 3, dp=4),
    Cell("native", 3, dp=4, also=(UNEVEN,)),
    Cell("native", 3, dp=2, microbatches=2, also=("recomputed",)),
    Cell("native", 3, dp=2, tp=2, microbatches=2, also=("sequence parallel", "recomputed")),
    *(
        Cell("native", stage, dp=2, pp=2, schedule=name, quick=stage == 2 and name == "1F1B")
        for stage in (1, 2, 3)
        for name in schedules(stage)
    ),
    Cell("native", 1, dp=4, pp=2, schedule="1F1B", also=("2 shards",)),
    Cell("native", 3, dp=2, pp=2, schedule="1F1B", also=(LLAMA, UNEVEN, "recomputed")),
    *(
        Cell("native", stage, dp=2, tp=2, pp=2, schedule=name, quick=stage == 3 and name == "1F1B")
        for stage in (1, 2, 3)
        for name in schedules_of_eight(stage)
    ),
    *(
        cell
        for precision in ("fp32", "bf16", "fp16")
        for cell in (
            Cell("ddp", 0, dp=2, precision=precision, quick=precision == "fp16"),
            Cell("ddp", 0, dp=2, tp=2, precision=precision, also=("sequence parallel",)),
            *(Cell("native", stage, dp=2, precision=precision) for stage in (0, 1, 2, 3)),
            Cell("native", 0, tp=2, precision=precision),
            Cell("native", 0, pp=2, schedule="ZBVZeroBubble", precision=precision),
            Cell("native", 1, dp=2, pp=2, schedule="Interleaved1F1B", precision=precision),
            Cell("native", 3, dp=2, tp=2, precision=precision, microbatches=2),
            Cell("native", 2, dp=2, tp=2, pp=2, schedule="1F1B", precision=precision),
        )
    ),
    *(
        cell
        for stage in (1, 2, 3)
        for cell in (
            Cell("deepspeed", stage, dp=2, precision="fp32", quick=stage == 2),
            Cell("deepspeed", stage, dp=2, tp=2, precision="fp32"),
            Cell("deepspeed", stage, dp=2, precision="fp32", also=("optimizer on cpu",)),
            Cell("deepspeed", stage, dp=2, precision="bf16"),
            Cell("deepspeed", stage, dp=2, precision="fp16"),
        )
    ),
    Cell("deepspeed", 3, dp=2, precision="fp32", also=("parameters on cpu",)),
    *(Cell("deepspeed", 1, pp=2, schedule="1F1B", precision=precision) for precision in ("fp32", "bf16", "fp16")),
    Cell("deepspeed", 1, dp=2, pp=2, schedule="1F1B", precision="fp32", also=(LLAMA, UNEVEN)),
    Cell("deepspeed", 1, tp=2, pp=2, schedule="1F1B", precision="fp32", also=("sequence parallel", "recomputed")),
    Cell("deepspeed", 1, dp=2, tp=2, pp=2, schedule="1F1B", precision="fp32"),
)
"""The matrix. A cell that is added here is run by `adts selfcheck`, by the tests, and is in docs/parity.md."""
