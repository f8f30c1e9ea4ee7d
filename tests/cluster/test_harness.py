"""The test cluster is a real Kubernetes: nodes that can fail, a pod network, DNS, gangs; it goes without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from adts_api.contract import CONTRACT_VERSION
from cluster.harness import teardown
from cluster.harness.access import Access
from cluster.harness.cluster import Cluster
from cluster.harness.kwok import Kwok
from cluster.harness.layout import Layout
from cluster.harness.process import wait_until

READY_SECONDS = 60
NOT_READY_SECONDS = 60
"""Three times the grace that the controller manager gives a silent node."""

SERVER = "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=8000)"
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "pods"},
    "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"app": "pods"}},
}

OWNER = """\
import sys, time
from cluster.harness.cluster import Cluster
cluster = Cluster(nodes=())
cluster.start()
print(cluster.layout.index, flush=True)
time.sleep(600)
"""


def pod(name: str, image: str, command: list[str], **spec: object) -> dict[str, object]:
    """A pod that runs once and passes the restricted level of Pod Security."""
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "Never",
        "command": command,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "resources": spec.pop("resources", {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "pods"}},
        "spec": {"restartPolicy": "Never", "containers": [container], **spec},
    }


def phase(cluster: Access, namespace: str, name: str) -> str:
    found = cluster.get("pod", name, namespace)
    return found["status"]["phase"] if found else "absent"


def test_both_nodes_are_ready_and_offer_gpus(own_cluster: Cluster, measured: Callable[[str], None]) -> None:
    if own_cluster.start_seconds:
        measured(f"the cluster's start, binaries and images at hand: {own_cluster.start_seconds:.1f} s")
    for name in ("n1", "n2"):
        node = own_cluster.get("node", name)
        assert node is not None
        assert own_cluster.is_node_ready(name)
        assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"


def test_pods_of_both_nodes_talk_by_name_before_they_are_ready(
    cluster: Access, namespace: str, operator_image: str, measured: Callable[[str], None]
) -> None:
    never_ready = {"exec": {"command": ["false"]}}
    server = pod(
        "server", operator_image, ["python3", "-c", SERVER], nodeName="n1", hostname="server", subdomain="pods"
    )
    server["spec"]["containers"][0]["readinessProbe"] = never_ready  # type: ignore[index]
    ask = (
        "import time, urllib.request\n"
        "for attempt in range(200):\n"
        "    try: print(urllib.request.urlopen('http://server.pods:8000', timeout=2).status); break\n"
        "    except OSError: time.sleep(0.2)\n"
        "else: raise SystemExit('no answer')\n"
    )
    client = pod("client", operator_image, ["python3", "-c", ask], nodeName="n2")
    begin = time.monotonic()
    cluster.apply(yaml.safe_dump_all([SERVICE, server, client]), namespace)
    assert wait_until(lambda: phase(cluster, namespace, "client") == "Succeeded", READY_SECONDS)
    measured(f"two pods on two nodes, created to answered by name: {time.monotonic() - begin:.1f} s")
    assert cluster.kubectl("logs", "client", "-n", namespace).strip() == "200"
    found = cluster.get("pod", "server", namespace)
    assert found is not None
    assert not found["status"]["containerStatuses"][0]["ready"]


def test_the_trainer_image_brings_torch(cluster: Access, namespace: str, trainer_image: str) -> None:
    script = "import torch; print(int(torch.ones(3).sum()))"
    cluster.apply(yaml.safe_dump(pod("torch", trainer_image, ["python3", "-c", script])), namespace)
    assert wait_until(lambda: phase(cluster, namespace, "torch") == "Succeeded", READY_SECONDS)
    assert cluster.kubectl("logs", "torch", "-n", namespace).strip() == "3"


def test_the_older_trainer_image_speaks_the_contract_before(
    own_cluster: Cluster, namespace: str, lower_contract_image: str
) -> None:
    script = "from adts_api.contract import CONTRACT_VERSION; print(CONTRACT_VERSION)"
    own_cluster.apply(yaml.safe_dump(pod("older", lower_contract_image, ["python3", "-c", script])), namespace)
    assert wait_until(lambda: phase(own_cluster, namespace, "older") == "Succeeded", READY_SECONDS)
    assert int(own_cluster.kubectl("logs", "older", "-n", namespace)) == CONTRACT_VERSION - 1


def test_a_memory_limit_kills(cluster: Access, namespace: str, operator_image: str) -> None:
    command = ["python3", "-c", "b'x' * (400 << 20)"]
    limits = {"resources": {"limits": {"memory": "128Mi"}}}
    cluster.apply(yaml.safe_dump(pod("greedy", operator_image, command, **limits)), namespace)
    assert wait_until(lambda: phase(cluster, namespace, "greedy") == "Failed", READY_SECONDS)
    found = cluster.get("pod", "greedy", namespace)
    assert found is not None
    ended = found["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


def test_a_gang_starts_only_as_a_whole(cluster: Access, namespace: str, operator_image: str) -> None:
    gpus = {"resources": {"limits": {"nvidia.com/gpu": "8"}}}
    sleep = ["sleep", "600"]
    group = {
        "apiVersion": "scheduling.k8s.io/v1beta1",
        "kind": "PodGroup",
        "metadata": {"name": "gang"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}},
    }
    members = [
        pod(f"gang-{number}", operator_image, sleep, schedulingGroup={"podGroupName": "gang"}, **gpus)
        for number in range(2)
    ]
    cluster.apply(yaml.safe_dump(pod("blocker", operator_image, sleep, nodeName="n1", **gpus)), namespace)
    cluster.apply(yaml.safe_dump_all([group, *members]), namespace)

    def reasons() -> list[str]:
        pods = [cluster.get("pod", f"gang-{number}", namespace) or {} for number in range(2)]
        return [c.get("reason", "") for p in pods for c in p["status"].get("conditions", [])]

    assert wait_until(lambda: reasons().count("Unschedulable") == 2, READY_SECONDS)
    cluster.kubectl("delete", "pod", "blocker", "-n", namespace, "--grace-period=1", "--timeout=60s")
    for number in range(2):
        assert wait_until(lambda n=number: phase(cluster, namespace, f"gang-{n}") == "Running", READY_SECONDS)


def test_a_node_without_its_cable_is_not_ready_until_it_is_back(
    own_cluster: Cluster, measured: Callable[[str], None]
) -> None:
    node = own_cluster.nodes[1]
    node.link_down()
    try:
        begin = time.monotonic()
        assert wait_until(lambda: not own_cluster.is_node_ready(node.name), NOT_READY_SECONDS)
        measured(f"cable pulled to NotReady: {time.monotonic() - begin:.0f} s")
    finally:
        node.link_up()
    begin = time.monotonic()
    assert wait_until(lambda: own_cluster.is_node_ready(node.name), READY_SECONDS)
    measured(f"cable back to Ready: {time.monotonic() - begin:.0f} s")


def test_a_kubelet_stops_and_comes_back(own_cluster: Cluster) -> None:
    node = own_cluster.nodes[0]
    node.stop_kubelet()
    try:
        assert wait_until(lambda: not own_cluster.is_node_ready(node.name), NOT_READY_SECONDS)
    finally:
        node.start_kubelet()
    own_cluster.wait_for_nodes()
    own_cluster.advertise_gpus()


def test_the_api_server_restarts_and_keeps_its_objects(own_cluster: Cluster, namespace: str) -> None:
    own_cluster.kubectl("create", "configmap", "kept", "-n", namespace)
    own_cluster.restart_api_server()
    assert own_cluster.get("configmap", "kept", namespace) is not None


def test_a_refused_request_stands_in_the_audit_log(own_cluster: Cluster, namespace: str) -> None:
    account = f"system:serviceaccount:{namespace}:default"
    own_cluster.kubectl("get", "secrets", "-n", namespace, "--as", account, check=False)
    lines = own_cluster.audit_log.read_text().splitlines()
    assert any(account in line and '"authorization.k8s.io/decision":"forbid"' in line for line in lines)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_cluster_whose_process_is_killed(end: signal.Signals, own_cluster: Cluster) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    owner = subprocess.Popen([sys.executable, "-c", OWNER], env=environment, stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout
        said = [owner.stdout.readline() for _ in range(2)]  # that it is ready, and its number
        layout = Layout(int(said[1]))
        assert teardown.daemons(layout)
        owner.send_signal(end)
    assert wait_until(lambda: not teardown.left(layout), 30), teardown.left(layout)


def test_fake_nodes_run_pods_and_give_them_up(own_cluster: Cluster, measured: Callable[[str], None]) -> None:
    with Cluster(nodes=()) as control_plane, Kwok(control_plane, nodes=3) as kwok:
        deployment = ["create", "deployment", "many", "--image=none", "--replicas=50"]
        begin = time.monotonic()
        control_plane.kubectl(*deployment)
        available = "--for=jsonpath={.status.readyReplicas}=50"
        control_plane.kubectl("wait", "deployment", "many", available, "--timeout=60s", timeout=70)
        measured(f"50 pods on KWOK's nodes, created to ready: {time.monotonic() - begin:.1f} s")
        pods = control_plane.items("pods")
        prefix = kwok.pod_range.removesuffix("0.0/16")
        assert all(pod["status"]["podIP"].startswith(prefix) for pod in pods)
        assert {pod["spec"]["nodeName"] for pod in pods} == set(kwok.node_names)
        control_plane.kubectl("delete", "deployment", "many", "--cascade=foreground", "--timeout=60s", timeout=70)
        assert control_plane.items("pods") == []


def test_nothing_is_left_after_a_stop(own_cluster: Cluster, measured: Callable[[str], None]) -> None:
    begin = time.monotonic()
    with Cluster(nodes=(1,)) as other:
        measured(f"a second cluster, of one node, ready: {time.monotonic() - begin:.1f} s")
        other.kubectl("run", "pause", "--image=adts.test/pause:1", "--image-pull-policy=Never")
        assert wait_until(lambda: phase(other, "default", "pause") == "Running", READY_SECONDS)
        layout = other.layout
        begin = time.monotonic()
    measured(f"its removal, with a pod on it: {time.monotonic() - begin:.1f} s")
    assert teardown.left(layout) == []
    assert own_cluster.is_node_ready("n1")
