"""An outer step of one small parameter over real ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adts_trainer.communication.outer import OuterStep
from adts_trainer.communication.reducer import Reducer, Traffic
from adts_trainer.communication.wire import Wire
from adts_trainer.errors import DivergedError


def outer_step(wire: Wire, ends: list[list[float]], momentum: float = 0.0) -> tuple[Tensor, list[str], Traffic | None]:
    """Where a rank is after rounds of two inner steps from 0, of which the second ends at the rank's number of `ends`;
    what was raised; and the traffic."""
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    named = [("weight", parameter)]
    outer = OuterStep(named, Reducer(named, wire, 1.0, overlap=False), every=2, learning_rate=0.5, momentum=momentum)
    problems = []
    for step, end in enumerate(ends):
        for _ in range(2):
            outer.begin()
        with torch.no_grad():
            parameter.fill_(end[wire.rank])
        outer.collect()
        outer.exchange(2 * step + 1)
        try:
            outer.apply(2 * step + 1)
        except DivergedError as error:
            problems.append(str(error))
    return parameter.detach(), problems, outer.traffic
