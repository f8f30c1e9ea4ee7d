"""The resource as the API server holds it: what it refuses by itself, what it fills in, and what it lets change."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from adts_api.fields import Field, block_of, spec_leaves, walk
from adts_api.mutability import ANY_TIME, NEVER, ONCE_BEGUN, while_suspended
from adts_api.v1alpha1 import DistributedTraining, Spec
from cluster.harness.cluster import Cluster
from cluster.harness.process import ClusterError
from support.cluster_jobs import PATIENCE, manifest, wait_for
from support.manifests import GPT, changed, complaints
from support.operator_access import Place, new_namespace, operating
from unit.adts_api import test_bad_layouts, test_bad_models, test_bad_runs, test_bad_structure

CRD = Path(__file__).parents[2] / "crds" / "distributedtrainings.adts.dev.yaml"
LARGEST = 200_000

OTHER_WORDS = {
    "other version": 'version "adts.dev/v1"',
    "a list": "invalid object",
    "no metadata": "name may not be empty",
    "no spec": "spec: Required value",
}
"""What kubectl and the API server say of a frame that is wrong, where they do not name the same field."""

Case = tuple[Any, list[str]]
"""A manifest and the lines that `adts validate` prints about it."""


@pytest.fixture(scope="module")
def place(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with operating(cluster, tmp_path_factory.mktemp("api")) as running:
        yield running


@pytest.fixture(scope="module")
def unwatched(cluster: Cluster, place: Place) -> Iterator[str]:
    """A namespace whose jobs nobody reconciles: their status is what a test writes."""
    with new_namespace(cluster, "adts-test-api") as name:
        yield name


def bad_manifests() -> dict[str, Case]:
    """The tables of the unit tests."""
    cases: dict[str, Case] = {}
    for module in (test_bad_layouts, test_bad_runs):
        cases |= {name: (changed(*changes), lines) for name, (changes, lines) in module.CASES.items()}
    cases |= {name: (changed(it, base=base), lines) for name, (base, it, lines) in test_bad_models.CASES.items()}
    cases |= {name: (changed(it), [line]) for name, (it, line) in test_bad_structure.ASSIGNMENTS.items()}
    cases |= test_bad_structure.ROOTS
    return {name: (raw, lines) for name, (raw, lines) in cases.items() if reaches_the_server(raw)}


def reaches_the_server(raw: Any) -> bool:
    """Whether a bad manifest is one still when kubectl sends it: JSON has no NaN, and null is nothing at all."""
    try:
        json.dumps(raw, allow_nan=False)
    except ValueError:
        return False
    return raw is not None and bool(complaints(without_nulls(raw)))


def files(folder: Path, manifests: dict[str, Any]) -> Path:
    """A file for each manifest, called like its key: kubectl tells its errors by file."""
    for name, it in manifests.items():
        (folder / f"{name}.json").write_text(json.dumps(it))
    return folder


def refusals(output: str) -> dict[str, str]:
    """What kubectl complained about, by the names of the files."""
    parts = re.split(r'"[^"\s]*/([\w-]+)\.json"', output)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_crd_can_be_applied(cluster: Cluster, unwatched: str) -> None:
    assert CRD.stat().st_size < LARGEST
    cluster.kubectl("apply", "--dry-run=server", "-f", str(CRD))
    live = cluster.get("crd", "distributedtrainings.adts.dev")
    assert live is not None
    conditions = {it["type"]: it["status"] for it in live["status"]["conditions"]}
    assert conditions["Established"] == conditions["NamesAccepted"] == "True"
    assert "NonStructuralSchema" not in conditions


def test_bad_manifests_are_refused_with_their_message(
    cluster: Cluster, place: Place, tmp_path: Path, measured: Callable[[str], None]
) -> None:
    cases = {f"bad-{number}": case for number, case in enumerate(bad_manifests().items())}
    manifests = {name: renamed(raw, name) for name, (_, (raw, _)) in cases.items()}
    told = refused_by_kubectl(cluster, "apply", files(tmp_path, manifests), place.namespace)
    judged = verdicts(cluster, place.namespace)
    measured(f"of {len(cases)} bad manifests the API server refused {len(told)}, the operator {len(judged)}")
    assert told.keys() ^ judged.keys() == cases.keys()
    names = {it: name for it, (name, _) in cases.items()}
    lines = {it: lines for it, (_, (_, lines)) in cases.items()}
    wanted = {it: OTHER_WORDS.get(names[it], leaf(lines[it][0])) for it in told}
    assert {names[it]: words for it, words in told.items() if wanted[it] not in words} == {}
    assert {names[it]: words for it, words in judged.items() if not all(line in words for line in lines[it])} == {}
    assert cluster.items("pods", place.namespace) == []


def renamed(raw: Any, name: str) -> Any:
    """A manifest under a name of its own, unless it is about the name."""
    if not isinstance(raw, dict) or (raw.get("metadata") or {}).get("name") != "demo":
        return raw
    return {**raw, "metadata": {**raw["metadata"], "name": name}}


def verdicts(cluster: Cluster, namespace: str) -> dict[str, str]:
    """What the operator says of the jobs of a namespace, all of which are invalid."""

    def told() -> dict[str, str]:
        invalid = {}
        for job in cluster.items("dtrain", namespace):
            conditions = {it["type"]: it for it in job.get("status", {}).get("conditions", [])}
            valid = conditions.get("Valid", {})
            if (valid.get("status"), valid.get("reason"), job["status"]["phase"]) == (
                "False",
                "InvalidSpec",
                "Pending",
            ):
                invalid[job["metadata"]["name"]] = valid["message"]
        return invalid

    names = {it["metadata"]["name"] for it in cluster.items("dtrain", namespace)}
    wait_for(lambda: told().keys() == names, PATIENCE, "Valid=False of all", lambda: names - told().keys())
    return told()


def leaf(line: str) -> str:
    """The last name in the path of a line."""
    return re.split(r"[.\[]", line.partition(":")[0].partition("[")[0])[-1]


def refused_by_kubectl(cluster: Cluster, verb: str, folder: Path, namespace: str, *options: str) -> dict[str, str]:
    """Runs a verb over the files of a folder; what was refused of them, by file."""
    try:
        cluster.kubectl("-n", namespace, verb, *options, "-f", str(folder))
    except ClusterError as error:
        return refusals(str(error))
    return {}


def values_of(annotation: Any, metadata: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    """Valid values of a field's type, with its bounds."""
    bounds = {name: getattr(it, name) for it in metadata for name in ("ge", "gt", "le", "lt") if hasattr(it, name)}
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        low, high = bounds.get("ge", -(2**31)), bounds.get("le", 2**31)
        return st.integers(low, high)
    if annotation is float:
        low, high = bounds.get("ge", bounds.get("gt", -1e6)), bounds.get("le", bounds.get("lt", 1e6))
        opened = {"exclude_min": "gt" in bounds, "exclude_max": "lt" in bounds}
        return st.floats(low, high, allow_subnormal=False, **opened)
    if annotation is str:
        patterns = [it.pattern for it in metadata if getattr(it, "pattern", None)]
        letters = st.characters(codec="utf-8", exclude_characters="\0")
        return st.from_regex(patterns[0], fullmatch=True) if patterns else st.text(letters, max_size=8)
    if get_origin(annotation) is list:
        (item,) = get_args(annotation)
        return st.lists(values_of(item, ()), max_size=3)
    if get_origin(annotation) is dict:
        return st.dictionaries(st.sampled_from(["a", "spec"]), st.integers(0, 9) | st.text("ab"), max_size=2)
    if hasattr(annotation, "__metadata__"):  # Annotated[int, Field(ge=..., le=...)]
        return values_of(annotation.__origin__, tuple(annotation.__metadata__[0].metadata))
    choices = get_args(annotation)
    if type(None) in choices:
        return st.none() | values_of(next(it for it in choices if it is not type(None)), metadata)
    return st.sampled_from(choices)


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """A spec that sets a few fields to valid values, or to null, beside what it must have."""
    chosen = draw(st.lists(st.sampled_from(sorted(spec_leaves())), max_size=8, unique=True))
    spec: dict[str, Any] = {}
    for path in {*chosen} - {"command", "model.type", "data.type", "training.steps"}:
        info = spec_leaves()[path].info
        put(spec, path, draw(st.none() | values_of(info.annotation, tuple(info.metadata))))
    if draw(st.booleans()):
        return {**spec, "command": ["sh"]}
    for path, value in (("model.type", "gpt"), ("data.type", "tokens"), ("training.steps", 1)):
        put(spec, path, value)
    return spec


def put(spec: dict[str, Any], path: str, value: Any) -> None:
    *blocks, name = path.split(".")
    for block in blocks:
        spec = spec.setdefault(block, {})
    spec[name] = value


def test_defaults_are_those_of_the_api_server(cluster: Cluster, unwatched: str) -> None:
    @settings(
        max_examples=4,
        deadline=None,
        phases=(Phase.generate,),  # an example costs a second, so it is not made smaller
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(specs(), min_size=40, max_size=40))
    def same(batch: list[dict[str, Any]]) -> None:
        wanted = [manifest(f"job-{number}", unwatched, spec) for number, spec in enumerate(batch)]
        listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": wanted})
        answer = json.loads(cluster.kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", stdin=listed))
        assert len(answer["items"]) == len(wanted)
        for ours, theirs in zip(wanted, answer["items"], strict=True):
            assert defaulted(ours) == defaulted(theirs) == without_nulls(theirs["spec"])

    same()


def defaulted(raw: dict[str, Any]) -> dict[str, Any]:
    """The spec of a manifest with pydantic's defaults; null means the default, as it does for the API server."""
    clean = {**raw, "spec": without_nulls(raw["spec"])}
    spec = DistributedTraining.model_validate(clean).spec
    return spec.model_dump(by_alias=True, mode="json", exclude_none=True)


def without_nulls(value: Any) -> Any:
    """Without fields that are null; nulls in a list stay."""
    if isinstance(value, dict):
        return {key: without_nulls(it) for key, it in value.items() if it is not None}
    return [without_nulls(it) for it in value] if isinstance(value, list) else value


STATES: dict[str, dict[str, Any]] = {
    "unborn": {"attempt": 0, "phase": "Pending"},
    "begun": {"attempt": 1, "phase": "Running"},
    "paused": {"attempt": 1, "phase": "Suspended"},
}


def may_change(path: str, state: str) -> bool:
    """The rule of a field, by the first table that names it or its block."""
    block = path.partition(".")[0]
    if path in NEVER:
        return False
    if {path, block} & {*ONCE_BEGUN}:
        return state == "unborn"
    return path in ANY_TIME or state in ("unborn", "paused")


@pytest.fixture(scope="module")
def in_states(cluster: Cluster, unwatched: str) -> dict[str, dict[str, Any]]:
    """A job in each state, with a value beside the default in every block."""
    spec: dict[str, Any] = {}
    for path, field in spec_leaves().items():
        if path != "command":
            put(spec, path, another(field, field.default))
    jobs = {state: manifest(state, unwatched, spec) for state in STATES}
    cluster.kubectl(
        "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": [*jobs.values()]})
    )
    for state, status in STATES.items():
        write_status(cluster, unwatched, state, status)
    return jobs


def write_status(cluster: Cluster, namespace: str, name: str, status: dict[str, Any]) -> None:
    patch = ["--subresource=status", "--type=merge", "-p", json.dumps({"status": status})]
    cluster.kubectl("-n", namespace, "patch", "dtrain", name, *patch)


def another(field: Field, value: Any) -> Any:
    """A valid value that differs."""
    annotation = field.info.annotation
    choices = [it for it in get_args(annotation) if isinstance(it, str) and it]
    if choices:
        return next(it for it in choices if it != value)
    if annotation is bool:
        return not value
    if annotation is float or float in get_args(annotation):
        return 0.5 if value != 0.5 else 0.25
    if annotation is int or (int in get_args(annotation) and get_origin(annotation) is not list):
        return 2 if value != 2 else 3
    if annotation is str:
        return "1Gi" if value != "1Gi" else "2Gi"
    if get_origin(annotation) is dict:
        return {"a": 1} if value != {"a": 1} else {"a": 2}
    is_text = get_args(annotation) == (str,)
    return ["x", *(value or [])] if is_text else [7, *(value or [])]


def test_what_may_change_in_a_job_that_exists(
    cluster: Cluster, unwatched: str, in_states: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    wanted: dict[str, bool] = {}
    for state, job in in_states.items():
        for path, field in spec_leaves().items():
            if path == "command":
                continue
            changed_job = json.loads(json.dumps(job))
            put(changed_job["spec"], path, another(field, at(job["spec"], path)))
            name = f"{state}-{path.replace('.', '-')}"
            files(tmp_path, {name: changed_job})
            wanted[name] = may_change(path, state)
    told = refused_by_kubectl(cluster, "replace", tmp_path, unwatched, "--dry-run=server")
    assert {name: name not in told for name in wanted} == wanted
    assert {words for words in told.values() if "cannot change" not in words} == set()


def at(spec: dict[str, Any], path: str) -> Any:
    value: Any = spec
    for key in path.split("."):
        value = value[key]
    return value


def test_the_tables_of_what_may_change_cover_every_field() -> None:
    tables = {*NEVER, *ONCE_BEGUN, *ANY_TIME, *while_suspended()}
    assert {it.path for it in walk(Spec)} >= tables
    assert [it for it in spec_leaves() if not {it, it.partition(".")[0]} & tables] == []


def test_removing_a_block_is_a_change_of_it(
    cluster: Cluster, unwatched: str, in_states: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    blocks = [field.path for field in walk(Spec) if block_of(field.info) and "." not in field.path]
    job = in_states["begun"]
    without = {it: {**job, "spec": {key: value for key, value in job["spec"].items() if key != it}} for it in blocks}
    told = refused_by_kubectl(cluster, "replace", files(tmp_path, without), unwatched, "--dry-run=server")
    assert told.keys() == set(blocks)


def test_the_spec_of_a_command_is_fixed_once_it_has_begun(cluster: Cluster, unwatched: str, tmp_path: Path) -> None:
    job = manifest("script", unwatched, {"command": ["sh", "-c", "true"]})
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(job))
    write_status(cluster, unwatched, "script", STATES["begun"])
    changes = {
        "other": {"command": ["bash"]},
        "model": GPT["spec"],
        "image": {"command": ["sh", "-c", "true"], "image": "another:1"},
    }
    manifests = {name: manifest("script", unwatched, spec) for name, spec in changes.items()}
    told = refused_by_kubectl(cluster, "replace", files(tmp_path, manifests), unwatched, "--dry-run=server")
    assert "cannot change once the job has begun" in told["other"]
    assert "cannot change once the job has begun" in told["model"]
    assert "set spec.runPolicy.suspend first" in told["image"]


def test_columns_of_kubectl_get(cluster: Cluster, unwatched: str) -> None:
    job = manifest("columns", unwatched, GPT["spec"])
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(job))
    progress = {"step": 40, "steps": 100, "loss": 3.5, "tokensPerSecond": 1234.5, "mfu": 0.41, "etaSeconds": 77}
    status = {
        "phase": "Running",
        "workers": {"ready": 3, "desired": 4},
        "layout": "dp4",
        "progress": progress,
        "failures": 2,
        "checkpoint": {"step": 30},
    }
    write_status(cluster, unwatched, "columns", status)
    head, row = cluster.kubectl("-n", unwatched, "get", "dt", "columns").splitlines()
    columns = ["PHASE", "READY", "DESIRED", "LAYOUT", "STEP", "LOSS", "TOKENS/S", "RESTARTS", "AGE"]
    assert head.split() == ["NAME", *columns]
    assert row.split()[:9] == ["columns", "Running", "3", "4", "dp4", "40", "3.5", "1234.5", "2"]
    wide = cluster.kubectl("-n", unwatched, "get", "distributedtrainings", "columns", "-o", "wide").splitlines()
    assert wide[0].split()[-3:] == ["MFU", "ETA", "CHECKPOINT"]
    assert wide[1].split()[-3:] == ["0.41", "77", "30"]
    assert "columns" in cluster.kubectl("-n", unwatched, "get", "all")
