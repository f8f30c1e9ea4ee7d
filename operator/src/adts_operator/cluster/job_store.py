"""The jobs as last delivered: by kopf's stream, by a list, or by the answer to a write of ours. Only newer ones count,
so that a status that was written is never unread again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adts_api.contract import Reason
from adts_api.errors import ManifestError
from adts_api.structure import read_structure
from adts_api.v1alpha1 import DistributedTraining, Metadata, Status
from adts_api.validate import parse
from adts_operator.core.observed import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredJob:
    """One job."""

    job: DistributedTraining
    version: int
    """Its resourceVersion; newer is larger."""
    raw_status: Mapping[str, Any]
    """As the API server has it: what a patch is the difference to."""
    refusal: Refusal | None
    """Why its spec cannot be run, whatever the cluster says to it."""


class JobStore:
    """Jobs by `namespace/name`."""

    def __init__(self) -> None:
        self._jobs: dict[str, StoredJob] = {}

    def __iter__(self) -> Iterator[tuple[str, StoredJob]]:
        return iter(list(self._jobs.items()))

    def get(self, key: str) -> StoredJob | None:
        """The newest known state of a job."""
        return self._jobs.get(key)

    def put(self, raw: Mapping[str, Any]) -> bool:
        """Takes an object as the API server tells it; says whether it is news."""
        key, metadata = key_of(raw), raw["metadata"]
        known, version = self._jobs.get(key), int(metadata["resourceVersion"])
        if known is not None and known.version >= version:
            return False
        same_spec = (
            known is not None
            and known.job.metadata.uid == metadata["uid"]
            and known.job.metadata.generation == metadata["generation"]
        )
        if known is not None and same_spec:
            update = {"metadata": Metadata.model_validate(metadata), "status": _status(raw)}
            job, refusal = known.job.model_copy(update=update), known.refusal
        else:
            job, refusal = judge(raw)
        self._jobs[key] = StoredJob(job=job, version=version, raw_status=raw.get("status") or {}, refusal=refusal)
        return True

    def written(self, key: str, status: Status, answer: Mapping[str, Any]) -> None:
        """Takes the answer to a write of our status, without reading again what we know."""
        known, version = self._jobs.get(key), int(answer["metadata"]["resourceVersion"])
        if known is None or known.version >= version or known.job.metadata.uid != answer["metadata"]["uid"]:
            return
        if known.job.metadata.generation != answer["metadata"]["generation"]:
            self.put(answer)
            return
        metadata = known.job.metadata.model_copy(update={"resource_version": str(version)})
        self._jobs[key] = StoredJob(
            job=known.job.model_copy(update={"metadata": metadata, "status": status}),
            version=version,
            raw_status=answer.get("status") or {},
            refusal=known.refusal,
        )

    def remove(self, key: str, uid: str = "") -> bool:
        """Forgets a job, if it is still the one with this UID; says whether it did."""
        known = self._jobs.get(key)
        if known is None or (uid and known.job.metadata.uid != uid):
            return False
        del self._jobs[key]
        return True


def key_of(raw: Mapping[str, Any]) -> str:
    """`namespace/name`."""
    return f"{raw['metadata']['namespace']}/{raw['metadata']['name']}"


def judge(raw: Mapping[str, Any]) -> tuple[DistributedTraining, Refusal | None]:
    """The typed job, broken fields at their defaults, and what is wrong with its spec."""
    manifest = {key: raw[key] for key in ("apiVersion", "kind", "metadata", "spec") if key in raw}
    refusal = None
    try:
        job = parse(manifest)
    except ManifestError as error:
        job, _, _ = read_structure(manifest)
        refusal = Refusal(reason=Reason.INVALID_SPEC, message=str(error), is_permanent=True)
    observed = {"metadata": Metadata.model_validate(raw["metadata"]), "status": _status(raw)}
    return job.model_copy(update=observed), refusal


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7386) that makes `new` of `old`."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            if inner := merge_patch(before, value):
                patch[key] = inner
        elif key not in old or value != before:
            patch[key] = value
    return patch


def _status(raw: Mapping[str, Any]) -> Status:
    return Status.model_validate(raw.get("status") or {})
