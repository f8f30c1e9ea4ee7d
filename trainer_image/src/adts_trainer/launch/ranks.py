"""The processes of one round on this node: forked, read, told to stop, killed and reaped."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import select
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess

from adts_trainer.context import RankContext
from adts_trainer.launch.bootstrap import start_rank
from adts_trainer.launch.output import Lines

SINGLE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
NO_DRIVER = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""An import that asks whether there is a GPU must not start the CUDA driver, which does not survive a fork."""
CHUNK_BYTES = 65_536
FORKS = multiprocessing.get_context("forkserver")


def warm_up(preload: Sequence[str]) -> None:
    """Starts the fork server, which imports `preload` while the launcher goes on; ranks are forked from it in ms.

    It must stay single-threaded (a child forked after one operation on two threads hangs), hence the environment;
    ranks set their threads after the fork. Call it from the main thread: it lives as long as the caller's thread.
    """
    os.environ.update(dict.fromkeys(SINGLE_THREAD, "1") | NO_DRIVER)
    FORKS.set_forkserver_preload(["adts_trainer.launch.preload", "adts_trainer.launch.bootstrap", *preload])
    multiprocessing.forkserver.ensure_running()


@dataclass(frozen=True)
class Ended:
    """How one rank ended."""

    rank: int
    code: int
    """Exit code, or minus the signal."""
    killed: bool
    """Whether we killed it, so that its code says nothing."""
    tail: str
    """About the last kilobyte it wrote."""


class _Rank:
    """One forked process with its output."""

    def __init__(self, context: RankContext, target: str, config_path: str) -> None:
        self.number = context.rank
        self.lines = Lines(f"[rank {context.rank}] ")
        self.killed = False
        reader, writer = FORKS.Pipe(duplex=False)
        self.process: ForkServerProcess = FORKS.Process(
            target=start_rank, args=(target, context, config_path, writer), name=f"rank-{context.rank}"
        )
        try:
            self.process.start()
        finally:
            writer.close()
        self.output = os.dup(reader.fileno())
        reader.close()
        os.set_blocking(self.output, False)
        self.exit = _exit_descriptor(self.pid)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills the process with all its children; a young one may not have its own group yet."""
        self.killed = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.signal(signal.SIGKILL)

    def read(self) -> bytes | None:
        """What it wrote since; never blocks. None when nothing is there now, empty when nothing ever will be."""
        try:
            return os.read(self.output, CHUNK_BYTES)
        except BlockingIOError:
            return None


def _exit_descriptor(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None if it already has, or the kernel has no such."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


class Ranks:
    """The processes of one round. `on_line` gets their output, `on_end` each that was reaped."""

    def __init__(self, on_line: Callable[[bytes], None], on_end: Callable[[Ended], None]) -> None:
        self._on_line, self._on_end = on_line, on_end
        self._alive: dict[int, _Rank] = {}

    @property
    def pids(self) -> dict[int, int]:
        """PID by global rank, of those alive."""
        return {number: rank.pid for number, rank in self._alive.items()}

    async def start(self, contexts: Sequence[RankContext], target: str, config_path: str) -> None:
        """Forks one process per context, once the fork server is warm. Raises OSError or EOFError if it is gone."""
        multiprocessing.forkserver.ensure_running()  # here: it must not be a child of the thread below
        forked: list[_Rank] = []

        def fork() -> None:
            forked.extend(_Rank(context, target, config_path) for context in contexts)

        try:
            await asyncio.to_thread(fork)
        finally:
            # Watched only from here on: multiprocessing looks at its other children whenever it starts one.
            for rank in forked:
                self._watch(rank)

    def _watch(self, rank: _Rank) -> None:
        loop = asyncio.get_running_loop()
        self._alive[rank.number] = rank
        loop.add_reader(rank.output, self._read, rank)
        loop.add_reader(rank.process.sentinel, self._reap, rank)

    def _read(self, rank: _Rank) -> None:
        data = rank.read()
        if data == b"":
            asyncio.get_running_loop().remove_reader(rank.output)
        for line in rank.lines.feed(data or b""):
            self._on_line(line)

    def _reap(self, rank: _Rank) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(rank.process.sentinel)
        if rank.exit is not None:
            if not select.select([rank.exit], [], [], 0)[0]:  # only the fork server ended
                rank.kill()
                loop.add_reader(rank.exit, self._reap, rank)
                return
            loop.remove_reader(rank.exit)
            os.close(rank.exit)
        rank.process.join()
        code = rank.process.exitcode
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(rank.pid, signal.SIGKILL)  # its children: they may hold its device
        self._drain(rank)
        rank.process.close()
        del self._alive[rank.number]
        killed = rank.killed and code == -signal.SIGKILL
        self._on_end(Ended(rank.number, code if code is not None else 255, killed, rank.lines.tail))

    def _drain(self, rank: _Rank) -> None:
        asyncio.get_running_loop().remove_reader(rank.output)
        while data := rank.read():
            for line in rank.lines.feed(data):
                self._on_line(line)
        for line in rank.lines.close():
            self._on_line(line)
        os.close(rank.output)

    def terminate(self) -> None:
        """Asks every process to save and leave."""
        for rank in self._alive.values():
            rank.signal(signal.SIGTERM)

    def dump_stacks(self, numbers: Sequence[int]) -> None:
        """Asks processes to write their Python stacks; only those that listen may be asked, others would die."""
        for number in numbers:
            if number in self._alive:
                self._alive[number].signal(signal.SIGUSR1)

    def kill(self) -> None:
        """Kills every process; each is reaped through `on_end`."""
        for rank in self._alive.values():
            rank.kill()
