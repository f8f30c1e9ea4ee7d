"""`adts status`, `top`, `logs` and `describe` against a real operator, as a user with the ClusterRole `view` alone."""

from __future__ import annotations

import json
import os
import pty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.harness.access import Access
from support.cluster_cli import Adts, user, viewer
from support.cluster_jobs import PATIENCE, RUN_ON, Jobs, script
from support.operator_access import Place, operating

SECOND_ATTEMPT = """
echo "attempt $ADTS_ATTEMPT begins"
if [ "$ADTS_ATTEMPT" = 1 ]; then trap 'echo "no such sample"; exit 9' TERM; sleep 3600 & wait; fi
echo "attempt $ADTS_ATTEMPT ends"
"""
"""Each pod of the first attempt fails when it gets SIGTERM."""


@pytest.fixture(scope="module")
def place(cluster: Access, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with operating(cluster, tmp_path_factory.mktemp("cli")) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the commands' kubeconfigs and outputs."""
    return tmp_path_factory.mktemp("users")


@pytest.fixture(scope="module")
def adts(place: Place, folder: Path) -> Adts:
    """The command line of a user who may see, and nothing more."""
    return viewer(place.cluster, place.namespace, folder)


@pytest.fixture
def jobs(place: Place) -> Iterator[Jobs]:
    """The jobs of the namespace; none is left for the next test."""
    yield place.jobs
    place.cluster.kubectl("-n", place.namespace, "delete", "dtrain", "--all", "--timeout=60s")


def job(jobs: Jobs, name: str, code: str, **spec: Any) -> dict[str, Any]:
    """A script whose pods go quickly."""
    return script(name, jobs.namespace, code, runPolicy={"gracePeriodSeconds": 2}, **spec)


def test_logs_follow_all_pods_through_all_attempts_to_the_end(jobs: Jobs, place: Place, adts: Adts) -> None:
    jobs.apply(job(jobs, "twice", SECOND_ATTEMPT))
    following = adts.start("logs", "twice", "--follow")
    for pod in ("twice-0-1", "twice-1-1"):
        following.wait_for_line(f"{pod} attempt 1 begins")
    place.cluster.kubectl("-n", place.namespace, "exec", "twice-1-1", "--", "sh", "-c", "kill -TERM 1")
    code, out, err = following.end()
    assert code == 0
    lines = [line for line in out.splitlines() if line != "twice-0-1 no such sample"]  # told to stop as well
    assert len(lines) == len(set(lines)), "no line twice"
    assert set(lines) == {
        "twice-0-1 attempt 1 begins",
        "twice-1-1 attempt 1 begins",
        "twice-1-1 no such sample",
        *(f"twice-{index}-2 attempt 2 {what}" for index in (0, 1) for what in ("begins", "ends")),
    }
    assert "[adts] twice is Succeeded, attempt 2" in err

    code, out, _ = adts("logs", "twice", "--timestamps")
    stamps = [line.split()[1] for line in out.splitlines()]
    assert (code, len(stamps)) == (0, 4)
    assert stamps == sorted(stamps), "the pods' lines are in the order of time"

    code, out, err = adts("logs", "twice", "--previous")
    assert code == 0
    assert "the pods of attempt 1 are gone" in err
    assert out.startswith("twice-1-1 on ")
    assert out.endswith("no such sample\n")

    assert adts("logs", "twice", "--worker", "1", "--tail", "1")[1] == "twice-1-2 attempt 2 ends\n"

    _, page, _ = adts("describe", "twice")
    assert "twice in " in page
    assert ": Succeeded, " in page
    assert "new attempt: twice-1-1 on " in page
    assert "Exit9 (9)" in page
    assert page.rstrip().endswith("adts logs twice --worker 0 --tail 20")
    assert "TrainingFinished" in page.partition("Events")[2]


def test_a_follower_goes_on_when_a_pod_vanishes(jobs: Jobs, place: Place, adts: Adts) -> None:
    jobs.apply(job(jobs, "loses", f'[ "$ADTS_ATTEMPT" = 2 ] && exec echo done; echo up; {RUN_ON}'))
    following = adts.start("logs", "loses", "--follow")
    following.wait_for_line("loses-0-1 up")
    place.cluster.kubectl("-n", place.namespace, "delete", "pod", "loses-1-1", "--force", "--grace-period=0")
    code, out, err = following.end()
    assert code == 0
    assert {"loses-0-1 up", "loses-0-2 done", "loses-1-2 done"} <= set(out.splitlines())
    assert "[adts] loses is Restarting, attempt 2: " in err


def test_a_follower_ends_with_the_job(jobs: Jobs, adts: Adts) -> None:
    jobs.apply(job(jobs, "leaves", f"echo up; {RUN_ON}"))
    following = adts.start("logs", "leaves", "--follow")
    following.wait_for_line("leaves-0-1 up")
    jobs.delete("leaves")
    code, out, err = following.end()
    assert code == 0
    assert out.splitlines().count("leaves-0-1 up") == 1
    assert err.endswith("[adts] leaves was deleted\n")


def test_a_job_without_room_says_so_everywhere(jobs: Jobs, adts: Adts) -> None:
    jobs.apply(job(jobs, "wide", "true", workers={"gpusPerWorker": 64}))
    jobs.wait_for_condition("wide", "Running", "Unschedulable")
    _, page, _ = adts("describe", "wide")
    assert "Running = False  Unschedulable, " in page
    assert "The scheduler finds no node with room for a pod. To do: " in page
    assert "Insufficient nvidia.com/gpu" in page
    assert page.rstrip().endswith("kubectl describe pod wide-0-1")
    assert "Unschedulable: wide-0-1 waits: " in adts("status", "wide")[1]
    code, out, err = adts("logs", "wide")
    assert (code, out) == (0, "")
    assert err.startswith("[adts] wide-0-1, wide-1-1: waiting for a node: Unschedulable: 0/")


def test_a_refused_job_says_which_field(jobs: Jobs, adts: Adts) -> None:
    template = {"spec": {"containers": [{"name": "trainer", "env": [{"name": "RANK", "value": "0"}]}]}}
    jobs.apply(job(jobs, "wrong", "true", workers={"template": template}))
    jobs.wait_for_condition("wrong", "Valid", "InvalidSpec")
    _, page, _ = adts("describe", "wrong")
    assert "Valid = False  InvalidSpec, " in page
    assert "spec.workers.template" in page
    assert page.rstrip().endswith("kubectl edit dtrain wrong")
    code, _, err = adts("logs", "wrong")
    assert code == 0
    assert err.startswith("[adts] wrong is Pending: InvalidSpec: spec.workers.template")


def test_status_and_top_list_the_jobs(jobs: Jobs, adts: Adts) -> None:
    jobs.apply(job(jobs, "one", RUN_ON, workers={"gpusPerWorker": 2}), job(jobs, "two", RUN_ON, replicas=1))
    for name in ("one", "two"):
        jobs.wait(name, "Running", PATIENCE)
    code, out, _ = adts("status")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert [(row[0], row[1], row[5], row[6]) for row in rows[1:]] == [
        ("one", "Running", "2/2", "1"),
        ("two", "Running", "1/1", "1"),
    ]
    assert json.loads(adts("status", "one", "-o", "json")[1])["status"]["phase"] == "Running"
    assert len(yaml.safe_load(adts("status", "-o", "yaml")[1])["items"]) == 2
    code, out, _ = adts("top")
    assert code == 0
    assert out.startswith("2 jobs: 2 Running   4 GPUs   0 tokens/s\n")
    assert adts("status", program="kubectl dtrain")[1].split()[:2] == ["NAME", "PHASE"]


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
def test_top_is_live_on_a_terminal_until_a_key(key: bytes, jobs: Jobs, adts: Adts) -> None:
    child, terminal = pty.fork()
    if not child:
        os.execvpe("adts", ["adts", "top"], adts.environment | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"})
    seen = read_until(terminal, b"q ends")
    assert b"0 jobs" in seen
    jobs.apply(job(jobs, "later", RUN_ON))
    read_until(terminal, b"later")
    os.write(terminal, key)
    read_until(terminal, b"\x1b[?1049l")  # the screen from before is back
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(terminal)


def read_until(terminal: int, end: bytes) -> bytes:
    """Everything up to these bytes; a program that ends or is silent fails the test by the timeout of pytest."""
    seen = b""
    while end not in seen:
        seen += os.read(terminal, 65536)
    return seen


@pytest.mark.parametrize("command", ["status nobody", "describe nobody", "logs nobody", "logs nobody --follow"])
def test_a_job_that_does_not_exist_is_one_message(command: str, place: Place, adts: Adts) -> None:
    code, out, err = adts(*command.split())
    assert (code, out) == (2, "")
    message = f"adts: no job nobody in the namespace {place.namespace}; `adts status` lists those that exist\n"
    assert err == message


def test_without_rights_every_command_says_what_to_ask_for(place: Place, folder: Path) -> None:
    stranger = user(place.cluster, place.namespace, "stranger", folder)
    for command in ("status", "status -A", "top", "describe x", "logs x", "status x"):
        code, out, err = stranger(*command.split())
        assert (code, out) == (2, "")
        assert "is forbidden" in err
        assert err.endswith("ask for the ClusterRole `view` there, or choose a namespace with -n\n")
        assert err.count("\n") == 1
