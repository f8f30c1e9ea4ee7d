"""`adts logs --follow` while the API server goes away and comes back.

In a module of its own: a server that has just started refuses everybody for a moment, other operators as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from cluster.harness.cluster import Cluster
from support.cluster_cli import viewer
from support.cluster_jobs import PATIENCE, Jobs, script
from support.operator_access import SHELL_IMAGE, granted, new_namespace
from support.operator_process import OperatorProcess

LINES = 200
LINE_SECONDS = 0.1


def test_a_follower_outlives_the_api_server(
    own_cluster: Cluster, tmp_path: Path, measured: Callable[[str], None]
) -> None:
    code = f"for i in $(seq {LINES}); do echo line $i; sleep {LINE_SECONDS}; done"
    with (
        new_namespace(own_cluster, "cli") as namespace,
        granted(own_cluster, tmp_path, namespace, {"watchNamespaces": [namespace]}) as account,
    ):
        settings = {"WATCH_NAMESPACES": namespace, "NAMESPACE": namespace, "TRAINER_IMAGE": SHELL_IMAGE}
        operator = OperatorProcess(account.kubeconfig, tmp_path, **settings).start()
        try:
            Jobs(own_cluster.kubectl, namespace).apply(script("counts", namespace, code))
            following = viewer(own_cluster, namespace, tmp_path).start("logs", "counts", "--follow")
            following.wait_for_line("counts-0-1 line 5")
            begin = time.monotonic()
            own_cluster.restart_api_server()
            measured(f"API server away for {time.monotonic() - begin:.1f} s while `adts logs --follow` runs")
            ended, out, err = following.end(PATIENCE + LINES * LINE_SECONDS)
        finally:
            operator.stop()
    assert ended == 0, err
    for pod in ("counts-0-1", "counts-1-1"):
        seen = [line.removeprefix(f"{pod} ") for line in out.splitlines() if line.startswith(pod)]
        assert seen == [f"line {number}" for number in range(1, LINES + 1)], "no line lost, none twice"
