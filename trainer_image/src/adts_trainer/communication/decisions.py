"""What `compression: {method: auto}` does with what was predicted and measured. No torch, no clock: data in, data out.

A prediction knows nothing of what the backward pass hides, nor of how compression and training share a machine, so it
only chooses what is tried. The trial decides, and `none` is always part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from adts_trainer.communication.prediction import MILDEST_FIRST, NONE

BASELINE_STEPS = 5
"""Uncompressed steps before anything is judged."""
SETTLING_STEPS = 1
"""First steps with a method that do not count: memory is new, and the residual of the last one is flushed."""
MEASURED_STEPS = 3
"""Steps of each method in each round of a trial."""
ROUNDS = 2
"""Rounds of a trial, so that what changes meanwhile hits all methods. One must beat `none` in each: on a busy machine
the median of one round says little."""
MARGIN = 0.03
"""A method that loses more must make the median step faster by this part; waits below this part of a step are let be.
It is about the noise of six steps."""
CHECK_STEPS = 50
"""Steps between two looks at what the chosen method costs."""
RETRY_STEPS = 500
"""Steps from one trial to the next, at least; twice as many after each that changed nothing."""
CLOSE = 0.2
"""Two predictions that differ by less than this part of what is waited for are both tried."""
DISAGREEMENT = 0.5
"""Part by which the exposed seconds of a window may differ from those of the trial."""


@dataclass(frozen=True)
class Measured:
    """One step, as its slowest rank saw it."""

    step_seconds: float
    exposed_seconds: float
    """Of these, what was waited for gradients to be exchanged."""


@dataclass(frozen=True)
class Phase:
    """The next steps."""

    kind: Literal["baseline", "trial", "kept"]
    methods: tuple[str, ...]
    """Of each step."""
    probes: bool = False
    """Whether the link is to be measured before."""
    said: str = ""
    """Why, for the log; empty where nothing changes."""


BASELINE = Phase("baseline", (NONE,) * BASELINE_STEPS)


class Decisions:
    """Phase after phase: `conclude` each with what was measured in it."""

    def __init__(self, predicted: Mapping[str, float]) -> None:
        """`predicted`: seconds of exchange per step by method, `none` among them."""
        self.predicted = predicted
        self.phase = BASELINE
        self._expected = 0.0
        """Exposed seconds of a step with the method that is kept."""
        self._kept = ""
        self._steps_since_trial, self._retry_after = 0, RETRY_STEPS

    def conclude(self, measured: Sequence[Measured]) -> Phase:
        """The phase after this one, for one measurement per step of it."""
        match self.phase.kind:
            case "baseline":
                self.phase = self._after_baseline(measured[SETTLING_STEPS:])
            case "trial":
                self.phase = self._after_trial(measured)
            case "kept":
                self.phase = self._after_check(measured)
        return self.phase

    def _after_baseline(self, measured: Sequence[Measured]) -> Phase:
        step, exposed = _medians(measured)
        rivals = shortlist(self.predicted, exposed)
        if exposed <= MARGIN * step:
            return self._keep(NONE, exposed, f"none: gradients cost {exposed:.3g} s of a step of {step:.3g} s")
        if not rivals:
            return self._keep(NONE, exposed, "none: no method is predicted to exchange gradients faster")
        tried = " and ".join(rivals)
        said = f"a step without takes {step:.3g} s and waits {exposed:.3g} s of them for gradients; now trying {tried}"
        return Phase("trial", schedule((NONE, *rivals)), said=said)

    def _after_trial(self, measured: Sequence[Measured]) -> Phase:
        counted: dict[str, list[Measured]] = {}
        block = SETTLING_STEPS + MEASURED_STEPS
        for number, (method, it) in enumerate(zip(self.phase.methods, measured, strict=True)):
            if number % block >= SETTLING_STEPS:
                counted.setdefault(method, []).append(it)
        rounds = {method: [_medians(it)[0] for it in _rounds(its)] for method, its in counted.items()}
        won = {it for it in rounds if all(mine < none for mine, none in zip(rounds[it], rounds[NONE], strict=True))}
        found = {method: _medians(its) for method, its in counted.items()}
        method = choose({method: step for method, (step, _) in found.items() if method in won | {NONE}})
        table = ", ".join(f"{step:.3g} s with {name}" for name, (step, _) in found.items())
        return self._keep(method, found[method][1], f"{method}: the median step took {table}")

    def _after_check(self, measured: Sequence[Measured]) -> Phase:
        step, exposed = _medians(measured)
        self._steps_since_trial += len(measured)
        gap = abs(exposed - self._expected)
        has_changed = gap > DISAGREEMENT * self._expected and gap > MARGIN * step
        if not has_changed or self._steps_since_trial < self._retry_after:
            return Phase("kept", self.phase.methods)
        said = f"steps wait {exposed:.3g} s for gradients instead of {self._expected:.3g} s; measuring anew"
        return Phase("baseline", BASELINE.methods, probes=True, said=said)

    def _keep(self, method: str, exposed: float, said: str) -> Phase:
        self._retry_after = 2 * self._retry_after if method == self._kept else RETRY_STEPS
        self._kept, self._expected, self._steps_since_trial = method, exposed, 0
        return Phase("kept", (method,) * CHECK_STEPS, said=said)


def shortlist(predicted: Mapping[str, float], exposed: float) -> tuple[str, ...]:
    """At most two methods worth a trial, which exchange gradients faster than `none`: the mildest of those with about
    the least exposed seconds, and the one with the fastest exchange; if they are one, the next fastest if it is close.

    `exposed`: what a step without compression waited; the rest of its exchange was hidden, and so much of any other is.
    """
    hidden = max(0.0, predicted[NONE] - exposed)
    left = {it: max(0.0, predicted[it] - hidden) for it in _mildest(predicted) if predicted[it] < predicted[NONE]}
    if not left:
        return ()
    bound = min(left.values()) + MARGIN * exposed
    mildest = next(it for it in left if left[it] <= bound)
    fastest, *others = sorted(left, key=lambda it: predicted[it])
    if mildest != fastest:
        return mildest, fastest
    return (fastest, *(it for it in others[:1] if left[it] <= left[fastest] + CLOSE * exposed))


def schedule(methods: Sequence[str]) -> tuple[str, ...]:
    """The method of each step of a trial."""
    return tuple(it for it in methods for _ in range(SETTLING_STEPS + MEASURED_STEPS)) * ROUNDS


def choose(step_seconds: Mapping[str, float]) -> str:
    """The mildest of the methods that are about as fast as the fastest: never slower than `none`, which is the mildest
    of all."""
    bound = min(step_seconds.values()) * (1 + MARGIN)
    return next(it for it in _mildest(step_seconds) if step_seconds[it] <= bound)


def _rounds(measured: Sequence[Measured]) -> list[Sequence[Measured]]:
    """A method's steps that count, round by round."""
    return [measured[at : at + MEASURED_STEPS] for at in range(0, len(measured), MEASURED_STEPS)]


def _mildest(methods: Mapping[str, float]) -> list[str]:
    return sorted(methods, key=MILDEST_FIRST.index)


def _medians(measured: Sequence[Measured]) -> tuple[float, float]:
    """Of the seconds of a step, and of the exposed ones."""
    return median(it.step_seconds for it in measured), median(it.exposed_seconds for it in measured)
