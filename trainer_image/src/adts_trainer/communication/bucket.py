"""One bucket of gradients: taken from the parameters, summed exactly or with loss, put back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adts_trainer.communication.bucket_layout import Rows, local
from adts_trainer.communication.channel import Channel
from adts_trainer.communication.compressor import Compressor, Piece
from adts_trainer.communication.exact import Exact
from adts_trainer.communication.two_stage import owned
from adts_trainer.communication.wire import Wire

Build = Callable[[Wire, Sequence[Piece]], Compressor]


@dataclass(frozen=True)
class Policy:
    """What is compressed, how, and from when on."""

    build: Build
    exact: frozenset[str]
    """Names of parameters that must stay exact."""
    min_elements: int
    """Parameters with fewer entries on this rank stay exact, and so do vectors: norms and biases."""
    warmup_steps: int
    """Optimizer steps before the first lossy one."""
    error_feedback: bool

    def applies_to(self, name: str, parameter: nn.Parameter) -> bool:
        own = local(parameter.detach())
        return name not in self.exact and parameter.ndim >= 2 and own.numel() >= self.min_elements


class Bucket:
    """Gradients that travel together."""

    def __init__(self, rows: list[Rows], wire: Wire, policy: Policy | None, *, is_lossy: bool) -> None:
        self.rows, self.wire = rows, wire
        self.missing = 0
        self.is_lossy = is_lossy
        self.done: Future[None] | None = None
        self.channel: Channel | None = None
        self.momentum: Callable[[nn.Parameter], Tensor | None] = lambda _: None
        """What this rank holds of a momentum that gradients become part of before they travel."""
        self.beta = 0.0
        """Factor of that momentum."""
        pieces = [it.piece for it in rows]
        self.exact = Exact(wire, pieces)
        self.lossy = policy.build(wire, pieces) if policy is not None and is_lossy else None
        if policy is not None:
            self.channel = Channel(self.exact, error_feedback=policy.error_feedback)

    @property
    def nbytes(self) -> int:
        return sum(it.entries * it.parameter.dtype.itemsize for it in self.rows)

    @torch.no_grad()
    def reduce(self, step: int, unit: Callable[[], float]) -> None:
        """Sum what is there. Residuals are in the unit of the true gradient, whatever the loss is scaled by. Where
        there is a momentum, the sum is the new one (see OneBitAdam)."""
        present = [it for it in self.rows if it.parameter.grad is not None]  # the others have none on any rank
        if not present:
            return
        flat = torch.cat([_taken(it) for it in self.rows])
        momenta = [self.momentum(it.parameter) for it in self.rows]
        if self.channel is None or (self._is_plain(self.channel) and momenta[0] is None):
            self.wire.all_reduce(flat)
        else:
            true = unit()
            vector = flat.mul_(true)
            if momenta[0] is not None:
                own = [it.of(m).reshape(-1) for it, m in zip(self.rows, momenta, strict=True) if m is not None]
                vector.mul_(1 - self.beta).add_(torch.cat(own), alpha=self.beta / self.wire.size)
            flat = self.channel.reduce(vector, step).div_(true)
        for it, total in zip(self.rows, flat.split([it.entries for it in self.rows]), strict=True):
            if it.parameter.grad is not None:
                it.of(local(it.parameter.grad)).copy_(total.view(it.shape))

    def use(self, *, lossy: bool) -> None:
        """Choose between the two ways for the next step."""
        if self.channel is not None:
            self.channel.replace(self.lossy_or_exact if lossy else self.exact)

    def compress_with(self, build: Build) -> None:
        """Let another compressor do what is lossy, from the next `use` on. What the last one has left out comes with
        the next gradient."""
        if self.is_lossy:
            self.lossy = build(self.wire, self.exact.pieces)

    def _is_plain(self, channel: Channel) -> bool:
        """Whether a sum is just that: no unit to wait for, nothing to look at, nothing to bring along."""
        has_residual = channel.residual is not None or channel.owner_residual is not None
        return isinstance(channel.compressor, Exact) and not has_residual

    @property
    def lossy_or_exact(self) -> Compressor:
        return self.lossy if self.lossy is not None else self.exact

    def place(self, flat: Tensor, into: dict[str, Tensor]) -> None:
        """Put a vector of the bucket where its rows are in tensors by name."""
        for it, part in zip(self.rows, flat.split([it.entries for it in self.rows]), strict=True):
            it.of(into[it.name]).copy_(part.view(it.shape))

    def joined(self, tensors: dict[str, Tensor]) -> Tensor:
        """The rows of tensors by name as a vector of the bucket: the reverse of `place`."""
        return torch.cat([it.of(tensors[it.name]).reshape(-1) for it in self.rows])

    def spread_out(self, part: Tensor | None) -> Tensor | None:
        """This owner's part of a vector of the bucket, with zeros around it."""
        if part is None:
            return None
        size = sum(it.entries for it in self.rows)
        own, flat = owned(size, self.wire), part.new_zeros(size)
        flat[own] = part[: own.stop - own.start]
        return flat

    def restore(self, residual: Tensor, owned_by_all: Tensor) -> None:
        """Go on from a residual of this rank, and from what all owners left out, of which this one takes its part."""
        assert self.channel is not None
        self.channel.residual, self.channel.owner_residual = residual, None
        own = owned(residual.numel(), self.wire)
        if self.lossy_or_exact.has_owners:
            part = residual.new_zeros(-(-residual.numel() // self.wire.size))
            part[: own.stop - own.start] = owned_by_all[own]
            self.channel.replace(self.lossy_or_exact)
            self.channel.owner_residual = part
        else:
            self.channel.residual[own] += owned_by_all[own]


def _taken(rows: Rows) -> Tensor:
    gradient = rows.parameter.grad
    if gradient is None:
        return torch.zeros(rows.entries, dtype=rows.parameter.dtype, device=rows.parameter.device)
    return rows.of(local(gradient)).reshape(-1)
