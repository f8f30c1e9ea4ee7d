"""What may change in the spec of a job that exists: CEL rules of the CRD, and the table of `docs/manifest.md`.

Before the first attempt a spec that was refused can be corrected, so the rules read the status and stand at the root.
"""

from __future__ import annotations

from adts_api.fields import block_of, walk
from adts_api.v1alpha1 import Spec

NEVER = ("runPolicy.managedBy",)
"""Fields that stay as they were made: two controllers must not hold one job in turn."""

ONCE_BEGUN = (
    "command",
    "model",
    "data.type",
    "data.sequenceLength",
    "data.shuffle",
    "optimizer.name",
    "training.seed",
    "training.globalBatchSize",
)
"""Fields that a checkpoint and the order of the samples depend on: fixed from the first attempt on."""

ANY_TIME = (
    "runPolicy.suspend",
    "runPolicy.backoffLimit",
    "runPolicy.activeDeadlineSeconds",
    "runPolicy.startDeadlineSeconds",
    "runPolicy.ttlSecondsAfterFinished",
    "runPolicy.cleanPodPolicy",
    "runPolicy.permanentExitCodes",
)
"""Fields that only the operator reads. No pod is made of them."""

UNBORN = "!has(oldSelf.status) || !has(oldSelf.status.attempt) || oldSelf.status.attempt == 0"
SUSPENDED = "(has(oldSelf.status.phase) && oldSelf.status.phase == 'Suspended')"


def while_suspended() -> tuple[str, ...]:
    """Fields and whole blocks that may change only while no pod is there: a new attempt reads them anew.

    A checkpoint of one layout, precision or schedule loads into any other.
    """
    elsewhere = (*NEVER, *ONCE_BEGUN, *ANY_TIME)
    split = {path.partition(".")[0] for path in (*NEVER, *ANY_TIME)}
    paths = []
    for field in walk(Spec):
        block, _, rest = field.path.partition(".")
        is_whole = not rest and block not in split
        is_part = bool(rest) and block in split and block_of(field.info) is None
        if field.path not in elsewhere and (is_whole or is_part):
            paths.append(field.path)
    return tuple(paths)


def rules() -> list[dict[str, str]]:
    """The CEL rules."""
    fixed = [_rule(path, "", "cannot change; create another job") for path in NEVER]
    begun = [_rule(path, UNBORN, "cannot change once the job has begun; create another job") for path in ONCE_BEGUN]
    still = "cannot change while the job runs; set spec.runPolicy.suspend first and wait for the phase Suspended"
    return fixed + begun + [_rule(path, f"{UNBORN} || {SUSPENDED}", still) for path in while_suspended()]


def _rule(path: str, unless: str, message: str) -> dict[str, str]:
    """A field, or a whole block, that stays as it is. Defaults stand before rules are judged, so it is there."""
    rule = f"self.spec.{path} == oldSelf.spec.{path}"
    return {"rule": f"{unless} || {rule}" if unless else rule, "message": message, "fieldPath": f".spec.{path}"}
