"""`compression: {method: auto}`: measures and does what `decisions` says, on all ranks at the same step.

Every replica group, tensor rank and pipeline stage of the job changes its compressor between the same two steps. Rank 0
decides, from numbers that all ranks have agreed on. A change flushes what the old compressor had left out into the next
gradient (see `Channel.replace`), so that nothing is lost by it.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence

import torch.distributed as dist

from adts_api.training import Compression
from adts_api.v1alpha1 import Spec
from adts_trainer.communication import methods
from adts_trainer.communication.bucket import Build, Policy
from adts_trainer.communication.bucket_layout import MEBIBYTE, Named, lay_out, local
from adts_trainer.communication.decisions import Decisions, Measured
from adts_trainer.communication.prediction import NONE, Exchange, Link, Load, best_bucket, candidates, exchange
from adts_trainer.communication.probe import measure_link, seconds_per_byte, slowest
from adts_trainer.communication.reducer import Traffic
from adts_trainer.communication.wire import Wire
from adts_trainer.distributed_setup import Coordinates, Processes

_SAMPLE_BYTES = 4 * MEBIBYTE
"""Of gradients, on which the cost of compression is measured."""
_SAMPLES, _SAMPLE_SECONDS = 3, 0.6
"""Rounds of it at most, and after how long none is begun any more."""


def without(compression: Compression) -> Compression:
    """What `auto` begins with: nothing is compressed."""
    return compression.model_copy(update={"method": NONE})


class Tuner:
    """One per rank; all of them are made, and asked, together. Making it measures links and compressors."""

    def __init__(
        self, spec: Spec, parameters: Sequence[Named], policy: Policy, wire: Wire, processes: Processes
    ) -> None:
        begin = time.perf_counter()
        self._candidates = candidates(spec.compression)
        self._builds: dict[str, Build] = {
            name: functools.partial(methods.build, it, seed=spec.training.seed) for name, it in self._candidates.items()
        }
        self._parameters = [(name, it) for name, it in parameters if it.requires_grad][::-1]
        self._policy, self._wire, self._processes = policy, wire, processes
        given = spec.communication.bucket_megabytes
        self._lossy_bytes = sum(
            local(it.detach()).nbytes for name, it in self._parameters if policy.applies_to(name, it)
        )
        self._costs = self._measure_costs(min(_SAMPLE_BYTES, int(given * MEBIBYTE)))
        link = measure_link(wire, processes.device)
        predicted = self._predict(link, [given, given / 4, given * 4])
        self.bucket_megabytes = best_bucket(predicted, given, overlaps=spec.communication.overlap)
        """MiB, chosen once: other compressors use the same buckets."""
        self._decisions = Decisions({name: predicted[name, self.bucket_megabytes].seconds for name in self._candidates})
        self._phase = self._decisions.phase
        self._method = NONE
        self._counts = False
        self._seen: list[Measured] = []
        axes = ", ".join(f"{axis} {_told(processes, axis, it)}" for axis, it in self._other_links(link).items())
        self._say(f"{axes}; buckets of {self.bucket_megabytes:g} MiB; probed in {time.perf_counter() - begin:.1f} s")
        self._say_prediction()

    def before(self, step: int, last: Traffic) -> Build | None:
        """The compressor to change to before a step, None for no change; `last` is what the last step cost. All ranks
        call it before every step."""
        if self._counts:
            self._seen.append(Measured(last.step_seconds, last.exposed_seconds))
        self._counts = step >= self._policy.warmup_steps  # those before are exact, whatever is chosen
        if len(self._seen) == len(self._phase.methods):
            self._conclude(step)
        method = self._phase.methods[len(self._seen)]
        if method == self._method:
            return None
        self._method = method
        return self._builds[method]

    def _conclude(self, step: int) -> None:
        numbers = iter(slowest([number for it in self._seen for number in (it.step_seconds, it.exposed_seconds)]))
        agreed, self._seen = [Measured(*pair) for pair in zip(numbers, numbers, strict=True)], []
        decided = [self._decisions.conclude(agreed) if self._processes.is_lead else None]
        dist.broadcast_object_list(decided, src=0)
        assert decided[0] is not None
        self._phase = decided[0]
        if self._phase.said:
            self._say(f"from step {step + 1}: {self._phase.said}")
        if self._phase.probes:
            predicted = self._predict(measure_link(self._wire, self._processes.device), [self.bucket_megabytes])
            self._decisions.predicted = {name: it.seconds for (name, _), it in predicted.items()}
            self._say_prediction()

    def _predict(self, link: Link, sizes: Sequence[float]) -> dict[tuple[str, float], Exchange]:
        """Per step on the slowest rank, by method and size of bucket in MiB."""
        found = {}
        for size in sizes:
            buckets = lay_out(self._parameters, int(size * MEBIBYTE), self._policy.applies_to)
            loads = [Load(tuple(tuple(row.shape) for row in rows), is_lossy) for rows, is_lossy in buckets]
            for name, method in self._candidates.items():
                cost, itemsize = self._costs[name], self._parameters[0][1].dtype.itemsize
                found[name, size] = exchange(method, loads, self._wire.size, itemsize, link, cost)
        agreed = iter(slowest([number for it in found.values() for number in (it.seconds, it.longest)]))
        return {key: Exchange(*pair) for key, pair in zip(found, zip(agreed, agreed, strict=True), strict=True)}

    def _measure_costs(self, limit: int) -> dict[str, float]:
        """Seconds of compression per byte, by method, on this rank. Without compression there is none."""
        lossy = [rows for rows, is_lossy in lay_out(self._parameters, limit, self._policy.applies_to) if is_lossy]
        if not lossy:
            return dict.fromkeys(self._candidates, 0.0)
        rows = max(lossy, key=lambda it: sum(row.entries for row in it))
        like, pieces = local(rows[0].parameter.detach()), [row.piece for row in rows]
        begin, found = time.perf_counter(), dict.fromkeys(self._builds, math.inf)
        found[NONE] = 0.0
        for _ in range(_SAMPLES):  # of all methods in turn: other work of the machine must not hit one of them alone
            for name, build in self._builds.items():
                found[name] = min(found[name], seconds_per_byte(build, pieces, self._wire.size, like))
            if time.perf_counter() - begin > _SAMPLE_SECONDS:
                break
        return found

    def _other_links(self, between_replicas: Link) -> dict[str, Link]:
        """By axis of the mesh; the replicas' first."""
        links = {"dp_replicate": between_replicas}
        for axis in Coordinates._fields:
            if axis not in links and getattr(self._processes.layout, axis) > 1:
                links[axis] = measure_link(Wire(self._processes.group(axis)), self._processes.device)
        return links

    def _say_prediction(self) -> None:
        predicted = self._decisions.predicted
        ranked = sorted(predicted, key=lambda it: predicted[it])
        told = ", ".join(f"{it} {predicted[it]:.3g} ({self._costs[it] * self._lossy_bytes:.2g})" for it in ranked)
        self._say(f"predicted seconds to exchange a step's gradients, hidden or not (of them compressing): {told}")

    def _say(self, line: str) -> None:
        if self._processes.is_lead:
            print(f"compression auto: {line}", flush=True)


def _told(processes: Processes, axis: str, link: Link) -> str:
    ranks = getattr(processes.layout, axis)
    return f"{ranks} ranks, {link.bytes_per_second / 1e6:.3g} MB/s, {link.latency_seconds * 1e3:.2g} ms"
