"""`adts status JOB` and `adts describe JOB`: what they say about a job in every state, and what to type next."""

from __future__ import annotations

from typing import Any

import pytest

from adts_api.contract import ConditionType, Reason
from adts_api.v1alpha1 import DistributedTraining, Restart, WorkerCounts
from adts_operator.commands.cluster_options import Target
from adts_operator.commands.explanation import describe_page, next_command
from adts_operator.commands.pages import status_page
from adts_operator.core.conditions import with_condition
from adts_operator.core.observed import PodView
from support.operator_jobs import NOW, make_job, make_pod
from support.operator_pages import ago, lines, telling

HERE = Target(namespace="team-a", flags=" -n team-a")


def judged(
    job: DistributedTraining, kind: ConditionType, holds: bool, reason: Reason, message: str
) -> DistributedTraining:
    status = with_condition(job.status, kind, holds, reason, message, now=NOW - 60)
    return job.model_copy(update={"status": status})


def described(job: DistributedTraining, pods: tuple[PodView, ...] = (), events: tuple[Any, ...] = ()) -> str:
    return "\n".join(lines(describe_page(job, pods, events, NOW)))


def unschedulable() -> tuple[DistributedTraining, tuple[PodView, ...]]:
    message = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    pods = tuple(make_pod(i, "Pending", job="gpt2", reason="Unschedulable", message=message) for i in range(2))
    waiting = telling(status={"phase": "Pending", "workers": WorkerCounts(desired=2)})
    why = f"gpt2-0-1 waits: Unschedulable: {message}"
    return judged(waiting, ConditionType.RUNNING, False, Reason.UNSCHEDULABLE, why), pods


def failed() -> DistributedTraining:
    message = "gpt2-1-1 on node-1 exited with code 4 (BadData)\n[rank 1] /data/train.bin is empty"
    job = telling(status={"phase": "Failed", "exit_code": 4, "finished_at": ago(60)})
    return judged(job, ConditionType.FAILED, True, Reason.PERMANENT_FAILURE, message)


def test_the_page_of_a_running_job() -> None:
    assert lines(status_page(telling(), NOW)) == [
        "gpt2 in team-a: Running, 2h old",
        "  steps       ━━━━━━━                        1200 of 5000",
        "  loss        2.3456",
        "  held out    2.7500",
        "  speed       1,234,568 tokens/s, 41.2% of the device's peak",
        "  left        2h4m",
        "  checkpoint  step 1000, 4m ago, /checkpoints/1000-1",
        "  GPU time    40.0 h, 72% of it kept",
        "  image       adts/trainer:0.1.0",
        "  layout      dp16, zero 0",
        "  workers     2 of 2 run",
        "  attempt     1",
    ]


def test_the_page_says_why_a_job_is_not_further() -> None:
    job, _ = unschedulable()
    assert lines(status_page(job, NOW))[:3] == [
        "gpt2 in team-a: Pending, 2h old",
        "  Unschedulable: gpt2-0-1 waits: Unschedulable: 0/2 nodes are available: 2",
        "  Insufficient nvidia.com/gpu.",
    ]


DEADLINES: list[tuple[str, DistributedTraining, str]] = [
    (
        "the start deadline of pods that start",
        telling(status={"phase": "Starting", "not_before": ago(60)}, run_policy={"startDeadlineSeconds": 300}),
        "must run    in 4m (runPolicy.startDeadlineSeconds)",
    ),
    (
        "the end of a running job",
        telling(status={"started_at": ago(3600)}, run_policy={"activeDeadlineSeconds": 7200}),
        "must end    in 1h (runPolicy.activeDeadlineSeconds)",
    ),
    (
        "the next attempt",
        telling(status={"phase": "Restarting", "not_before": ago(-20)}),
        "next attempt  in 20s (the delay after failures)",
    ),
    (
        "the deletion of a job that has ended",
        telling(status={"phase": "Succeeded", "finished_at": ago(100)}, run_policy={"ttlSecondsAfterFinished": 220}),
        "is deleted  in 2m (runPolicy.ttlSecondsAfterFinished)",
    ),
]


@pytest.mark.parametrize(("job", "line"), [row[1:] for row in DEADLINES], ids=[row[0] for row in DEADLINES])
def test_deadlines_are_told(job: DistributedTraining, line: str) -> None:
    assert f"  {line}" in lines(status_page(job, NOW))


def test_pods_that_wait_are_described_with_what_to_do() -> None:
    job, pods = unschedulable()
    text = described(job, pods)
    assert "  Its pods are not placed on nodes yet." in text
    assert "  Running = False  Unschedulable, 1m ago" in text
    assert "The scheduler finds no node with room for a pod. To do: compare" in text
    assert "  gpt2-1-1  none  Pending  Unschedulable\n" in text
    assert " ".join(text.split()).count("2 Insufficient nvidia.com/gpu.") == 2, (
        "in the condition, and once for both pods"
    )


def test_a_failed_job_is_described_with_its_last_output_and_the_cause() -> None:
    text = described(failed())
    assert "    [rank 1] /data/train.bin is empty\n" in text
    assert "To do: remove the cause that the message" in text
    assert "A data file is missing, empty or malformed. To do: see spec.data" in text


def test_the_exit_code_of_somebody_elses_script_is_not_explained() -> None:
    job = telling(command=["sh", "train.sh"], status={"phase": "Failed", "exit_code": 4})
    job = judged(job, ConditionType.FAILED, True, Reason.BACKOFF_LIMIT_EXCEEDED, "gpt2-0-1 exited with code 4 (Exit4)")
    assert "data file" not in described(job)


def test_restarts_tell_when_where_and_why() -> None:
    restarts = [
        Restart(time=ago(600), scope="round", pod="gpt2-0-1", node="node-0", exit_code=-9, reason="Signal9"),
        Restart(
            time=ago(300), scope="attempt", pod="gpt2-1-1", exit_code=71, reason="OutOfMemory", message="CUDA is full"
        ),
    ]
    text = described(telling(status={"restarts": restarts, "attempt": 2, "failures": 1, "rounds": 1}))
    assert "  10m ago, in place: gpt2-0-1 on node-0: Signal9 (-9)\n" in text
    assert "  5m ago, new attempt: gpt2-1-1: OutOfMemory (71)\n    CUDA is full\n" in text
    assert "Host or GPU memory ran out. To do: raise the memory limit" in text
    assert "  restarts    failures spent: 1 of 6, restarts in place: 1\n" in text


def test_of_a_large_gang_only_what_is_unusual_is_listed() -> None:
    pods = tuple(make_pod(index, job="gpt2") for index in range(255))
    pods += (make_pod(255, "Pending", job="gpt2", node="node-9", reason="ImagePullBackOff"),)
    text = described(telling(replicas=256), pods)
    section = text.partition("Pods of attempt 1\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split() for line in section] == [
        ["POD", "NODE", "STATE", "REASON"],
        ["gpt2-255-1", "node-9", "Pending", "ImagePullBackOff"],
        ["and", "255", "Running"],
    ]


def test_pods_of_older_attempts_are_not_shown() -> None:
    text = described(telling(status={"attempt": 2}), (make_pod(0, job="gpt2"), make_pod(0, job="gpt2", attempt=2)))
    assert "gpt2-0-2" in text
    assert "gpt2-0-1" not in text


def test_events_say_how_often_and_of_which_pod() -> None:
    events = (
        {
            "metadata": {},
            "type": "Normal",
            "reason": "AttemptStarted",
            "message": "attempt 1",
            "lastTimestamp": ago(90),
        },
        {
            "metadata": {},
            "type": "Warning",
            "reason": "FailedMount",
            "message": 'configmap "x" not found',
            "eventTime": ago(30),
            "count": 4,
            "involvedObject": {"kind": "Pod", "name": "gpt2-0-1"},
        },
    )
    text = described(telling(), events=events)
    assert "  1m30s ago  AttemptStarted  attempt 1\n" in text
    assert '    30s ago  FailedMount     gpt2-0-1: configmap "x" not found (x4)\n' in text


def test_a_job_that_no_operator_has_seen_says_so() -> None:
    assert "no operator runs, or none that watches this namespace" in " ".join(described(make_job()).split())


def test_a_change_of_the_spec_that_was_not_looked_at_is_told() -> None:
    job = telling()
    newer = job.model_copy(update={"metadata": job.metadata.model_copy(update={"generation": 2})})
    assert "The newest change of its spec was not looked at yet." in " ".join(described(newer).split())


def refused() -> DistributedTraining:
    return judged(
        telling(status={"phase": "Pending"}), ConditionType.VALID, False, Reason.INVALID_SPEC, "spec.model: none"
    )


NEXT: list[tuple[str, DistributedTraining, tuple[PodView, ...], str]] = [
    ("running", telling(), (), "adts logs gpt2 --follow -n team-a"),
    ("waiting", *unschedulable(), "kubectl describe pod gpt2-0-1 -n team-a"),
    ("refused", refused(), (), "kubectl edit dtrain gpt2 -n team-a"),
    ("restarting", telling(status={"phase": "Restarting"}), (), "adts logs gpt2 --previous -n team-a"),
    ("failed", failed(), (), "adts logs gpt2 --tail 50 -n team-a"),
    ("succeeded", telling(status={"phase": "Succeeded"}), (), "adts logs gpt2 --worker 0 --tail 20 -n team-a"),
    ("queued", telling(status={"phase": "Queued"}), (), "kubectl get workloads -n team-a"),
    (
        "suspended",
        telling(status={"phase": "Suspended"}),
        (),
        """kubectl patch dtrain gpt2 --type merge -p '{"spec":{"runPolicy":{"suspend":false}}}' -n team-a""",
    ),
    (
        "unseen",
        make_job(name="gpt2"),
        (),
        "kubectl get pods --all-namespaces -l app.kubernetes.io/name=distributed-training-operator",
    ),
]


@pytest.mark.parametrize(("job", "pods", "command"), [row[1:] for row in NEXT], ids=[row[0] for row in NEXT])
def test_the_next_command_fits_the_state(job: DistributedTraining, pods: tuple[PodView, ...], command: str) -> None:
    assert next_command(job, pods, HERE) == command


def test_nothing_is_wider_than_the_terminal() -> None:
    name = "a-rather-long-name-of-a-job-as-people-write-them"
    pods = tuple(make_pod(index, "Failed", job=name, node="node-" * 8, reason="Error") for index in range(3))
    page = describe_page(
        judged(failed(), ConditionType.RUNNING, False, Reason.WORKER_FAILED, "x " * 200), pods, (), NOW
    )
    assert max(map(len, lines(page))) <= 80
