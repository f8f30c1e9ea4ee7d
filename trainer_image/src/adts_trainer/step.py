"""One optimizer step: forward, backward, judgement, update."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import torch

from adts_api.v1alpha1 import Spec
from adts_trainer.distributed_setup import Processes
from adts_trainer.divergence import Evidence, Policy, Verdict, judge, problem
from adts_trainer.errors import UserCodeError
from adts_trainer.feed import Feed
from adts_trainer.optimizer import clip_factor, learning_rate
from adts_trainer.parallel.model import ParallelModel
from adts_trainer.precision import LossScaler
from adts_trainer.state import TrainState


@dataclass(frozen=True)
class Flags:
    """What one rank knows and all must learn: true of any is true of all, in the same step."""

    stop: bool = False
    """Told to stop."""
    save_failed: bool = False
    """A save in the background failed."""


@dataclass(frozen=True)
class StepResult:
    """What became of a step, equal on all ranks; of replicas that train apart, each has its own verdict and norm."""

    verdict: Verdict
    problem: str
    """What was wrong; empty if nothing was."""
    gradient_norm: float
    """Global norm before clipping."""
    learning_rate: float
    loss: float | None
    """Global loss per valid target; None where nobody asked for it."""
    digest: int
    """`feed.Share.digest` over all ranks."""
    flags: Flags
    """Over all ranks."""


class Step:
    """Runs steps. Besides the engine's gradient traffic there is one small collective a step, hidden behind forward
    and backward, and a second one only where the loss is wanted."""

    def __init__(
        self,
        spec: Spec,
        model: ParallelModel,
        scaler: LossScaler,
        feed: Feed,
        processes: Processes,
    ) -> None:
        self._spec, self._model, self._scaler = spec, model, scaler
        self._feed, self._processes = feed, processes
        self._policy = Policy(spec.training.on_divergence, spec.training.loss_spike_factor)
        self._is_checked = False
        apart = model.outer is not None
        self._judges = processes.layout.dp_replicate if apart else 1
        self._judge = processes.coordinates.dp_replicate if apart else 0
        """How many judge steps by gradients of their own, and which of them this rank belongs to."""

    def run(self, state: TrainState, *, flags: Flags, want_loss: bool, checkpoint_step: int | None) -> StepResult:
        """Do step `state.step`, update the parameters if the verdict is APPLY, and advance the state past it unless
        the verdict is ROLLBACK or STOP."""
        if state.step in state.skipped:  # on the way back from a rollback
            return self._leave_out(state)
        share = self._feed.take(state.step, state.consumed)
        counts = self._processes.counts_samples
        by_judge = [share.valid * counts * (it == self._judge) for it in range(self._judges)]
        totals = self._processes.sum_later(share.digest * counts, flags.stop, flags.save_failed, *by_judge)
        unit = functools.cache(lambda: self._unit(totals.wait()[3 + self._judge]))
        self._seed(state.step)
        self._model.begin(state.step, len(share.micro_batches), unit)
        local_loss = self._model.accumulate(share, self._scaler.scale / self._feed.targets_per_step)
        if state.step + 1 < self._spec.training.steps:
            self._feed.prepare(state.step + 1, state.consumed + self._spec.training.global_batch_size)

        digest, stop, save_failed, *valid = totals.wait()
        self._finish_gradients()
        norm = self._model.norm() * unit()
        loss = None
        if want_loss or self._policy.spike_factor:
            loss = self._processes.sum_later(local_loss.item()).wait()[0] / max(1.0, sum(valid))
        known = loss if self._judges == 1 else None  # another replica's overflow is not this one's
        evidence = Evidence(
            state.step, norm, known, state.recent, state.skipped, checkpoint_step, self._scaler.absorbs_overflow
        )
        verdict = judge(self._policy, evidence)
        rate = learning_rate(self._spec.optimizer, self._spec.training.steps, state.step)
        if verdict is Verdict.APPLY:
            self._model.update(rate, clip_factor(norm, self._spec.optimizer.clip_norm) * unit())
        else:
            self._model.drop()
        self._conclude(verdict, state, loss)
        if verdict in (Verdict.APPLY, Verdict.OVERFLOW):
            self._synchronise(state.step, is_told_to_stop=stop > 0)
        flags = Flags(stop > 0, save_failed > 0)
        return StepResult(verdict, problem(self._policy, evidence), norm, rate, loss, int(digest), flags)

    def rehearse(self, *, is_resumed: bool) -> None:
        """Run one micro-batch and forget it, before the first step of this process.

        Buckets are laid out by the order in which gradients come. DDP does so after its first backward pass, and the
        order of a sum over three and more ranks depends on the layout: only so a resumed run adds like an uninterrupted
        one. Our own buckets must be settled before the first residual is in one.
        """
        lays_out_anew = is_resumed and self._model.replica is not None and self._processes.data_ranks > 2
        if lays_out_anew or (self._model.reducer is not None and not self._model.is_pipelined):
            share = self._feed.take(0, 0).first()
            buffers = [(it, it.clone()) for part in self._model.parts for it in part.buffers()]
            self._model.begin(0, 1, lambda: 1.0)
            self._model.accumulate(share, 1.0)
            self._model.finish()
            self._model.settle()
            self._model.drop()
            for buffer, before in buffers:  # running statistics of a user's model
                buffer.copy_(before)

    def _synchronise(self, steps_done: int, *, is_told_to_stop: bool) -> None:
        """End a round of steps apart: at its time, after the last step, and early where the job is told to stop: what
        can be saved is what all replicas have, and the end of the round may be too far away for the grace period."""
        outer = self._model.outer
        if outer is None:
            return
        if outer.is_due(steps_done) or steps_done >= self._spec.training.steps or is_told_to_stop:
            self._model.synchronise(steps_done - 1)

    def _unit(self, valid: float) -> float:
        """What makes the true gradient of the accumulated one, for the number of targets that carry loss."""
        return self._feed.targets_per_step / max(1.0, valid) / self._scaler.scale

    def _finish_gradients(self) -> None:
        """Complete the gradients of the sum of losses over all targets of the whole step, times the loss scale.

        What `accumulate` divides by is all targets, a constant; how many of them carry loss is known to all only later,
        and brought in with the clipping. So no rank waits for another between forward and backward.
        """
        self._model.finish()
        if not self._is_checked:
            self._require_gradients()
            self._is_checked = True

    def _require_gradients(self) -> None:
        """Under ddp a parameter without gradient would never be reduced, under AdamW never decayed."""
        idle = self._model.idle()
        if idle:
            raise UserCodeError(
                f"spec.model: {len(idle)} parameters took no part in the loss ({', '.join(idle[:5])}); use them in "
                "forward, or set requires_grad = False"
            )

    def _conclude(self, verdict: Verdict, state: TrainState, loss: float | None) -> None:
        """What the verdict means for scaler and state."""
        if verdict is Verdict.APPLY:
            self._scaler.stepped()
            if loss is not None and self._policy.spike_factor:
                state.recent.append(loss)
        elif verdict is Verdict.OVERFLOW:
            self._scaler.overflowed()
        else:
            state.skipped.add(state.step)
        if verdict not in (Verdict.ROLLBACK, Verdict.STOP):
            self._advance(state)

    def _leave_out(self, state: TrainState) -> StepResult:
        rate = learning_rate(self._spec.optimizer, self._spec.training.steps, state.step)
        self._advance(state)
        return StepResult(Verdict.SKIP, "left out", 0.0, rate, None, 0, Flags())

    def _advance(self, state: TrainState) -> None:
        state.step += 1
        state.consumed += self._spec.training.global_batch_size

    def _seed(self, step: int) -> None:
        """Random numbers that a user's model draws depend on the step, not on what ran before: resumes are exact."""
        text = f"{self._spec.training.seed}/{step}/{self._processes.data_rank}"
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)
        torch.default_generator.manual_seed(number)  # torch.manual_seed also queues a call for every absent GPU
        if self._processes.device.type == "cuda":
            torch.cuda.manual_seed(number)
