"""What the API server's refusals mean, in the words of a real one."""

from __future__ import annotations

from typing import Any

import pytest

from adts_api.contract import Reason
from adts_operator.core.refusals import cannot_be_tried, classify

POD = {"kind": "Pod", "spec": {"containers": [{"name": "trainer"}, {"name": "sidecar"}]}}
NOT_A_POD = 'Pod in version "v1" cannot be handled as a Pod: '
TEMPLATE = "spec.workers.template"
NO_DRY_RUN = 'admission webhook "old.example.com" does not support dry run'

CASES: dict[str, tuple[int, str, str, dict[str, Any], Reason | None, bool, str]] = {
    "quota": (
        403,
        "Forbidden",
        'pods "a-3-1" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1',
        {},
        Reason.QUOTA_EXCEEDED,
        False,
        "exceeded quota: gpus, requested: requests.nvidia.com/gpu=1",
    ),
    "Pod Security": (
        403,
        "Forbidden",
        'pods "a-0-1" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
        {},
        Reason.POD_REFUSED,
        True,
        'violates PodSecurity "restricted:latest": runAsNonRoot != true',
    ),
    "limits": (
        403,
        "Forbidden",
        'pods "a-0-1" is forbidden: maximum cpu usage per Container is 500m, but limit is 2',
        {},
        Reason.POD_REFUSED,
        True,
        "maximum cpu usage per Container is 500m, but limit is 2",
    ),
    "RBAC": (
        403,
        "Forbidden",
        'pods is forbidden: User "system:serviceaccount:a:b" cannot create resource "pods" in API group ""',
        {},
        Reason.OPERATOR_FORBIDDEN,
        False,
        'pods is forbidden: User "system:serviceaccount:a:b" cannot create resource "pods" in API group ""',
    ),
    "priority class": (
        403,
        "Forbidden",
        'pods "a-0-1" is forbidden: no PriorityClass with name urgent was found',
        {},
        Reason.ADMISSION_DENIED,
        False,
        "no PriorityClass with name urgent was found",
    ),
    "webhook": (
        400,
        "BadRequest",
        'admission webhook "images.example.com" denied the request: not signed',
        {},
        Reason.ADMISSION_DENIED,
        False,
        'admission webhook "images.example.com" denied the request: not signed',
    ),
    "wrong fields": (
        422,
        "Invalid",
        'Pod "a-0-1" is invalid: ...',
        {
            "kind": "Pod",
            "causes": [
                {"field": "spec.containers[1].image", "message": "Required value"},
                {"field": "spec.nodeName", "message": "Invalid value"},
            ],
        },
        Reason.INVALID_POD,
        True,
        f"{TEMPLATE}.spec.containers[sidecar].image: Required value\n{TEMPLATE}.spec.nodeName: Invalid value",
    ),
    "unknown fields": (
        400,
        "BadRequest",
        NOT_A_POD
        + 'strict decoding error: unknown field "spec.containers[0].imagee", unknown field "spec.nodeSelektor"',
        {},
        Reason.INVALID_POD,
        True,
        f"{TEMPLATE}.spec.containers[trainer].imagee: unknown field\n{TEMPLATE}.spec.nodeSelektor: unknown field",
    ),
    "quantity": (
        400,
        "BadRequest",
        NOT_A_POD + "quantities must match the regular expression '^([+-]?[0-9.]+)$'",
        {},
        Reason.INVALID_POD,
        True,
        f"{TEMPLATE}: quantities must match the regular expression '^([+-]?[0-9.]+)$'",
    ),
    "a quota that wants limits": (
        403,
        "Forbidden",
        'pods "a-0-1" is forbidden: failed quota: q: must specify limits.cpu for: trainer',
        {},
        Reason.POD_REFUSED,
        True,
        "failed quota: q: must specify limits.cpu for: trainer",
    ),
    "ratio of limit and request": (
        403,
        "Forbidden",
        'pods "a-0-1" is forbidden: memory max limit to request ratio per Container is 2, but provided ratio is 4.0',
        {},
        Reason.POD_REFUSED,
        True,
        "memory max limit to request ratio per Container is 2, but provided ratio is 4.0",
    ),
    "a service account that is made a moment later": (
        403,
        "Forbidden",
        'pods "a-0-1" is forbidden: error looking up service account a/default: serviceaccount "default" not found',
        {},
        Reason.ADMISSION_DENIED,
        False,
        'error looking up service account a/default: serviceaccount "default" not found',
    ),
    "a webhook that speaks of quota": (
        403,
        "Forbidden",
        'admission webhook "w.example.com" denied the request: exceeded quota: mine',
        {},
        Reason.ADMISSION_DENIED,
        False,
        'admission webhook "w.example.com" denied the request: exceeded quota: mine',
    ),
    "a policy": (
        422,
        "Invalid",
        "Pod \"a-0-1\" is invalid: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: not on Sundays",
        {"kind": "Pod", "causes": [{"message": "denied request"}]},
        Reason.ADMISSION_DENIED,
        False,
        "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: not on Sundays",
    ),
    "another object": (
        422,
        "Invalid",
        'PodGroup.scheduling.k8s.io "a-1" is invalid: spec.minMember: too small',
        {"kind": "PodGroup", "causes": [{"field": "spec.minMember", "message": "too small"}]},
        Reason.INVALID_POD,
        True,
        "spec.minMember: too small",
    ),
    "too large": (413, "RequestEntityTooLarge", "limit is 3145728", {}, Reason.INVALID_POD, True, "limit is 3145728"),
    "an API that went away": (
        404,
        "NotFound",
        "the server could not find the requested resource",
        {},
        Reason.GANG_UNAVAILABLE,
        False,
        "the server could not find the requested resource",
    ),
    "a webhook that knows no dry run": (400, "BadRequest", NO_DRY_RUN, {}, None, False, ""),
    "a webhook that does not answer": (500, "InternalError", "failed calling webhook: timeout", {}, None, False, ""),
    "a namespace that is gone": (404, "NotFound", 'namespaces "a" not found', {}, None, False, ""),
    "namespace on its way out": (
        403,
        "Forbidden",
        'pods "a-0-1" is forbidden: unable to create new content in namespace a because it is being terminated',
        {},
        None,
        False,
        "",
    ),
    "conflict": (409, "AlreadyExists", 'pods "a-0-1" already exists', {}, None, False, ""),
    "overload": (429, "TooManyRequests", "too many requests", {}, None, False, ""),
}


@pytest.mark.parametrize(
    ("status", "reason", "message", "details", "wanted", "is_permanent", "said"), CASES.values(), ids=CASES
)
def test_a_refusal_is_classified(
    status: int,
    reason: str,
    message: str,
    details: dict[str, Any],
    wanted: Reason | None,
    is_permanent: bool,
    said: str,
) -> None:
    refusal = classify(status, reason, message, details, POD)
    assert (refusal is None) == (wanted is None)
    if refusal is not None:
        assert (refusal.reason, refusal.is_permanent, refusal.message) == (wanted, is_permanent, said)


def test_a_dry_run_may_say_nothing_about_the_object() -> None:
    assert cannot_be_tried(NO_DRY_RUN)
    assert not cannot_be_tried(CASES["webhook"][2])
