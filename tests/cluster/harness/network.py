"""The cluster's network: a bridge in the control plane's namespace, with a veth leg for every node and for the host."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cluster.harness.layout import Layout
from cluster.harness.process import run

NAMESPACES = Path("/run/netns")
BRIDGE = "br0"
BURST, LATENCY = "256k", "50ms"


def ip(*arguments: str, namespace: str | None = None) -> str:
    """The ip command, in a namespace if one is named."""
    return run("ip", *(["-n", namespace] if namespace else []), *arguments)


def namespace_files(layout: Layout) -> list[Path]:
    """What `ip netns` makes for every network namespace; here of those with the cluster's prefix."""
    return sorted(NAMESPACES.glob(f"{layout.prefix}-*"))


def leg(node_namespace: str) -> str:
    """The control plane's end of a node's veth pair; taking it down is pulling the node's cable."""
    return f"to-{node_namespace.rpartition('-')[2]}"


def set_up(layout: Layout, nodes: Iterable[int]) -> None:
    """Makes namespaces, bridge, legs and routes; pod networks are routed by hand, without an overlay."""
    numbers = list(nodes)
    control_plane = layout.control_plane_namespace
    _make_namespace(control_plane)
    ip("link", "add", BRIDGE, "type", "bridge", namespace=control_plane)
    ip("address", "add", f"{layout.control_plane_address}/24", "dev", BRIDGE, namespace=control_plane)
    ip("link", "set", BRIDGE, "up", namespace=control_plane)
    for number in numbers:
        _make_node(layout, number)
        ip("route", "add", layout.node_pod_range(number), "via", layout.node_address(number), namespace=control_plane)
        for other in numbers:
            if other != number:
                via = layout.node_address(other)
                ip("route", "add", layout.node_pod_range(other), "via", via, namespace=layout.node_namespace(number))
    _make_host_leg(layout)


def shape(layout: Layout, number: int, rate: str | None) -> None:
    """Limits what a node sends, as tc writes rates ("200mbit"); None lifts the limit."""
    namespace = layout.node_namespace(number)
    tc = ["tc", "-n", namespace, "qdisc"]
    if rate is None:
        run(*tc, "del", "dev", "eth0", "root", check=False)
    else:
        run(*tc, "replace", "dev", "eth0", "root", "tbf", "rate", rate, "burst", BURST, "latency", LATENCY)


def set_link(layout: Layout, number: int, state: str) -> None:
    """Takes a node's cable "down" or "up". The node keeps its addresses and routes, as with a real cable."""
    ip("link", "set", leg(layout.node_namespace(number)), state, namespace=layout.control_plane_namespace)


def tear_down(layout: Layout) -> None:
    """Removes what `set_up` made, as far as it came, and any further namespace with the cluster's prefix."""
    run("ip", "link", "delete", layout.host_link, check=False)
    for file in namespace_files(layout):
        run("ip", "netns", "delete", file.name, check=False)


def _make_namespace(name: str) -> None:
    ip("netns", "add", name)
    ip("link", "set", "lo", "up", namespace=name)
    run("nsenter", f"--net={NAMESPACES / name}", "sysctl", "-qw", "net.ipv4.ip_forward=1")


def _make_node(layout: Layout, number: int) -> None:
    namespace = layout.node_namespace(number)
    control_plane = layout.control_plane_namespace
    _make_namespace(namespace)
    peer = ["peer", "name", "eth0", "netns", namespace]
    ip("link", "add", leg(namespace), "type", "veth", *peer, namespace=control_plane)
    ip("link", "set", leg(namespace), "master", BRIDGE, "up", namespace=control_plane)
    ip("address", "add", f"{layout.node_address(number)}/24", "dev", "eth0", namespace=namespace)
    ip("link", "set", "eth0", "up", namespace=namespace)
    ip("route", "add", "default", "via", layout.control_plane_address, namespace=namespace)


def _make_host_leg(layout: Layout) -> None:
    """Tests, kubectl and an operator started by hand run in the host's namespace: API server and pods in reach."""
    control_plane = layout.control_plane_namespace
    peer = ["peer", "name", layout.host_link, "netns", str(os.getpid())]
    ip("link", "add", "to-host", "type", "veth", *peer, namespace=control_plane)
    ip("link", "set", "to-host", "master", BRIDGE, "up", namespace=control_plane)
    ip("address", "add", f"{layout.host_address}/24", "dev", layout.host_link)
    ip("link", "set", layout.host_link, "up")
    ip("route", "add", layout.pod_range, "via", layout.control_plane_address)
