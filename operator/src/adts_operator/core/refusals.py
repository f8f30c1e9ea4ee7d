"""What an answer of the API server to a creation means: the spec must change, it may pass later, or it is no refusal.

| Answer | Reason | What follows |
| --- | --- | --- |
| 422 Invalid, 400 and 413: the object itself is wrong | InvalidPod | the spec must change |
| 403 violates PodSecurity, LimitRange, a quota that wants limits | PodRefused | the spec must change |
| 403 exceeded quota | QuotaExceeded | wait: others give room back |
| 403 of RBAC | OperatorForbidden | wait: whoever installed the operator may grant it |
| a webhook or a policy denied it, any other 403 | AdmissionDenied | wait: it may be changed any time, unseen by us |
| 404 of an API that is not served | GangUnavailable | wait: it may be installed |
| the namespace is gone or going, conflicts, all else | none | the request is repeated like any that failed |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from adts_api.contract import Reason
from adts_operator.core.observed import Refusal

TEMPLATE = "spec.workers.template"

_PERMANENT = re.compile(
    r"violates PodSecurity|(minimum|maximum) .+ usage per |max limit to request ratio per |failed quota: .*must specify"
)
_DENIED = re.compile(r"admission webhook .+ denied the request|denied request:")
_QUOTA = re.compile(r"exceeded quota: |status unknown for quota: ")
_RBAC = re.compile(r"User \".*\" cannot \w+ ")
_TERMINATING = "because it is being terminated"
_NOT_SERVED = "could not find the requested resource"
_NO_DRY_RUN = "does not support dry run"
_PREFIX = re.compile(r"^\S+ \"[^\"]*\" is (forbidden|invalid): ")
_NO_POD = re.compile(r"^Pod in version \S+ cannot be handled as a Pod: ")
_STRICT = re.compile(r'(unknown|duplicate) field "([^"]+)"')
_CONTAINER = re.compile(r"^spec\.(initContainers|containers)\[(\d+)\]")


def classify(
    status: int, reason: str, message: str, details: Mapping[str, Any], made: Mapping[str, Any] | None = None
) -> Refusal | None:
    """What the API server's refusal of an object means; None where it is no answer to the object.

    `status`, `reason`, `message` and `details` are those of its Status; `made` is the pod, which names containers.
    """
    said = _PREFIX.sub("", message)  # the same words for every pod of the gang
    if _DENIED.search(message):  # with any status the webhook chose, and in any words
        return Refusal(reason=Reason.ADMISSION_DENIED, message=said, is_permanent=False)
    if status == 403:
        return _forbidden(said)
    if status == 422:
        return Refusal(reason=Reason.INVALID_POD, message=_causes(details, made) or said, is_permanent=True)
    if status == 413 or (status == 400 and reason == "BadRequest" and _NO_DRY_RUN not in message):
        return Refusal(reason=Reason.INVALID_POD, message=_decoding(said, made), is_permanent=True)
    if status == 404 and _NOT_SERVED in message:
        return Refusal(reason=Reason.GANG_UNAVAILABLE, message=said, is_permanent=False)
    return None


def cannot_be_tried(message: str) -> bool:
    """Whether a dry run failed because a webhook knows none: that says nothing about the object."""
    return _NO_DRY_RUN in message


def _forbidden(said: str) -> Refusal | None:
    if _TERMINATING in said:
        return None
    if _PERMANENT.search(said):
        return Refusal(reason=Reason.POD_REFUSED, message=said, is_permanent=True)
    if _QUOTA.search(said):
        return Refusal(reason=Reason.QUOTA_EXCEEDED, message=said, is_permanent=False)
    if _RBAC.search(said):
        return Refusal(reason=Reason.OPERATOR_FORBIDDEN, message=said, is_permanent=False)
    return Refusal(reason=Reason.ADMISSION_DENIED, message=said, is_permanent=False)


def _causes(details: Mapping[str, Any], made: Mapping[str, Any] | None) -> str:
    """Every wrong field of a pod, one a line, by its path in the manifest."""
    if details.get("kind") != "Pod":
        return ""
    causes = [(cause.get("field") or "", cause.get("message") or "") for cause in details.get("causes") or []]
    return "\n".join(f"{_path(field, made)}: {message}" for field, message in causes if field)


def _decoding(said: str, made: Mapping[str, Any] | None) -> str:
    """Why an object could not even be read; of a pod by the paths in the manifest."""
    if not _NO_POD.match(said):
        return said
    fields = [f"{_path(field, made)}: {what} field" for what, field in _STRICT.findall(said)]
    return "\n".join(fields) or f"{TEMPLATE}: {_NO_POD.sub('', said)}"


def _path(field: str, made: Mapping[str, Any] | None) -> str:
    """The place of a pod's field in the manifest. Containers by name: the template lists fewer than the pod has."""
    found = _CONTAINER.match(field)
    if found and made:
        kind, index = found[1], int(found[2])
        containers = (made.get("spec") or {}).get(kind) or []
        name = containers[index].get("name", index) if index < len(containers) else index
        field = f"spec.{kind}[{name}]{field[found.end() :]}"
    return f"{TEMPLATE}.{field}"
