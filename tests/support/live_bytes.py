"""Counts the bytes of live tensors while steps run: what a closed form of memory must predict.

Every storage that an operation reads or writes is counted once until it is freed, in whatever thread or extension it
was allocated. What a kernel allocates and frees inside itself is not seen, which is the same on every machine.
"""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from adts_trainer.context import RankContext
from adts_trainer.step import Step

FILE = "live-bytes-{rank}.json"


class LiveBytes(TorchDispatchMode):
    """Live bytes now and at most. A context manager."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self._watches: dict[int, Any] = {}
        self.now = self.peak = 0
        self.at_peak: list[int] = []
        self._resize: Callable[..., Any] = torch.UntypedStorage.resize_

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count(tree_flatten((args, kwargs, result))[0])
        return result

    def __enter__(self) -> Any:
        self.count(thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor))

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            done = self._resize(storage, size)
            self._note(storage)
            return done

        torch.UntypedStorage.resize_ = resize
        return super().__enter__()

    def __exit__(self, *reason: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize
        super().__exit__(*reason)

    def reset(self) -> None:
        """Forget the peak so far."""
        self.peak = self.now

    def count(self, things: Any) -> None:
        """Take in the storages of tensors."""
        for thing in things:
            if type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.device.type == "cpu":
                self._note(thing.untyped_storage())
        if self.now > self.peak:
            self.peak, self.at_peak = self.now, sorted(self._sizes.values(), reverse=True)[:400]

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._watches:
            self._watches[key] = weakref.ref(storage, lambda _: self._forget(key))
        size = storage.nbytes()
        self.now += size - self._sizes.get(key, 0)
        self._sizes[key] = size

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)
        self._watches.pop(key, None)


def watch_steps(context: RankContext) -> None:
    """In a rank: count through every step but the first, in which optimizer and engine allocate, and write the peak."""
    original, tracker = Step.run, LiveBytes()

    def run(self: Step, state: Any, **options: Any) -> Any:
        step = state.step
        with tracker:
            if step == 1:
                gc.collect()
                tracker.reset()
            result = original(self, state, **options)
        report = {"peak": tracker.peak, "after": tracker.now, "at_peak": tracker.at_peak}
        Path(context.run_dir / FILE.format(rank=context.rank)).write_text(json.dumps(report))
        return result

    Step.run = run  # type: ignore[method-assign]
