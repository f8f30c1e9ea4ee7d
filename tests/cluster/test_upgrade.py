"""An upgrade of the release under a job that trains with the image of the release before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adts_api.contract import CONTRACT_VERSION
from cluster.harness.cluster import Cluster
from support.cluster_jobs import PATIENCE, Jobs, attempt_of, wait_for
from support.helm_release import RELEASE, RESTRICTED, installed, uids
from support.operator_access import CHART, new_namespace
from support.trainer_jobs import shared_claim, training

pytestmark = pytest.mark.timeout(600)

Measured = Callable[[str], None]


def test_a_job_of_the_release_before_trains_on_through_an_upgrade(
    own_cluster: Cluster,
    operator_image: str,
    trainer_image: str,
    lower_contract_image: str,
    tmp_path: Path,
    measured: Measured,
) -> None:
    """Its status goes on, and so does its next attempt: with the image it began with, by the new operator."""
    before = {"image": lower_contract_image}
    with (
        installed(own_cluster, operator_image, tmp_path / "helm", trainer=before) as release,
        new_namespace(own_cluster, "adts-upgrade", RESTRICTED) as namespace,
        shared_claim(own_cluster, namespace, "older", tmp_path / "checkpoints"),
    ):
        jobs = Jobs(own_cluster.kubectl, namespace)
        jobs.apply(training("older", namespace, ""))
        wait_for(lambda: step(jobs) > 0, 2 * PATIENCE, "the first steps", lambda: jobs.status("older"))
        pods, operators = uids(jobs, "older"), {it["metadata"]["uid"] for it in release.pods()}
        version = "from adts_api.contract import CONTRACT_VERSION as v; print(v)"
        assert int(jobs.execute("older-0-1", f"python3 -c '{version}'")) == CONTRACT_VERSION - 1

        release.helm("upgrade", RELEASE, str(CHART), log={"level": "debug"}, trainer={"image": trainer_image})
        wait_for(lambda: not operators & {it["metadata"]["uid"] for it in release.pods()}, PATIENCE, "new operators")
        told = step(jobs)
        seconds = wait_for(lambda: step(jobs) > told, PATIENCE, "a newer step", lambda: jobs.status("older"))
        measured(f"a newer step in the status after an upgrade of the operator: {seconds:.1f} s")
        assert uids(jobs, "older") == pods
        status = jobs.status("older")
        assert (status["attempt"], status["image"], status["phase"]) == (1, lower_contract_image, "Running")

        saved = status["checkpoint"]["step"]
        own_cluster.kubectl("-n", namespace, "delete", "pod", "older-1-1", "--grace-period=0", "--force")
        wait_for(lambda: jobs.status("older")["attempt"] == 2, PATIENCE, "attempt 2", lambda: jobs.status("older"))
        jobs.wait("older", "Running", PATIENCE)
        wait_for(lambda: step(jobs) > told, 2 * PATIENCE, "training goes on", lambda: jobs.status("older"))
        new = [pod for pod in jobs.pods("older") if attempt_of(pod) == 2]
        assert {pod["spec"]["containers"][0]["image"] for pod in new} == {lower_contract_image}
        assert jobs.status("older")["checkpoint"]["step"] >= saved > 0
        jobs.delete("older")


def step(jobs: Jobs) -> int:
    """Optimizer steps that the status knows."""
    known: int = jobs.status("older").get("progress", {}).get("step", 0)
    return known
