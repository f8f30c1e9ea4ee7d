"""How a job starts, runs, suspends and resumes, pass by pass."""

from __future__ import annotations

import pytest

from adts_operator.core.observed import Observed
from support.operator_jobs import NOW, begun, make_job, make_lead, make_pod, running, settle
from support.operator_rows import BOTH, CHILDREN, Row, resume_of, suspend_of, suspended

ROWS = [
    Row(
        "first pass writes the attempt and makes nothing", make_job(), Observed(), "Pending", events=["AttemptStarted"]
    ),
    Row(
        "second pass makes everything",
        begun(),
        Observed(),
        "Pending",
        apply=["Service/demo", "ConfigMap/demo-1", "Secret/demo-0d5e2c7a", "Pod/demo-0-1", "Pod/demo-1-1"],
    ),
    Row(
        "after a crash between two creations only the rest is made",
        begun(),
        Observed(pods=(make_pod(0, "Pending"),), children=CHILDREN),
        "Pending",
        apply=["Secret/demo-0d5e2c7a", "Pod/demo-1-1"],
    ),
    Row(
        "all pods exist",
        begun(),
        Observed(pods=(make_pod(0), make_pod(1, "Pending")), children=CHILDREN),
        "Starting",
    ),
    Row(
        "the scheduler finds no place",
        begun(),
        Observed(pods=(make_pod(0), make_pod(1, "Pending", reason="Unschedulable", message="0/2 nodes"))),
        "Pending",
        events=["Unschedulable"],
    ),
    Row("pods run, the lead has not answered yet", begun(), Observed(pods=BOTH), "Starting"),
    Row("the lead is still starting", begun(), Observed(pods=BOTH, lead=make_lead("starting")), "Starting"),
    Row("the lead trains", begun(), Observed(pods=BOTH, lead=make_lead()), "Running", events=["AllWorkersRunning"]),
    Row(
        "an answer of another attempt is not believed",
        begun(),
        Observed(pods=BOTH, lead=make_lead(attempt=7)),
        "Starting",
    ),
    Row(
        "a silent lead is no hang: the job counts as running",
        begun(),
        Observed(pods=BOTH, lead_is_silent=True),
        "Running",
        events=["AllWorkersRunning"],
    ),
    Row(
        "a script of the user's runs as soon as its containers do",
        begun(command=["torchrun", "train.py"]),
        Observed(pods=BOTH),
        "Running",
        events=["AllWorkersRunning"],
    ),
    Row("a restarted operator that has not asked yet", running(), Observed(pods=BOTH), "Running"),
    Row(
        "processes restarted in place",
        running(),
        Observed(pods=BOTH, lead=make_lead("restarting", rounds=1)),
        "Restarting",
        events=["RoundRestarted"],
    ),
    Row(
        "suspending writes first",
        suspend_of(running()),
        Observed(pods=BOTH, lead=make_lead()),
        "Suspended",
        events=["SuspendedByUser"],
    ),
    Row(
        "and deletes then",
        settle(suspend_of(running()), Observed(pods=BOTH)),
        Observed(pods=BOTH),
        "Suspended",
        delete=["demo-0-1 120", "demo-1-1 120"],
    ),
    Row("a job suspended from the start", suspended(), Observed(), "Suspended", attempt=0),
    Row("resumed: a new attempt", resume_of(suspended()), Observed(), "Pending", events=["ResumedByUser"]),
    Row(
        "resumed while the old pods still save: wait for them",
        resume_of(settle(suspend_of(running()), Observed(pods=BOTH))),
        Observed(pods=(make_pod(0, gone_by=NOW + 100.0),)),
        "Suspended",
    ),
    Row(
        "resumed while an old pod's node does not answer: nobody will hear of it",
        resume_of(settle(suspend_of(running()), Observed(pods=BOTH))),
        Observed(pods=(make_pod(0, unreachable=True, gone_by=NOW + 100.0),)),
        "Pending",
        events=["ResumedByUser"],
        attempt=2,
    ),
    Row(
        "somebody else's Service has our name",
        make_job(),
        Observed(foreign=("Service/demo",)),
        "Pending",
        events=["NameConflict"],
        attempt=0,
    ),
    Row(
        "a status that was lost adopts the pods it finds",
        make_job(),
        Observed(pods=(make_pod(0, attempt=3), make_pod(1, attempt=3)), lead=make_lead(attempt=3)),
        "Running",
        attempt=3,
        events=["AllWorkersRunning"],
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_plan(row: Row) -> None:
    row.check()
