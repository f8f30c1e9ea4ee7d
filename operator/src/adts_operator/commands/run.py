"""`adts run`: a manifest trains on this machine, by the operator's own core."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from pathlib import Path

import click
from rich.console import Console

from adts_api.errors import AdtsError, ConfigError
from adts_api.v1alpha1 import DistributedTraining
from adts_api.validate import parse
from adts_operator.cluster.folder import JobFolder, storage_errors
from adts_operator.cluster.local import LocalCluster
from adts_operator.cluster.local_jobs import LocalJob
from adts_operator.cluster.local_limits import check_devices, check_template
from adts_operator.cluster.mounts import to_local
from adts_operator.commands.options import debug_option, load_manifest, manifest_argument, set_option
from adts_operator.local_run import exit_code, run_local, why_failed
from adts_operator.output import LogTail
from adts_operator.view import LiveView, View, duration, elapsed, save_picture


@click.command()
@manifest_argument
@set_option
@click.option(
    "--workdir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder for jobs; its subfolder `data` stands in for /data.",
)
@click.option("--fresh", is_flag=True, help="Start over: remove the job's checkpoints, logs and status first.")
@click.option(
    "--record", type=click.Path(dir_okay=False, path_type=Path), help="Save the last view of the run as an SVG picture."
)
@debug_option
def run(file: Path, assignments: tuple[str, ...], workdir: Path, fresh: bool, record: Path | None) -> None:
    """Train a manifest on this machine. The same command again goes on from the last checkpoint."""
    wanted = parse(load_manifest(file, assignments), str(file))
    check_template(wanted)
    check_devices(wanted, os.environ)
    if wanted.spec.run_policy.suspend:
        raise ConfigError(
            f"{file}: spec.runPolicy.suspend: true keeps every pod away; add --set runPolicy.suspend=false"
        )
    if record is not None and not record.absolute().parent.is_dir():
        raise ConfigError(f"--record {record}: there is no folder {record.parent}; make it, or name another file")
    console = Console()
    view = LiveView(console) if console.is_terminal else View(console)
    folder = JobFolder(workdir, wanted.metadata.name)
    with LocalJob(folder, view.tell) as jobs:
        cluster = LocalCluster(folder)
        cluster.kill_survivors(view.say)
        if fresh:
            refuse_other_checkpoints(wanted, folder)
            jobs.forget()
        job = jobs.open(wanted)
        if job.status.phase == "Succeeded":
            view.say(
                f"{job.metadata.name} has finished: step {job.status.progress.step}, {folder.root}; --fresh starts over"
            )
            return
        logs = LogTail(folder.logs)
        with view:
            job = asyncio.run(run_local(jobs, cluster, logs, view))
    if record is not None:
        with storage_errors(record):
            save_picture(job, view.panel, record)
    conclude(job, folder, view)
    raise SystemExit(exit_code(job.status))


def refuse_other_checkpoints(job: DistributedTraining, folder: JobFolder) -> None:
    """`--fresh` removes nothing outside the job's folder, so it cannot start over there. Raises ConfigError."""
    path = Path(to_local(job.spec.checkpoint.path, folder.mounts(0)))
    if not path.absolute().is_relative_to(folder.root.absolute()) and path.is_dir() and any(path.iterdir()):
        raise ConfigError(
            f"spec.checkpoint.path: {path} is outside {folder.root}, where --fresh removes files; remove it yourself"
        )


def conclude(job: DistributedTraining, folder: JobFolder, view: View) -> None:
    """Says how the run ended and what to type next. Raises AdtsError for a job that failed."""
    status, name = job.status, job.metadata.name
    saved = f"checkpoint of step {status.checkpoint.step} in {folder.checkpoints}" if status.checkpoint.step else ""
    if status.phase == "Succeeded":
        step = "" if job.spec.command else f": step {status.progress.step}"
        parts = [f"{name} succeeded in {duration(elapsed(status))}{step}"]
        if status.progress.loss is not None:
            parts.append(f"loss {status.progress.loss:.4f}")
        if status.progress.evaluation_loss is not None:
            parts.append(f"held-out loss {status.progress.evaluation_loss:.4f}")
        view.say(", ".join([*parts, saved or str(folder.root)]))
    elif status.phase == "Failed":
        raise JobFailedError(name, why_failed(status), exit_code(status), folder.logs)
    else:
        view.say(f"{name} stopped at step {status.progress.step}; {saved or 'no checkpoint yet'}")
        view.say(f"go on with: {shlex.join(['adts', *sys.argv[1:]])}".replace(" --fresh", ""))


class JobFailedError(AdtsError):
    """The job ended without success; the exit code is the failing trainer's."""

    def __init__(self, name: str, why: str, code: int, logs: Path) -> None:
        super().__init__(f"{name} failed: {why}\nlogs: {logs}")
        self.code = code
