"""What `compression_bench` trains: layouts by compressors, each as the `--set` options of `adts run`."""

from __future__ import annotations

from dataclasses import dataclass

NONE = "none"
METHODS: dict[str, tuple[str, ...]] = {
    NONE: (),
    "bf16": ("method=bf16",),
    "fp16": ("method=fp16",),
    "int8": ("method=int8",),
    "fp8": ("method=fp8",),
    "onebit": ("method=onebit", "warmupSteps={warmup}"),
    "topk": ("method=topk", "ratio=0.01", "warmupSteps={warmup}"),
    "randomk": ("method=randomk", "ratio=0.1"),
    "powersgd": ("method=powersgd", "rank=4", "warmupSteps={warmup}"),
    "powersgd in fp16": ("method=powersgd", "rank=4", "warmupSteps={warmup}", "cast=fp16"),
}
"""Fields of `spec.compression`."""
WARM_UP_SHARE = 0.1
"""Of the steps with exact sums, or of top-k's ramp."""
LEARNING_RATE_SHARE = 50 / 900
"""Of the steps with a rising learning rate, as in the manifest."""
UNDER_ALL = (NONE, "int8", "onebit", "powersgd")
"""Methods that are trained under every layout."""

_PIPELINE = ("parallelism.pipeline=2", "parallelism.microbatches=4")
LAYOUTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "ddp": (2, ()),
    "ddp x tp": (4, ("parallelism.tensor=2",)),
    "native": (2, ("zero.engine=native",)),
    "native x tp": (4, ("zero.engine=native", "parallelism.tensor=2")),
    "stage 1": (4, ("zero.stage=1", "zero.shardDegree=2")),
    "stage 2": (4, ("zero.stage=2", "zero.shardDegree=2")),
    "stage 3": (4, ("zero.stage=3", "zero.shardDegree=2")),
    "stage 3 x tp": (8, ("zero.stage=3", "zero.shardDegree=2", "parallelism.tensor=2")),
    "pp": (4, _PIPELINE),
    "pp, ZBVZeroBubble": (4, (*_PIPELINE, "parallelism.schedule=ZBVZeroBubble")),
    "pp x tp": (8, (*_PIPELINE, "parallelism.tensor=2")),
    "pp x stage 2": (8, (*_PIPELINE, "zero.stage=2", "zero.shardDegree=2")),
}
"""Processes and fields. Of the schedules one with a whole and one with a split backward pass: a compressor sees the
same gradients under all of them, and `tests/distributed/test_compression.py` runs it under each."""


@dataclass(frozen=True)
class Cell:
    """One training."""

    layout: str
    method: str
    steps: int

    @property
    def name(self) -> str:
        return f"{self.layout} -- {self.method}"

    @property
    def slug(self) -> str:
        """As a file name, another one for other steps."""
        text = f"{self.layout}--{self.method}--{self.steps}"
        return text.replace(", ", "-").replace(" ", "-")

    def settings(self) -> list[str]:
        """Values of `--set`."""
        processes, fields = LAYOUTS[self.layout]
        warmup = max(1, round(WARM_UP_SHARE * self.steps))
        compression = [f"compression.{field.format(warmup=warmup)}" for field in METHODS[self.method]]
        return [
            f"training.steps={self.steps}",
            f"optimizer.schedule.warmupSteps={max(1, round(LEARNING_RATE_SHARE * self.steps))}",
            f"data.evaluation.everySteps={max(1, self.steps // 3)}",
            "training.tensorboard=false",
            f"workers.processesPerWorker={processes}",
            *fields,
            *compression,
        ]


def cells(steps: int) -> list[Cell]:
    """Every compressor under ddp, some under all layouts; the layouts one after another, `none` first."""
    return [
        Cell(layout, method, steps)
        for layout in LAYOUTS
        for method in METHODS
        if layout == "ddp" or method in UNDER_ALL
    ]
