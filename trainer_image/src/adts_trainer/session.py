"""The parts of one training, built once, and the verbs the loop is written in."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from adts_api.topology import layout
from adts_api.v1alpha1 import DistributedTraining, Spec
from adts_trainer.checkpoint import Checkpointer, Saved
from adts_trainer.checkpoint_files import Claim
from adts_trainer.communication.accounting import wire_bytes_per_step
from adts_trainer.context import RankContext
from adts_trainer.data.dataset import Dataset
from adts_trainer.data_loader import open_dataset
from adts_trainer.distributed_setup import Processes
from adts_trainer.evaluation import Evaluator, spread
from adts_trainer.export import NAMES, export_weights
from adts_trainer.feed import Feed
from adts_trainer.heartbeat import HeartbeatWriter
from adts_trainer.metrics import Metrics, peak_flops
from adts_trainer.model import build_model
from adts_trainer.model_card import FILE_NAME, read_model_card
from adts_trainer.optimizer import build_optimizer
from adts_trainer.parallel.apply import parallelise
from adts_trainer.precision import formats
from adts_trainer.pretrained import initialise
from adts_trainer.state import TrainState
from adts_trainer.step import Flags, Step, StepResult
from adts_trainer.weights import FoundCheckpoint


@dataclass
class Session:
    """One rank's part of a training. Every rank calls every method in the same order."""

    spec: Spec
    step: Step
    checkpointer: Checkpointer
    evaluator: Evaluator | None
    metrics: Metrics
    heartbeat: HeartbeatWriter
    initialise: Callable[[], list[str]]
    """Fills the model with pretrained weights; lines to say of it."""
    state: TrainState = field(default_factory=TrainState)
    _told: Saved | None = None
    """The checkpoint that the heartbeat tells of."""

    def restore(self) -> None:
        """Continue from the newest checkpoint, or begin."""
        self.heartbeat.update(phase="restoring")
        directory = self.checkpointer.find()
        self.step.rehearse(is_resumed=directory is not None)
        if directory is not None:
            self.checkpointer.load(directory, self.state)
            self.metrics.say(f"continue from step {self.state.step} in {directory}")
        elif self.spec.checkpoint.initialize_from:
            for line in self.initialise():
                self.metrics.say(line)
        self._begin()

    def run_step(self, stop: bool) -> StepResult:
        """The next optimizer step. Raises what went wrong with a save in the background, on all ranks."""
        save_failed = self.checkpointer.poll()
        self._tell_of_checkpoint()
        result = self.step.run(
            self.state,
            flags=Flags(stop, save_failed),
            want_loss=self.metrics.wants_loss(self.state.step),
            checkpoint_step=self.checkpointer.last_step,
        )
        if result.flags.save_failed:
            self.checkpointer.wait()
        return result

    def roll_back(self) -> None:
        """Go back to the newest checkpoint; the step that failed is left out on the way."""
        self.heartbeat.update(phase="restoring")
        self.checkpointer.roll_back(self.state)
        self.metrics.say(f"rolled back to step {self.state.step}")
        self._begin()

    def evaluation_due(self) -> bool:
        """Every `evaluation.everySteps` steps, and after the last."""
        every = self.spec.data.evaluation.every_steps
        return self.evaluator is not None and (self._is_last or bool(every and self.state.step % every == 0))

    def evaluate(self) -> None:
        """Measure the held-out loss."""
        assert self.evaluator is not None
        self.heartbeat.update(phase="evaluating")
        self.metrics.record_evaluation(self.state.step, self.evaluator.loss())
        self.heartbeat.update(phase="training")

    def checkpoint_due(self) -> bool:
        """Every `checkpoint.everySteps` steps, and after the last."""
        every = self.spec.checkpoint.every_steps
        return self._is_last or bool(every and self.state.step % every == 0)

    def save(self) -> None:
        """Start a checkpoint; wait for it if it is not written in the background."""
        self.heartbeat.update(phase="saving")
        self.checkpointer.save(self.state)
        self._tell_of_checkpoint()
        self.metrics.pause()
        self.heartbeat.update(phase="training")

    def save_now(self) -> None:
        """Save and wait until the checkpoint stands."""
        self.save()
        self.heartbeat.update(phase="saving")
        self.checkpointer.wait()
        self._tell_of_checkpoint()

    def finish(self) -> None:
        """Wait for the last checkpoint, export, close."""
        self.save_now()
        if self.spec.checkpoint.export != "none" and self.checkpointer.is_lead:
            self._export()
        self.metrics.close()
        self.heartbeat.update(phase="done", force=True)

    @property
    def _is_last(self) -> bool:
        return self.state.step >= self.spec.training.steps

    def _begin(self) -> None:
        self._tell_of_checkpoint()
        self.metrics.start(self.state.step)
        self.heartbeat.update(phase="training", step=self.state.step)

    def _tell_of_checkpoint(self) -> None:
        saved = self.checkpointer.saved
        if saved is not None and saved is not self._told:
            self._told = saved
            self.heartbeat.update(
                force=True,
                checkpoint_step=saved.step,
                checkpoint_path=str(saved.directory),
                checkpoint_at=saved.time,
            )

    def _export(self) -> None:
        assert self.checkpointer.saved is not None
        directory = self.checkpointer.saved.directory
        form = self.spec.checkpoint.export
        path = directory.parent / NAMES[form]
        card = read_model_card(directory.parent / FILE_NAME)
        export_weights(FoundCheckpoint(directory, self.state.step, card), form, path)
        self.metrics.say(f"wrote {path}")


def open_session(
    job: DistributedTraining, context: RankContext, processes: Processes, heartbeat: HeartbeatWriter
) -> Session:
    """Open the data, build the model over the processes, and everything around it."""
    spec, numbers = job.spec, formats(job.spec.precision)
    if spec.training.deterministic:
        _make_deterministic()
    dataset = _open_data(spec, context, processes, None)
    build = functools.partial(
        build_model, spec.model, spec.data, dataset.facts, seed=spec.training.seed, dtype=numbers.master
    )
    model = parallelise(build, spec, processes, numbers)
    optimizer = build_optimizer((it for _, it in model.parameters), spec.optimizer, spec.compression.warmup_steps)
    scaler = model.attach(optimizer, spec.precision)
    step = Step(spec, model, scaler, Feed(dataset, spec, processes, numbers.master), processes)
    claim = Claim(context.job_uid, context.attempt)
    checkpointer = Checkpointer(spec, claim, processes, model, optimizer, scaler, dataset.facts)
    evaluator = None
    if spec.data.evaluation.path:
        held_out = _open_held_out(spec, context, processes, dataset.facts.vocabulary_size)
        share = spec.training.global_batch_size // processes.data_ranks
        size = share if model.is_pipelined else share // spec.parallelism.microbatches
        evaluator = Evaluator(held_out, spec.data.evaluation.samples, size, model, processes, numbers)
    metrics = Metrics(
        spec,
        context,
        heartbeat,
        tokens_per_sample=dataset.tokens_per_sample,
        flops_per_sample=model.built.flops_per_sample,
        peak=peak_flops(processes.device, spec.precision.dtype),
        wire_bytes=wire_bytes_per_step(
            model, processes, numbers, spec.parallelism.microbatches, spec.precision.reduce_dtype
        ),
        traffic=lambda: model.traffic,
    )
    parameters = model.built.size
    metrics.say(
        f"{parameters / 1e6:.2f}M parameters, {len(dataset):,} samples, {layout(spec)} ({model.engine}, "
        f"{spec.precision.dtype}) on {processes.device.type}"
    )
    pretrained = functools.partial(initialise, spec, model, processes)
    return Session(spec, step, checkpointer, evaluator, metrics, heartbeat, pretrained)


def _open_data(spec: Spec, context: RankContext, processes: Processes, path: str | None) -> Dataset:
    return open_dataset(
        spec.data,
        path=path,
        seed=spec.training.seed,
        cache_dir=Path(tempfile.gettempdir()) / f"adts-{os.getuid()}",  # the node's own, and kept between runs
        is_local_lead=context.local_rank == 0,
        barrier=processes.barrier,
        model=spec.model,
    )


def _open_held_out(spec: Spec, context: RankContext, processes: Processes, vocabulary: int) -> Dataset:
    """The held-out data, whose token ids must be of the training's vocabulary. Raises DataError, on all ranks where
    what an evaluation will read has other ids: found now and not after the first steps."""
    model = spec.model.model_copy(update={"vocabulary_size": spec.model.vocabulary_size or vocabulary})
    evaluation = spec.data.evaluation
    held_out = _open_data(spec.model_copy(update={"model": model}), context, processes, evaluation.path)
    if spec.data.type == "tokens":
        processes.together(lambda: _read_samples(held_out, evaluation.samples) if processes.is_lead else None)
    return held_out


def _read_samples(dataset: Dataset, samples: int) -> None:
    """Read as many samples as an evaluation, spread in the same way. Raises DataError."""
    count = min(samples or len(dataset), len(dataset))
    for start in range(0, count, 256):
        ids = spread(np.arange(start, min(start + 256, count)), count, len(dataset))
        dataset.batch(ids, np.zeros_like(ids))


def _make_deterministic() -> None:
    """What torch needs for bitwise equal re-runs on a GPU; on the CPU it costs nothing."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
