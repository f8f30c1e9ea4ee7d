"""What a pod says about itself, from the heartbeats of its processes."""

from __future__ import annotations

import json
import math
from pathlib import Path

from adts_api.contract import TERMINATION_BYTES
from adts_api.pod_status import PodStatus
from adts_trainer.context import RankContext
from adts_trainer.heartbeat import HeartbeatWriter
from adts_trainer.launch.messages import Failure
from adts_trainer.launch.pulse import Pulse
from adts_trainer.launch.status import restart, rfc3339, termination_message


def contexts(folder: Path, round_: int = 0, processes: int = 2) -> list[RankContext]:
    return [
        RankContext(
            rank=rank, local_rank=rank, world_size=processes, local_world_size=processes, node_rank=0, nnodes=1,
            master_addr="localhost", master_port=1, job_name="j", job_uid="u", attempt=1, round=round_, device="cpu",
            threads=1, run_dir=folder,
        )
        for rank in range(processes)
    ]  # fmt: skip


def beat(context: RankContext, **values) -> None:
    HeartbeatWriter(context.heartbeat_path, context.round).update(force=True, **values)


def test_a_pod_trains_when_all_its_processes_do(tmp_path):
    pulse, (zero, one) = Pulse(), contexts(tmp_path)
    pulse.begin([zero, one])
    beat(zero, phase="training", step=1)
    pulse.take()
    assert not pulse.is_training
    beat(one, phase="restoring")
    pulse.take()
    assert not pulse.is_training
    beat(one, phase="saving", step=1)
    pulse.take()
    assert pulse.is_training


def test_the_lead_rank_speaks_for_the_job_and_followers_for_themselves(tmp_path):
    pulse, (zero, one) = Pulse(), contexts(tmp_path)
    pulse.begin([zero, one])
    beat(zero, phase="training", step=5, steps=10, loss=2.0)
    beat(one, phase="training", step=5)
    pulse.take()
    assert (pulse.step, pulse.memory.progress.step, pulse.memory.progress.loss) == (5, 5, 2.0)


def test_progress_and_checkpoint_survive_a_restart_in_place(tmp_path):
    pulse = Pulse()
    pulse.begin(contexts(tmp_path, 0))
    beat(pulse.contexts[0], phase="training", step=8, loss=2.5, checkpoint_step=5, checkpoint_path="/c/5-1")
    pulse.take()
    pulse.begin(contexts(tmp_path, 1))
    pulse.take()
    assert (pulse.step, pulse.is_training) == (0, False)
    beat(pulse.contexts[0], phase="restoring", step=0)
    pulse.take()
    assert (pulse.memory.progress.step, pulse.memory.checkpoint.path) == (8, "/c/5-1")
    beat(pulse.contexts[0], phase="training", step=6)
    pulse.take()
    assert (pulse.memory.progress.step, pulse.memory.progress.loss) == (6, 2.5), "the last loss anybody logged"


def test_a_heartbeat_of_another_round_is_no_sign_of_life(tmp_path):
    pulse = Pulse()
    pulse.begin(contexts(tmp_path, 1, processes=1))
    beat(contexts(tmp_path, 0)[0], phase="training", step=9)
    pulse.take()
    assert (pulse.step, pulse.is_training) == (0, False)


def test_a_loss_that_is_not_finite_is_left_out(tmp_path):
    pulse = Pulse()
    pulse.begin(contexts(tmp_path, processes=1))
    beat(pulse.contexts[0], phase="training", step=1, loss=math.nan, tokens_per_second=math.inf)
    pulse.take()
    progress = pulse.memory.progress
    assert (progress.step, progress.loss, progress.tokens_per_second) == (1, None, None)


def test_times_have_milliseconds():
    assert rfc3339(1795366718.0) == "2026-11-22T16:58:38.000Z"
    assert rfc3339(0.0) == ""


def test_a_restart_names_pod_node_code_and_reason():
    failure = Failure(node=1, rank=3, exit_code=-9, message="killed", pod="gpt2-1-1", machine="worker-b")
    line = restart(failure, 1795366718.25)
    assert (line.scope, line.pod, line.node, line.exit_code, line.reason) == (
        "round",
        "gpt2-1-1",
        "worker-b",
        -9,
        "Signal9",
    )
    assert line.time == "2026-11-22T16:58:38.250Z"


def test_the_last_status_fits_the_termination_log():
    failure = Failure(node=1, rank=3, exit_code=-9, message="ü" * 1900, pod="gpt2-1-1")
    status = PodStatus(message="m" * 1000 + "end", exit_code=4, restarts=[restart(failure, 1.0)] * 10)
    data = termination_message(status)
    assert len(data) <= TERMINATION_BYTES
    read = PodStatus.model_validate(json.loads(data))
    assert (read.exit_code, read.message.endswith("end")) == (4, True)
    small = PodStatus(message="m", restarts=[restart(failure.model_copy(update={"message": "short"}), 1.0)])
    assert PodStatus.model_validate_json(termination_message(small)) == small


def test_a_malformed_heartbeat_does_not_end_the_launcher(tmp_path):
    pulse, (zero,) = Pulse(), contexts(tmp_path, processes=1)
    pulse.begin([zero])
    wrong = {
        "checkpoint_step": 5,
        "checkpoint_path": 7,
        "checkpoint_at": [],
        "steps": "many",
        "loss": {},
        "time": 1e300,
    }
    zero.heartbeat_path.write_text(json.dumps({"phase": "training", "step": 3, **wrong}))
    pulse.take()
    assert (pulse.step, pulse.memory.progress.step, pulse.memory.progress.at) == (3, 3, "")
    assert (pulse.memory.checkpoint.step, pulse.memory.checkpoint.path) == (5, "")
