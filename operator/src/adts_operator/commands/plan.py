"""`adts plan`: which layouts of a job fit its GPUs, ranked, with their memory by kind, and why the others lose."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from adts_api.contract import ExitCode
from adts_api.errors import ConfigError, FieldError, ManifestError
from adts_api.estimate_time import PEAK_FLOPS, Hardware
from adts_api.planner import FREE, search
from adts_api.structure import read_structure
from adts_api.v1alpha1 import Spec
from adts_api.validate import spec_errors
from adts_operator.commands.options import debug_option, load_manifest, manifest_argument, set_option
from adts_operator.commands.plan_report import plan_json, plan_report
from adts_operator.commands.screen import make_console

PLANNED = (*FREE, "parallelism.mode", "parallelism.schedule", "workers.gpuMemory", "training.globalBatchSize")
"""Fields whose errors are for the plan to judge, layout by layout."""

BYTES_PER_GIGABIT = 1e9 / 8


@click.command()
@manifest_argument
@set_option
@click.option("--gpu-memory", metavar="QUANTITY", help="Memory of one GPU, such as 80Gi; sets workers.gpuMemory.")
@click.option("--gpus", metavar="GPUSxWORKERS", help="GPUs of a worker x workers, such as 8x4; sets both in workers.")
@click.option("--gpu", type=click.Choice(list(PEAK_FLOPS)), help="Type of GPU, for its speed.")
@click.option("--link-gbit", type=click.FloatRange(0, min_open=True), help="Network per GPU between workers, Gbit/s.")
@click.option(
    "--worker-link-gbit", type=click.FloatRange(0, min_open=True), help="Link of a GPU inside its worker, Gbit/s."
)
@click.option("--all", "show_all", is_flag=True, help="Show every layout, not only the first ten.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@debug_option
def plan(
    file: Path,
    assignments: tuple[str, ...],
    gpu_memory: str | None,
    gpus: str | None,
    gpu: str | None,
    link_gbit: float | None,
    worker_link_gbit: float | None,
    show_all: bool,
    as_json: bool,
) -> None:
    """Say which layouts of a job fit its GPUs, ranked by predicted step time, and why the others lose.

    What the manifest sets of tensor, pipeline, microbatches, zero.stage and activationCheckpointing is fixed; the rest
    is searched. Exits 2 where nothing fits.
    """
    settings = [*assignments, *gpu_settings(gpus), *([f"workers.gpuMemory={gpu_memory}"] if gpu_memory else [])]
    spec = planned_spec(load_manifest(file, settings), str(file))
    hardware = Hardware(gpu, in_bytes(worker_link_gbit), in_bytes(link_gbit))
    found = search(spec, hardware)
    if as_json:
        click.echo(json.dumps(plan_json(found), indent=2))
    else:
        make_console().print(plan_report(spec, found, None if show_all else 10))
    if found.best is None:
        raise SystemExit(ExitCode.BAD_CONFIG)


def gpu_settings(gpus: str | None) -> list[str]:
    """`--gpus 8x4` as assignments. Raises ConfigError."""
    if gpus is None:
        return []
    parts = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", gpus)
    if parts is None:
        raise ConfigError(f"--gpus {gpus}: is not GPUs x workers; write such as 8x4 for 4 workers of 8 GPUs")
    here = {"gpusPerWorker": parts[1], "replicas": parts[2], "processesPerWorker": "null"}
    return [*(f"workers.{name}={value}" for name, value in here.items()), "training.device=auto"]


def planned_spec(manifest: dict[str, Any], source: str) -> Spec:
    """The spec of a manifest whose layout need not be right: that is what the plan is for. Raises ManifestError."""
    job, errors, broken = read_structure(manifest)
    if "spec" not in broken:
        errors = [*errors, *(it for it in spec_errors(job.spec, broken) if not is_planned(it))]
    if errors:
        raise ManifestError(errors, source)
    return job.spec


def is_planned(error: FieldError) -> bool:
    """Whether an error is about the layout."""
    return error.path.removeprefix("spec.") in PLANNED


def in_bytes(gigabits: float | None) -> float | None:
    """Bytes per second of Gbit/s."""
    return gigabits * BYTES_PER_GIGABIT if gigabits else None
