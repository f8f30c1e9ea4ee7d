"""What the chart renders: the Deployment, and every switch on and off."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from adts_api.contract import LABEL_MANAGED_BY, LAUNCHER_PORT, MANAGED_BY
from adts_operator.settings import Settings, variable_name

DEPLOYMENT, TEST_POD = "Deployment/adts-operator", "Pod/adts-operator-test"


def pod_specs(objects: dict[str, Any]) -> list[dict[str, Any]]:
    """The specs of all pods: the operator's and the one of `helm test`."""
    return [objects[DEPLOYMENT]["spec"]["template"]["spec"], objects[TEST_POD]["spec"]]


def environment(objects: dict[str, Any]) -> dict[str, Any]:
    """The operator's environment: a value, or the field it comes from."""
    (container,) = objects[DEPLOYMENT]["spec"]["template"]["spec"]["containers"]
    return {it["name"]: it.get("value", it.get("valueFrom")) for it in container["env"]}


def settings(objects: dict[str, Any]) -> Settings:
    """What the operator makes of its environment."""
    return Settings.read({name: value for name, value in environment(objects).items() if isinstance(value, str)})


def test_every_setting_of_the_operator_is_given_and_no_other(render: Any) -> None:
    assert set(environment(render())) == {variable_name(field.name) for field in fields(Settings)}


def test_the_defaults_of_the_chart_are_those_of_the_operator(render: Any) -> None:
    assert settings(render()) == Settings()


def test_the_operator_knows_its_own_pod(render: Any) -> None:
    given = {name.removeprefix("ADTS_OPERATOR_"): it for name, it in environment(render()).items()}
    for name, path in {"NAMESPACE": "namespace", "POD_NAME": "name", "POD_UID": "uid"}.items():
        assert given[name] == {"fieldRef": {"fieldPath": f"metadata.{path}"}}


def test_every_value_reaches_its_setting(render: Any) -> None:
    objects = render(
        watchNamespaces=["team-a", "team-b"],
        replicas=1,
        leaderElection={"enabled": False},
        trainer={"image": "registry.example/trainer:7", "imagePullSecrets": [{"name": "one"}, {"name": "two"}]},
        api={"rate": 10_000, "burst": 100_000},
        reconcile={"workers": 1000, "resyncSeconds": 3600},
        progress={"viaApiProxy": True},
        metrics={"jobs": True},
        log={"level": "debug", "format": "text"},
    )
    assert settings(objects) == Settings(
        watch_namespaces=("team-a", "team-b"),
        leader_election=False,
        trainer_image="registry.example/trainer:7",
        image_pull_secrets=("one", "two"),
        api_rate=10_000,
        api_burst=100_000,
        workers=1000,
        resync_seconds=3600,
        progress_by="api-proxy",
        job_metrics=True,
        log_level="debug",
        log_format="text",
    )


def test_all_pods_pass_the_restricted_pod_security_level(render: Any) -> None:
    for spec in pod_specs(render()):
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == 65532
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert {key for volume in spec.get("volumes", ()) for key in volume} <= {"name", "emptyDir"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"]
            assert container["resources"]["limits"]["memory"]


def test_the_user_can_be_left_to_the_platform(render: Any) -> None:
    objects = render(podSecurityContext={"runAsUser": None, "runAsGroup": None})
    for spec in pod_specs(objects):
        assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_two_replicas_on_two_nodes_where_possible_and_never_fewer_during_an_upgrade(render: Any) -> None:
    deployment = render()[DEPLOYMENT]["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    (term,) = deployment["template"]["spec"]["affinity"]["podAntiAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    assert term["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    assert term["podAffinityTerm"]["labelSelector"] == deployment["selector"]


def test_without_leader_election_two_versions_never_run_at_once(render: Any) -> None:
    objects = render(replicas=1, leaderElection={"enabled": False})
    assert objects[DEPLOYMENT]["spec"]["strategy"] == {"type": "Recreate"}


def test_the_operator_starts_as_a_module_and_is_probed(render: Any) -> None:
    spec = render()[DEPLOYMENT]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["command"] == ["python3", "-m", "adts_operator"]
    (port,) = container["ports"]
    assert port == {"name": "http", "containerPort": Settings().health_port}
    for probe, path in {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}.items():
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "http"}
    assert spec["automountServiceAccountToken"] is True
    assert spec["enableServiceLinks"] is False
    assert spec["terminationGracePeriodSeconds"] == 30


def test_what_selects_the_operators_pods_does_not_select_the_pod_of_helm_test(render: Any) -> None:
    objects = render(networkPolicy={"enabled": True}, metrics={"serviceMonitor": {"enabled": True}})
    deployment = objects[DEPLOYMENT]["spec"]
    pod, other = deployment["template"]["metadata"]["labels"], objects[TEST_POD]["metadata"]["labels"]
    selectors = {
        "Deployment": deployment["selector"]["matchLabels"],
        "Service": objects["Service/adts-operator"]["spec"]["selector"],
        "PodDisruptionBudget": objects["PodDisruptionBudget/adts-operator"]["spec"]["selector"]["matchLabels"],
        "NetworkPolicy": objects["NetworkPolicy/adts-operator"]["spec"]["podSelector"]["matchLabels"],
    }
    for kind, selector in selectors.items():
        assert selector.items() <= pod.items(), kind
        assert not selector.items() <= other.items(), kind
    monitored = objects["ServiceMonitor/adts-operator"]["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= objects["Service/adts-operator"]["metadata"]["labels"].items()


SWITCHES = {
    "crds.enabled": ({"crds": {"enabled": False}}, {"CustomResourceDefinition/distributedtrainings.adts.dev"}, set()),
    "serviceAccount.create": (
        {"serviceAccount": {"create": False, "name": "theirs"}},
        {"ServiceAccount/adts-operator"},
        set(),
    ),
    "podDisruptionBudget.enabled": (
        {"podDisruptionBudget": {"enabled": False}},
        {"PodDisruptionBudget/adts-operator"},
        set(),
    ),
    "metrics.serviceMonitor.enabled": (
        {"metrics": {"serviceMonitor": {"enabled": True}}},
        set(),
        {"ServiceMonitor/adts-operator"},
    ),
    "networkPolicy.enabled": ({"networkPolicy": {"enabled": True}}, set(), {"NetworkPolicy/adts-operator"}),
    "grafanaDashboard.enabled": (
        {"grafanaDashboard": {"enabled": True}},
        set(),
        {"ConfigMap/adts-operator-dashboard"},
    ),
}
"""Value away from its default -> what goes and what comes. The switches of rights stand in test_rbac.py."""


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_adds_and_removes_its_objects_and_no_other(render: Any, switch: str) -> None:
    values, gone, come = SWITCHES[switch]
    default, switched = set(render()), set(render(**values))
    assert default - switched == gone
    assert switched - default == come


def test_placement_and_identity_of_the_pods_can_be_set(render: Any) -> None:
    placement = {
        "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
        "priorityClassName": "system-cluster-critical",
        "imagePullSecrets": [{"name": "registry"}],
    }
    template = render(**placement, podLabels={"team": "ml"}, podAnnotations={"note": "x"})[DEPLOYMENT]["spec"][
        "template"
    ]
    assert placement.items() <= template["spec"].items()
    assert template["metadata"]["labels"]["team"] == "ml"
    assert template["metadata"]["annotations"]["note"] == "x"


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, "adts/operator:0.1.0"),
        ({"repository": "registry.example/adts", "tag": "7"}, "registry.example/adts:7"),
        ({"tag": "7", "digest": f"sha256:{'0' * 64}"}, f"adts/operator@sha256:{'0' * 64}"),
    ],
)
def test_operator_and_helm_test_use_the_given_image(render: Any, image: dict[str, str], reference: str) -> None:
    for spec in pod_specs(render(image={**image, "pullPolicy": "Never"})):
        (container,) = spec["containers"]
        assert (container["image"], container["imagePullPolicy"]) == (reference, "Never")


def test_the_network_policy_opens_the_api_server_and_the_launchers_of_watched_jobs(render: Any) -> None:
    values = {"enabled": True, "apiServerPorts": [8443], "metricsFrom": [{"namespaceSelector": {}}]}
    policy = render(networkPolicy=values, watchNamespaces=["team-a"])["NetworkPolicy/adts-operator"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (ingress,) = policy["ingress"]
    assert ingress["ports"] == [{"protocol": "TCP", "port": 8080}]
    assert ingress["from"][0] == {"namespaceSelector": {}}
    server, launchers = policy["egress"]
    assert {port["port"] for port in server["ports"]} == {8443, 53}
    assert launchers["ports"] == [{"protocol": "TCP", "port": LAUNCHER_PORT}]
    (peer,) = launchers["to"]
    assert peer["podSelector"]["matchLabels"] == {LABEL_MANAGED_BY: MANAGED_BY}
    (expression,) = peer["namespaceSelector"]["matchExpressions"]
    assert expression["values"] == ["team-a"]


def test_the_network_policy_knows_no_pods_where_progress_goes_through_the_api_server(render: Any) -> None:
    extra = [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]
    values = {"networkPolicy": {"enabled": True, "extraEgress": extra}, "progress": {"viaApiProxy": True}}
    egress = render(**values)["NetworkPolicy/adts-operator"]["spec"]["egress"]
    assert egress[1:] == extra


def test_metrics_are_scraped_with_the_labels_a_prometheus_selects_by(render: Any) -> None:
    monitor = {"enabled": True, "interval": "10s", "labels": {"release": "prometheus"}}
    found = render(metrics={"serviceMonitor": monitor})["ServiceMonitor/adts-operator"]
    assert found["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = found["spec"]["endpoints"]
    assert endpoint == {"port": "http", "path": "/metrics", "interval": "10s", "honorLabels": True}


def test_the_dashboard_is_found_by_grafanas_sidecar_and_is_whole(render: Any) -> None:
    values = {"enabled": True, "annotations": {"grafana_folder": "Training"}}
    config = render(grafanaDashboard=values)["ConfigMap/adts-operator-dashboard"]
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config["metadata"]["annotations"] == {"grafana_folder": "Training"}
    assert json.loads(config["data"]["adts.json"])["title"] == "Distributed training"


@pytest.mark.parametrize(
    ("release", "values", "name"),
    [
        ("adts", {}, "adts-operator"),
        ("training-operator", {}, "training-operator"),
        ("adts", {"fullnameOverride": "x"}, "x"),
        ("a" * 53, {}, f"{'a' * 40}-operator"),
    ],
)
def test_objects_are_named_after_the_release(
    helm: Any, chart: str, release: str, values: dict[str, Any], name: str
) -> None:
    answer = helm("template", release, chart, "--show-only", "templates/deployment.yaml", values=values)
    assert f"\n  name: {name}\n" in answer.stdout


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {},
            ["runs the jobs of all namespaces", "kubectl -n default apply -f training.yaml", "helm test adts -n team"],
        ),
        (
            {"watchNamespaces": ["a", "b"]},
            ["the namespaces a, b", "kubectl -n a get distributedtrainings -w", "in any other namespace"],
        ),
        ({"crds": {"enabled": False}}, ["kubectl apply -f crds/distributedtrainings.adts.dev.yaml"]),
    ],
)
def test_the_notes_name_the_next_commands(helm: Any, chart: str, values: dict[str, Any], said: list[str]) -> None:
    answer = helm("install", "adts", chart, "-n", "team", "--dry-run=client", values=values)
    assert answer.returncode == 0, answer.stderr
    for words in said:
        assert words in answer.stdout.partition("NOTES:")[2]
