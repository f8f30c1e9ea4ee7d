"""1-bit Adam: after a warm-up only momenta travel. They bear compression, since nothing divides by their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from adts_trainer.communication.bucket_layout import local


class OneBitAdam(AdamW):
    """Tang et al., 1-bit Adam: Communication Efficient Large-Scale Training with Adam's Convergence Speed (2102.02888,
    algorithm 1), with AdamW's decoupled weight decay (1711.05101).

    For `warmup` updates it is AdamW. Then the second moment v stays as it is, and what comes in the place of a gradient
    is the new momentum, the sum over the W replicas of what each contributes:

        m' = Σ_i [(1 - β1) g_i + β1 m / W]        x' = x - lr m' / (sqrt(v) + ε)

    with the bias corrections of AdamW, that of v as it was when v was frozen.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], warmup: int, **options: Any) -> None:
        super().__init__(groups, **options)
        self.warmup = warmup

    def momentum(self, parameter: nn.Parameter) -> Tensor | None:
        """What this rank holds of m, where the next update takes a new one in the place of a gradient; None before."""
        state = self.state.get(parameter, {})
        is_frozen = bool(state) and int(state["step"].item()) >= self.warmup
        return local(state["exp_avg"]) if is_frozen else None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update. There is no closure."""
        frozen = [
            (group, it)
            for group in self.param_groups
            for it in group["params"]
            if it.grad is not None and self.momentum(it) is not None
        ]
        if not frozen:
            super().step()
            return
        for group, parameter in frozen:
            self._update(group, parameter)

    def _update(self, group: dict[str, Any], parameter: nn.Parameter) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        assert parameter.grad is not None
        state["step"] += 1
        momentum, weights = local(state["exp_avg"]), local(parameter.detach())
        momentum.copy_(local(parameter.grad))
        root = local(state["exp_avg_sq"]).div(1 - beta2**self.warmup).sqrt_().add_(group["eps"])
        weights.mul_(1 - group["lr"] * group["weight_decay"])
        weights.addcdiv_(momentum, root, value=-group["lr"] / (1 - beta1 ** state["step"].item()))
