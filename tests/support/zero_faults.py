"""DeepSpeed as one would use it who does not know its traps: each function undoes one precaution in a rank."""

from __future__ import annotations

import os
from typing import Any

from adts_trainer.context import RankContext
from adts_trainer.parallel import zero


def unmarked_cuts(context: RankContext) -> None:
    """No parameter is marked as one that tensor parallelism cut."""
    from deepspeed.runtime.zero import stage3, stage_1_and_2

    for module in (stage_1_and_2, stage3):
        module.is_model_parallel_parameter = lambda parameter: False


def default_clipping(context: RankContext) -> None:
    """`gradient_clipping` is left out of the configuration."""
    original = zero.zero_config

    def without(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {key: value for key, value in original(*args, **kwargs).items() if key != "gradient_clipping"}

    zero.zero_config = without


def averaged_loss(context: RankContext) -> None:
    """The loss is not multiplied by what DeepSpeed divides gradients by."""
    original = zero.ZeroModel._backward

    def backward(self: zero.ZeroModel, loss: Any, factor: float) -> None:
        original(self, loss, factor / self._processes.data_ranks)

    zero.ZeroModel._backward = backward  # type: ignore[method-assign]


def killed_while_compiling(context: RankContext) -> None:
    """A process was killed while it compiled DeepSpeed's collectives in shared memory, and left its lock."""
    folder = context.run_dir / "extensions"
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    (folder / "deepspeed_shm_comm").mkdir(parents=True, exist_ok=True)
    (folder / "deepspeed_shm_comm" / "lock").touch()
