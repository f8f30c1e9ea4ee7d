"""The values of the Helm chart: the one source of `values.yaml`, `values.schema.json` and the table in `docs/chart.md`.

A field's docstring is its comment in `values.yaml`, its description in the schema and its row in the table. Unknown
names are refused, so that a typing mistake is an error of `helm install` and not a setting without effect.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from adts_api.training import ApiModel

Namespace = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Port = Annotated[int, Field(ge=1, le=65535)]


class SecretName(ApiModel):
    """Reference to a Secret."""

    name: str = Field(min_length=1)
    """Name of the Secret."""


class Image(ApiModel):
    """Image of the operator."""

    repository: str = Field("adts/operator", min_length=1)
    """Name of the image with its registry, without a tag."""
    tag: str = ""
    """Tag; empty means the chart's appVersion."""
    digest: str = Field("", pattern=r"^(sha256:[0-9a-f]{64})?$")
    """Digest `sha256:...`; it wins over the tag."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When the kubelet pulls the image."""


class Trainer(ApiModel):
    """What jobs get that do not say otherwise."""

    image: str = Field("", pattern=r"^\S*$")
    """Image of jobs without `spec.image`; empty means adts/trainer with the chart's appVersion."""
    image_pull_secrets: list[SecretName] = Field(default_factory=list)
    """Secrets that pods with this image pull it with. They must exist in the namespace of each job."""


class Crds(ApiModel):
    """The CustomResourceDefinition."""

    enabled: bool = True
    """Install and upgrade it with the chart. `helm uninstall` keeps it, and with it the users' jobs."""


class Rbac(ApiModel):
    """Rights of the operator."""

    create: bool = True
    """Create its Roles and bindings. Turn off where somebody else grants the same rights."""


class UserRoles(ApiModel):
    """Rights of people."""

    enabled: bool = True
    """Add DistributedTrainings to the cluster's roles admin, edit and view, so that who may work in a namespace may
    train there. These are ClusterRoles: turn off where the release must not create any."""


class ServiceAccount(ApiModel):
    """Account the operator runs under."""

    create: bool = True
    """Create it."""
    name: str = ""
    """Its name; empty means that of the Deployment. Needed where it is not created here."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations of the account."""


class LeaderElection(ApiModel):
    """One replica acts, the others stand by."""

    enabled: bool = True
    """Hold a Lease while acting. Turn off with one replica only."""


class Api(ApiModel):
    """Bound on the requests to the API server."""

    rate: int = Field(600, ge=1, le=10_000)
    """Requests per second in the long run."""
    burst: int = Field(1500, ge=1, le=100_000)
    """Requests at once."""


class Reconcile(ApiModel):
    """How the operator works through its jobs."""

    workers: int = Field(16, ge=1, le=1000)
    """Jobs reconciled at once."""
    resync_seconds: int = Field(60, ge=5, le=3600)
    """Seconds between two full lists that correct what a watch has lost."""


class Progress(ApiModel):
    """How step, loss and tokens/s reach the status."""

    via_api_proxy: bool = False
    """Ask the lead pod through the API server instead of by its address, where the operator cannot reach pods. Grants
    get on pods/proxy."""


class Gang(ApiModel):
    """Rights on the PodGroups of gang schedulers, for `spec.scheduling.gang`."""

    native: bool = True
    """PodGroups of Kubernetes itself, scheduling.k8s.io."""
    volcano: bool = False
    """PodGroups of Volcano, scheduling.volcano.sh."""
    coscheduling: bool = False
    """PodGroups of the coscheduling plugin, scheduling.x-k8s.io."""


class Log(ApiModel):
    """Log of the operator."""

    level: Literal["debug", "info", "warning"] = "info"
    """Least severe level that is written."""
    format: Literal["json", "text"] = "json"
    """One JSON object a line, or text to read."""


class ServiceMonitor(ApiModel):
    """Scraping by the Prometheus Operator, whose CRDs must be installed."""

    enabled: bool = False
    """Create a ServiceMonitor."""
    interval: str = Field("30s", pattern=r"^[0-9]+(ms|s|m)$")
    """Time between two scrapes."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels your Prometheus selects ServiceMonitors by."""


class Metrics(ApiModel):
    """Metrics on port 8080, path /metrics."""

    jobs: bool = False
    """Step, loss and tokens/s of every running job too: three series a job."""
    service_monitor: ServiceMonitor = Field(default_factory=ServiceMonitor)
    """Scraping by the Prometheus Operator, whose CRDs must be installed."""


class GrafanaDashboard(ApiModel):
    """A dashboard of the operator and its jobs."""

    enabled: bool = False
    """Create a ConfigMap with it, for Grafana's sidecar."""
    labels: dict[str, str] = Field(default_factory=lambda: {"grafana_dashboard": "1"})
    """Labels the sidecar selects ConfigMaps by."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations, for example the folder of the dashboard."""


class NetworkPolicy(ApiModel):
    """What the operator's pods may be reached by, and reach: DNS, the API server, and its own jobs' pods."""

    enabled: bool = False
    """Create a NetworkPolicy for the operator's pods."""
    api_server_ports: list[Port] = Field(default_factory=lambda: [443, 6443], min_length=1)
    """Ports of the API server, whose addresses a policy cannot know."""
    metrics_from: list[dict[str, Any]] = Field(default_factory=list)
    """Peers that may reach port 8080; empty means all. The kubelet's probes always pass."""
    extra_egress: list[dict[str, Any]] = Field(default_factory=list)
    """Further egress rules, for example to the nodes where jobs use the host's network."""


class PodDisruptionBudget(ApiModel):
    """Bound on voluntary evictions of the operator's pods."""

    enabled: bool = True
    """Create a PodDisruptionBudget."""
    max_unavailable: int = Field(1, ge=1)
    """Pods that may be away at once. One of one never blocks the drain of a node."""


class Values(ApiModel):
    """Every value of the chart."""

    fullname_override: str = Field("", pattern=r"^([a-z]([-a-z0-9]*[a-z0-9])?)?$", max_length=50)
    """Name of the objects; empty means `<release>-operator`."""
    replicas: int = Field(2, ge=1)
    """Pods of the operator: one acts, the others take over within seconds."""
    image: Image = Field(default_factory=Image)
    """Image of the operator."""
    image_pull_secrets: list[SecretName] = Field(default_factory=list)
    """Secrets of the release's namespace that the operator's image is pulled with: `[{name: registry}]`."""
    trainer: Trainer = Field(default_factory=Trainer)
    """What jobs get that do not say otherwise."""
    watch_namespaces: list[Namespace] = Field(default_factory=list, json_schema_extra={"uniqueItems": True})
    """Namespaces whose jobs are run, which must exist; empty means all. With a list the operator gets Roles in these
    namespaces and no ClusterRole."""
    crds: Crds = Field(default_factory=Crds)
    """The CustomResourceDefinition."""
    rbac: Rbac = Field(default_factory=Rbac)
    """Rights of the operator."""
    user_roles: UserRoles = Field(default_factory=UserRoles)
    """Rights of people."""
    service_account: ServiceAccount = Field(default_factory=ServiceAccount)
    """Account the operator runs under."""
    leader_election: LeaderElection = Field(default_factory=LeaderElection)
    """One replica acts, the others stand by."""
    api: Api = Field(default_factory=Api)
    """Bound on the requests to the API server."""
    reconcile: Reconcile = Field(default_factory=Reconcile)
    """How the operator works through its jobs."""
    progress: Progress = Field(default_factory=Progress)
    """How step, loss and tokens/s reach the status."""
    gang: Gang = Field(default_factory=Gang)
    """Rights on the PodGroups of gang schedulers, for `spec.scheduling.gang`."""
    log: Log = Field(default_factory=Log)
    """Log of the operator."""
    metrics: Metrics = Field(default_factory=Metrics)
    """Metrics on port 8080, path /metrics."""
    grafana_dashboard: GrafanaDashboard = Field(default_factory=GrafanaDashboard)
    """A dashboard of the operator and its jobs."""
    network_policy: NetworkPolicy = Field(default_factory=NetworkPolicy)
    """What the operator's pods may be reached by, and reach: DNS, the API server, and its own jobs' pods."""
    pod_disruption_budget: PodDisruptionBudget = Field(default_factory=PodDisruptionBudget)
    """Bound on voluntary evictions of the operator's pods."""
    resources: dict[str, Any] = Field(
        default_factory=lambda: {"requests": {"cpu": "100m", "memory": "192Mi"}, "limits": {"memory": "512Mi"}}
    )
    """Resources of a pod. No CPU limit: a throttled leader renews its Lease too late and loses it."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the nodes that may run the operator."""
    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    """Taints the operator tolerates."""
    affinity: dict[str, Any] = Field(default_factory=dict)
    """Affinity of the pods; empty means: if possible on different nodes."""
    topology_spread_constraints: list[dict[str, Any]] = Field(default_factory=list)
    """Spread over zones or nodes, in full, label selector included."""
    priority_class_name: str = ""
    """Priority class of the pods, for example system-cluster-critical."""
    pod_labels: dict[str, str] = Field(default_factory=dict)
    """Further labels of the pods."""
    pod_annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations of the pods."""
    pod_security_context: dict[str, Any] = Field(
        default_factory=lambda: {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
    )
    """Security context of the pods. Where the platform chooses the user, set runAsUser and runAsGroup to null."""
    security_context: dict[str, Any] = Field(
        default_factory=lambda: {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    )
    """Security context of the containers. Both pass the restricted Pod Security level."""
