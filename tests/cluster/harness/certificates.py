"""Keys, certificates, tokens and kubeconfigs of one cluster. They live as long as the cluster, in its folder."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable
from pathlib import Path

import yaml

from cluster.harness.layout import Layout
from cluster.harness.process import run

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
VALID_DAYS = "30"

COMPONENTS = {
    "controller-manager": "system:kube-controller-manager",
    "scheduler": "system:kube-scheduler",
    "proxy": "system:kube-proxy",
}
"""Kubeconfig -> user name that Kubernetes's own RBAC rules know."""
MASTERS = {"admin": "admin", "dns": "dns", "kwok": "kwok"}


def make(layout: Layout, nodes: Iterable[int]) -> Path:
    """Writes all of it; returns the folder."""
    folder = layout.folder / "keys"
    folder.mkdir(parents=True)
    _make_authority(folder)
    _make_server_certificate(layout, folder)
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / "accounts.key")
    run("openssl", "ec", "-in", folder / "accounts.key", "-pubout", "-out", folder / "accounts.pub")
    users = {name: (user, "") for name, user in COMPONENTS.items()}
    users |= {name: (user, "system:masters") for name, user in MASTERS.items()}
    users |= {f"n{number}": (f"system:node:n{number}", "system:nodes") for number in nodes}
    lines = []
    for name, (user, group) in users.items():
        token = secrets.token_hex(16)
        lines.append(f"{token},{user},{name},{group}\n")
        _write_kubeconfig(layout, folder, name, token)
    (folder / "tokens.csv").write_text("".join(lines))
    layout.kubeconfig.write_text((folder / "admin.kubeconfig").read_text())
    return folder


def _make_authority(folder: Path) -> None:
    files = ["-keyout", folder / "ca.key", "-out", folder / "ca.crt"]
    run("openssl", "req", "-x509", *CURVE, *files, "-days", VALID_DAYS, "-subj", "/CN=adts-test-ca")


def _make_server_certificate(layout: Layout, folder: Path) -> None:
    """The API server's certificate names every way to it: bridge, loopback, its Service."""
    addresses = [layout.control_plane_address, "127.0.0.1", layout.api_service_address]
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
    alternatives = [f"IP:{address}" for address in addresses] + [f"DNS:{name}" for name in names]
    (folder / "extensions").write_text(f"subjectAltName={','.join(alternatives)}\n")
    request = ["-keyout", folder / "server.key", "-out", folder / "server.csr", "-subj", "/CN=kube-apiserver"]
    run("openssl", "req", *CURVE, *request)
    authority = ["-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-CAcreateserial"]
    out = ["-out", folder / "server.crt", "-days", VALID_DAYS, "-extfile", folder / "extensions"]
    run("openssl", "x509", "-req", "-in", folder / "server.csr", *authority, *out)


def _write_kubeconfig(layout: Layout, folder: Path, name: str, token: str) -> None:
    """A kubeconfig that stands for itself: the CA's certificate is in it, not beside it."""
    authority = base64.b64encode((folder / "ca.crt").read_bytes()).decode()
    cluster = {"server": layout.api_server, "certificate-authority-data": authority}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": layout.prefix, "cluster": cluster}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": layout.prefix, "context": {"cluster": layout.prefix, "user": name}}],
        "current-context": layout.prefix,
    }
    path = folder / f"{name}.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
