"""Real gloo ranks for tests of collectives: forked once, with groups of one, two and three of them, used many times."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from adts_api.topology import Topology
from adts_trainer.communication.wire import Wire
from adts_trainer.context import RankContext
from adts_trainer.distributed_setup import open_processes
from adts_trainer.launch.ranks import FORKS, warm_up
from adts_trainer.selfcheck.runner import PRELOAD, Place, free_port

WORLD = 3
_SECONDS = 60.0


class Pool:
    """The ranks, seen from the test."""

    def __init__(self, pipes: list[Connection]) -> None:
        self._pipes = pipes

    def run(self, world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `function(wire, *arguments)` returns on each of the first `world` ranks, over a group of just them. It
        must be importable there. What it raises fails the test."""
        request = pickle.dumps((world, function, arguments))
        for pipe in self._pipes[:world]:
            pipe.send_bytes(request)
        replies = []
        for rank, pipe in enumerate(self._pipes[:world]):
            assert pipe.poll(_SECONDS), f"rank {rank} hangs in {function.__name__}{arguments}"
            replies.append(pickle.loads(pipe.recv_bytes()))
        for rank, (_, problem) in enumerate(replies):
            assert not problem, f"rank {rank}: {problem}"
        return [result for result, _ in replies]


@contextmanager
def wire_pool(folder: Path) -> Iterator[Pool]:
    """A pool whose ranks end with the block."""
    warm_up(PRELOAD)
    place = Place(folder, free_port())
    pipes, processes = [], []
    for rank in range(WORLD):
        ours, theirs = FORKS.Pipe()
        processes.append(FORKS.Process(target=_serve, args=(place.context(rank, WORLD), theirs), daemon=True))
        pipes.append(ours)
        processes[-1].start()
        theirs.close()
    try:
        yield Pool(pipes)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.join(5)
            process.kill()
            process.join()


def _serve(context: RankContext, pipe: Connection) -> None:
    torch.set_num_threads(1)
    with open_processes(context, Topology(1, WORLD, 1, 1)):
        wires = {world: dist.new_group(range(world)) for world in range(1, WORLD + 1)}
        while True:
            try:
                world, function, arguments = pickle.loads(pipe.recv_bytes())
            except EOFError:
                return
            result, problem = None, ""
            try:
                result = function(Wire(wires[world]), *arguments)
            except Exception:  # noqa: BLE001  the test gets all of them
                problem = traceback.format_exc()
            pipe.send_bytes(pickle.dumps((result, problem)))
