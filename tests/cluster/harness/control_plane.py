"""etcd, API server, controller manager, scheduler and CoreDNS, in the control plane's network namespace."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from cluster.harness.layout import Layout
from cluster.harness.process import Daemon

FEATURE_GATES = "GenericWorkload=true"
"""Gang scheduling (PodGroup): off by default in 1.37. API server, scheduler and controller manager all need it;
without the last one nobody removes a PodGroup's finalizer, and deleting one hangs."""

NODE_GRACE = "20s"
"""A node silent for so long is NotReady; less than Kubernetes's default, to keep the tests short."""

ETCD = "http://127.0.0.1:2379"

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        # what the cluster's own parts say all the time is of no interest and costs disk
        {"level": "None", "userGroups": ["system:nodes"]},
        {"level": "None", "users": ["system:apiserver", "system:kube-scheduler", "system:kube-proxy", "dns", "kwok"]},
        {"level": "None", "users": ["system:kube-controller-manager"]},
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata"},
    ],
}

# The stock settings of a cluster's DNS, ttl 30 and cache 30, so that tests see stale answers as users do. The empty
# root zone answers for all other names that they do not exist, where a real cluster would ask the next server.
COREFILE = """\
.:53 {{
    bind {address}
    errors
    ready {address}:8181
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig} {context}
        pods insecure
        ttl 30
    }}
    cache 30
    file {root_zone} .
}}
"""
ROOT_ZONE = """\
. 30 IN SOA ns. hostmaster. 1 7200 1800 86400 30
. 30 IN NS ns.
"""


class ControlPlane:
    """The daemons of one cluster that are no node's."""

    def __init__(self, layout: Layout, binaries: Path) -> None:
        self._layout = layout
        self._binaries = binaries
        self._keys = layout.folder / "keys"
        self.audit_log = layout.folder / "log" / "audit.log"
        self.etcd = self._daemon("etcd", *self._etcd_flags())
        self.api_server = self._daemon("kube-apiserver", *self._api_server_flags())
        self.controller_manager = self._daemon("kube-controller-manager", *self._controller_manager_flags())
        self.scheduler = self._daemon("kube-scheduler", *self._scheduler_flags())
        self.dns = self._daemon("coredns", "-conf", layout.folder / "Corefile")

    def start(self) -> None:
        """Starts all; returns when the API server is ready. The others come up behind it."""
        self._write_files()
        self.etcd.start()
        self.start_api_server()
        self.controller_manager.start()
        self.scheduler.start()
        self.dns.start()

    def start_api_server(self) -> None:
        """Starts it and waits until it says that it is ready."""
        self.api_server.start()
        self.api_server.wait_for(self.is_ready, 60, "API server ready")

    def is_ready(self) -> bool:
        """Whether the API server's /readyz says ok."""
        return _answers(f"{self._layout.api_server}/readyz", self._keys / "ca.crt")

    def wait_for_dns(self) -> None:
        """Waits until CoreDNS has read the cluster's Services; before that it knows no name."""
        ready = f"http://{self._layout.control_plane_address}:8181/ready"
        self.dns.wait_for(lambda: _answers(ready), 30, "CoreDNS ready")

    def _daemon(self, name: str, *flags: str | Path) -> Daemon:
        namespace = self._layout.control_plane_namespace
        return Daemon(name, [self._binaries / name, *flags], self._layout.folder, namespace)

    def _write_files(self) -> None:
        folder = self._layout.folder
        (folder / "audit.yaml").write_text(yaml.safe_dump(AUDIT_POLICY))
        (folder / "root.zone").write_text(ROOT_ZONE)
        (folder / "Corefile").write_text(
            COREFILE.format(
                address=self._layout.control_plane_address,
                kubeconfig=self._keys / "dns.kubeconfig",
                context=self._layout.prefix,
                root_zone=folder / "root.zone",
            )
        )
        self.audit_log.parent.mkdir(parents=True, exist_ok=True)

    def _etcd_flags(self) -> list[str | Path]:
        peer = "http://127.0.0.1:2380"
        return [
            "--data-dir", self._layout.folder / "etcd",
            f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",  # nothing here outlives the machine
        ]  # fmt: skip

    def _api_server_flags(self) -> list[str | Path]:
        layout, keys = self._layout, self._keys
        return [
            f"--etcd-servers={ETCD}",
            f"--bind-address={layout.control_plane_address}",
            f"--advertise-address={layout.control_plane_address}",
            "--secure-port=6443",
            f"--tls-cert-file={keys / 'server.crt'}",
            f"--tls-private-key-file={keys / 'server.key'}",
            f"--cert-dir={layout.folder / 'generated'}",
            f"--token-auth-file={keys / 'tokens.csv'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={keys / 'accounts.pub'}",
            f"--service-account-signing-key-file={keys / 'accounts.key'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--service-cluster-ip-range={layout.service_range}",
            "--kubelet-preferred-address-types=InternalIP",
            "--runtime-config=scheduling.k8s.io/v1beta1=true",
            f"--feature-gates={FEATURE_GATES}",
            f"--audit-policy-file={layout.folder / 'audit.yaml'}",
            f"--audit-log-path={self.audit_log}",
        ]

    def _controller_manager_flags(self) -> list[str | Path]:
        return [
            *self._client_flags("controller-manager"),
            f"--service-account-private-key-file={self._keys / 'accounts.key'}",
            f"--root-ca-file={self._keys / 'ca.crt'}",
            "--use-service-account-credentials",
            "--controllers=*,-node-ipam-controller",
            f"--node-monitor-grace-period={NODE_GRACE}",
            f"--cert-dir={self._layout.folder / 'generated'}",
        ]

    def _scheduler_flags(self) -> list[str | Path]:
        return self._client_flags("scheduler")

    def _client_flags(self, name: str) -> list[str | Path]:
        """What controller manager and scheduler share; limits raised, for tests and benchmarks measure the operator."""
        kubeconfig = self._keys / f"{name}.kubeconfig"
        return [
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            f"--feature-gates={FEATURE_GATES}",
        ]


def _answers(url: str, authority: Path | None = None) -> bool:
    """Whether a GET answers 200."""
    context = ssl.create_default_context(cafile=str(authority)) if authority else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
