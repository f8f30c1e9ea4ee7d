"""The tables of `adts status` and `adts top`, on a terminal of 80 columns."""

from __future__ import annotations

import pytest

from adts_api.v1alpha1 import DistributedTraining, GpuSeconds, WorkerCounts
from adts_operator.commands.tables import gpus_held, left, productive, status_table, top_table
from support.operator_jobs import NOW, begun, make_job
from support.operator_pages import lines, telling

LONG_NAME = "a-rather-long-name-of-a-job-as-people-write-them"


def test_the_status_table_has_a_line_for_every_job() -> None:
    jobs = [telling(), begun(name="waits"), make_job(name="fresh", command=["torchrun", "train.py"])]
    assert lines(status_table(jobs, NOW)) == [
        "NAME      PHASE         STEP    LOSS  TOK/S  READY  TRY  FAILS  SAVED  AGE",
        "gpt2      Running  1200/5000  2.3456  1.23M    2/2    1      0   1000   2h",
        "waits     Pending          –       –      –    0/2    1      0      –    –",
        "fresh     Pending          –       –      –    0/2    –      0      –    –",
    ]


def test_a_long_name_folds_and_every_number_stays() -> None:
    table = lines(status_table([telling(name=LONG_NAME)], NOW, with_namespace=True))
    assert all(len(line) <= 80 for line in table)
    assert table[1].endswith("Running  1200/5000  2.3456  1.23M    2/2    1      0   1000   2h")
    assert "".join(line.split(" ")[0] for line in table[1:]) == f"team-a/{LONG_NAME}"


def test_top_shows_busy_jobs_first_and_the_sums_of_all() -> None:
    done = telling(name="done", status={"phase": "Succeeded"})
    small = telling(name="small", gpus=1, namespace="team-b")
    jobs = [done, begun(name="waits"), small, telling()]
    assert lines(top_table(jobs, NOW, with_namespace=True, rows=9)) == [
        "4 jobs: 1 Pending, 2 Running, 1 Succeeded   18 GPUs   2.47M tokens/s",
        "",
        "NAME           PHASE           STEP  TOK/S  LEFT  GPUS  GPU-H  KEPT  FAILS",
        "team-a/gpt2    Running    1200/5000  1.23M  2h4m    16   40.0   72%      0",
        "team-b/small   Running    1200/5000  1.23M  2h4m     2   40.0   72%      0",
        "default/waits  Pending            –      –     –     –      –     –      0",
        "team-a/done    Succeeded  1200/5000      –     –     –   40.0   72%      0",
    ]


def test_top_says_what_there_is_no_room_for() -> None:
    jobs = [telling(name=f"job-{number}") for number in range(5)]
    shown = lines(top_table(jobs, NOW, with_namespace=False, rows=2))
    assert [line.split()[0] for line in shown[3:5]] == ["job-0", "job-1"]
    assert shown[5:] == ["and 3 more: make the window higher"]


def test_top_without_a_job() -> None:
    assert lines(top_table([], NOW, with_namespace=False, rows=9))[0] == "0 jobs   0 GPUs   0 tokens/s"


HELD = [
    ("all pods of a running job", telling(), 16),
    ("one has ended", telling(status={"workers": WorkerCounts(desired=2, created=2, ready=1, succeeded=1)}), 8),
    ("the job has ended, its pods are kept", telling(status={"phase": "Failed"}), 0),
    ("pods wait for room", telling(status={"phase": "Pending"}), 0),
    ("no GPUs", telling(gpus=0), 0),
]


@pytest.mark.parametrize(("job", "gpus"), [row[1:] for row in HELD], ids=[row[0] for row in HELD])
def test_gpus_held(job: DistributedTraining, gpus: int) -> None:
    assert gpus_held(job) == gpus


def test_the_time_left_is_counted_on_and_only_while_the_job_runs() -> None:
    assert left(telling(), NOW) == "2h4m"
    assert left(telling(), NOW + 3600) == "1h4m"
    assert left(telling(), NOW + 36_000) == "0s"
    assert left(telling(status={"phase": "Restarting"}), NOW) == "–"


def test_time_lost_in_a_restart_is_not_productive() -> None:
    assert productive(telling(status={"gpu_seconds": GpuSeconds(total=100.0, productive=60.0, unsaved=15.0)})) == "75%"
    assert productive(telling(status={"gpu_seconds": GpuSeconds()})) == "–"
