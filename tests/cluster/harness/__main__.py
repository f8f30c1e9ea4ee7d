"""A cluster by hand: `python -m cluster.harness up`, and for a running one `load` and `down`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from cluster.harness import build_storage, machine, node_store, teardown, watchdog
from cluster.harness.build_storage import images_locked
from cluster.harness.claims import claim
from cluster.harness.cluster import Cluster
from cluster.harness.images import lower_contract_image, operator_image, trainer_image
from cluster.harness.layout import INDEXES, Layout
from cluster.harness.machine import MachineError
from cluster.harness.process import ClusterError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cluster.harness", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start a cluster that stays")
    up.add_argument("--index", type=int, choices=INDEXES, help="number of the cluster; default: the first free one")
    up.add_argument("--no-images", dest="images", action="store_false", help="without the project's images")
    down = commands.add_parser("down", help="remove every cluster of this machine, also what a crashed run left")
    down.add_argument("--index", type=int, choices=INDEXES, help="remove this one only")
    reload = commands.add_parser("load", help="bring the images of the present sources into a running cluster")
    reload.add_argument("--index", type=int, choices=INDEXES, default=0, help="number of the cluster; default: 0")
    commands.add_parser("build", help="build what a cluster needs and this machine does not have yet: takes minutes")
    watch = commands.add_parser("watch", help="(used by the harness) remove a cluster when its owner ends")
    watch.add_argument("index", type=int)
    arguments = parser.parse_args()
    try:
        if arguments.command == "up":
            start(arguments.index, arguments.images)
        elif arguments.command == "build":
            build()
        elif arguments.command == "load":
            load(arguments.index)
        elif arguments.command == "down":
            remove(INDEXES if arguments.index is None else [arguments.index])
        else:
            watchdog.watch(Layout(arguments.index))
    except (ClusterError, MachineError) as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # the watchdog removes what was begun
    return 0


def start(index: int | None, with_images: bool) -> None:
    machine.require()
    images = [operator_image(), trainer_image()] if with_images else []
    node_store.refresh(images)
    cluster = Cluster(claim(index))
    cluster.start()
    for image in images:
        cluster.load_image(image)
    watchdog.release(cluster.layout)
    print(f"{cluster.kubeconfig}\nexport KUBECONFIG={cluster.kubeconfig}")


def build() -> None:
    """Before several processes that would wait for each other's builds; nothing where no cluster can be."""
    if obstacle := machine.obstacle():
        machine.say(obstacle)
        return
    node_store.refresh([operator_image(), trainer_image()])
    lower_contract_image()


def load(index: int) -> None:
    """Pods that run keep the image they have; pods made later get the new one."""
    layout = Layout(index)
    if not layout.kubeconfig.exists():
        raise ClusterError(f"cluster {index} does not run; start it with `make cluster-up`")
    cluster = Cluster(layout)
    for image in (operator_image(), trainer_image()):
        cluster.load_image(image)


def remove(indexes: Iterable[int]) -> None:
    """Every number is tried, since a crashed run may have left things but no folder."""
    with images_locked():
        build_storage.release()
    for index in indexes:
        layout = Layout(index)
        if teardown.left(layout):
            teardown.tear_down(layout)
            machine.say(f"removed {layout.prefix}")


if __name__ == "__main__":
    sys.exit(main())
