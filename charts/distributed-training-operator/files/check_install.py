"""What `helm test` runs in a pod with the operator's image: is the operator ready, is the resource served and judged?

Standard library only. One line for each check that holds; the first that does not ends with what to do about it.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
GROUP_VERSION = "adts.dev/v1alpha1"
TIMEOUT_SECONDS = 5
READY_SECONDS = 60


def main() -> None:
    """Checks the operator, the resource, a good job and a bad one."""
    answer = until_ready(f"{os.environ['OPERATOR']}/readyz")
    check(answer == "ready", "the operator is ready", f"{answer}; read the log of its pods")

    code, resources = ask(f"/apis/{GROUP_VERSION}")
    names = {resource["name"] for resource in resources.get("resources", [])}
    fix = "install the CustomResourceDefinition, crds.enabled=true"
    check("distributedtrainings" in names, f"DistributedTraining {GROUP_VERSION} is served", f"answer {code}; {fix}")

    jobs = f"/apis/{GROUP_VERSION}/namespaces/{os.environ['NAMESPACE']}/distributedtrainings?dryRun=All"
    job = {
        "apiVersion": GROUP_VERSION,
        "kind": "DistributedTraining",
        "metadata": {"name": "helm-test"},
        "spec": {"command": ["true"]},
    }
    code, answer_to_good = ask(jobs, job)
    check(code == 201, "a small job is accepted (dry run)", f"answer {code}: {answer_to_good.get('message')}")
    code, answer_to_bad = ask(jobs, job | {"spec": {}})
    why = f"answer {code}: {answer_to_bad.get('message')}; upgrade the CustomResourceDefinition, crds.enabled=true"
    check(code == 422, "a job without model and command is refused (dry run)", why)


def check(holds: bool, what: str, otherwise: str) -> None:
    """Prints what holds, or ends with what to do."""
    if not holds:
        sys.exit(f"FAILED: {what}: {otherwise}")
    print(f"ok: {what}", flush=True)


def until_ready(url: str) -> str:
    """`ready` as soon as the address answers 200, else what it said last."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS):
                return "ready"
        except urllib.error.HTTPError as error:
            last = f"{url} answers {error.code}: {error.read(500).decode(errors='replace')}"
        except OSError as error:
            last = f"{url} does not answer: {error}"
        if time.monotonic() > deadline:
            return last
        time.sleep(1)


def ask(path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Code and content of the API server's answer, to a POST where there is a body; 0 where it does not answer."""
    host = os.environ["KUBERNETES_SERVICE_HOST"]
    host = f"[{host}]" if ":" in host else host
    request = urllib.request.Request(
        f"https://{host}:{os.environ['KUBERNETES_SERVICE_PORT']}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": "application/json"},
    )
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, {"message": error.read(1000).decode(errors="replace")}
    except OSError as error:
        return 0, {"message": f"the API server does not answer: {error}"}


if __name__ == "__main__":
    main()
