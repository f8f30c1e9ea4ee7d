"""Build, restore, loop."""

from __future__ import annotations

from collections.abc import Callable

from adts_api.topology import topology
from adts_api.v1alpha1 import DistributedTraining
from adts_trainer.context import RankContext
from adts_trainer.distributed_setup import open_processes
from adts_trainer.divergence import PATIENCE, Verdict
from adts_trainer.errors import DivergedError, PreemptedError
from adts_trainer.heartbeat import HeartbeatWriter
from adts_trainer.session import open_session


def train(job: DistributedTraining, context: RankContext, heartbeat: HeartbeatWriter, stop: Callable[[], bool]) -> None:
    """Train a job to its last step as one rank of it.

    Raises DivergedError, PreemptedError after a save when `stop` answers true on any rank, and whatever `classify`
    knows.
    """
    with open_processes(context, topology(job.spec)) as processes:
        session = open_session(job, context, processes, heartbeat)
        session.restore()
        while session.state.step < job.spec.training.steps:
            result = session.run_step(stop())
            session.metrics.record(session.state, result)
            if result.verdict is Verdict.STOP:
                raise DivergedError(
                    divergence_message(
                        job.spec.training.on_divergence,
                        session.state.step,
                        result.problem,
                        has_checkpoint=session.checkpointer.last_step is not None,
                    )
                )
            if result.verdict is Verdict.ROLLBACK:
                session.roll_back()
                continue
            if session.evaluation_due():
                session.evaluate()
            if session.checkpoint_due():
                session.save()
            if result.flags.stop and session.state.step < job.spec.training.steps:
                session.save_now()
                raise PreemptedError(f"told to stop; saved step {session.state.step}")
        session.finish()


def divergence_message(policy: str, step: int, problem: str, *, has_checkpoint: bool) -> str:
    """What to tell of a divergence that ends the job after `step` steps, with what the policy has not yet tried."""
    lower = "lower spec.optimizer.learningRate"
    match policy:
        case "skip":
            advice = f"the {PATIENCE} steps before it were left out already; {lower}, or look into the data"
        case "rollback" if has_checkpoint:
            advice = f"{PATIENCE} steps since the last checkpoint were left out already; {lower}, or look into the data"
        case "rollback":
            advice = f"there is no checkpoint yet to roll back to; set spec.checkpoint.everySteps lower, or {lower}"
        case _:
            advice = f"{lower}, or set spec.training.onDivergence to skip or rollback"
    return f"step {step + 1}: {problem}; {advice}"
