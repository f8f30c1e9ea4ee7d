"""What the documentation names exists: pages, commands, fields, settings, metrics, and the words of a status."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, get_args

import click
import pytest
import yaml

from adts_api.contract import ConditionType, Env, Reason
from adts_api.fields import spec_leaves, walk
from adts_api.pod_status import PodStatus
from adts_api.v1alpha1 import Phase, Spec, Status
from adts_api.validate import parse
from adts_operator.advice import FAILURES
from adts_operator.cli import adts, dtrain
from adts_operator.metrics import Metrics
from adts_operator.settings import Settings, variable_name
from adts_trainer.launch.status import metrics as launcher_metrics
from support.doc_pages import CHECKOUT, Page, command_lines, page, pages
from support.manifests import GPT

PAGES = {it.name: it for it in pages()}
WRITTEN = [it for it in PAGES.values() if "<!-- Generated" not in (CHECKOUT / it.name).read_text(encoding="utf-8")]
"""Pages that people write; the others are made from what they name."""
FOR_USERS = [it for it in WRITTEN if "/adr/" not in it.name]
BY_NAME = pytest.mark.parametrize("page", WRITTEN, ids=[it.name for it in WRITTEN])

PROGRAMS = {"adts": adts, "kubectl dtrain": dtrain, "python3 -m adts_trainer": adts, "python -m adts_trainer": adts}
KUBERNETES = {"DistributedTraining", "GenericWorkload", "ImagePullBackOff", "PodGroup", "ReadWriteMany"}
"""Words in CamelCase that are no word of a status."""
DOTTED = re.compile(r"\.?[a-z][A-Za-z]*(\.[a-z][A-Za-z]*(\[\d*\])?)+")
SUFFIXES = ("yaml", "md", "jsonl", "safetensors", "lock", "sh")
FILE = re.compile(r"(?<![\w./-])(?:charts|crds|deploy|docs|examples|operator|tests|trainer_image)/[\w./-]+")


@BY_NAME
def test_links_lead_somewhere(page: Page) -> None:
    broken = []
    for link in page.links:
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (CHECKOUT / page.name).parent / path if path else CHECKOUT / page.name
        name = str(target.resolve().relative_to(CHECKOUT))
        if not target.exists() or (anchor and anchor not in PAGES[name].anchors):
            broken.append(link)
    assert broken == []


def test_every_page_is_in_the_index() -> None:
    listed = {f"docs/{link}" for link in page("docs/README.md").links}
    here = {it for it in PAGES if it.startswith("docs/") and it.count("/") == 1} - {"docs/README.md"}
    assert here - listed == set()


@BY_NAME
def test_files_exist(page: Page) -> None:
    named = {found.rstrip(".") for text in page.code for found in FILE.findall(text)}
    assert {it for it in named if not (CHECKOUT / it).exists()} == set()


@BY_NAME
def test_targets_of_make_exist(page: Page) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    named = {found for text in page.code for found in re.findall(r"(?<![\w-])make ([a-z-]+)", text)}
    assert named - targets == set()


@BY_NAME
def test_commands_and_their_options_exist(page: Page) -> None:
    unknown = [line for line in lines(page) for problem in [problem_of(line)] if problem]
    assert unknown == []


def lines(page: Page) -> Iterator[str]:
    """Every command line of ours on a page."""
    shells = [block.text for block in page.blocks if block.language in ("sh", "console")]
    for line in [*page.spans, *(line for text in shells for line in command_lines(text))]:
        if any(line.startswith(f"{program} ") for program in PROGRAMS):
            yield line


def problem_of(line: str) -> str:
    """What a command line names that is not there."""
    program = max((it for it in PROGRAMS if line.startswith(f"{it} ")), key=len)
    name, *words = line.removeprefix(program).split()
    group: click.Command | None = PROGRAMS[program]
    if name.startswith("-") or name == "COMMAND":
        return "" if name in ("--debug", "--help", "COMMAND") else name
    while isinstance(group, click.Group):
        context = click.Context(group)
        group = group.get_command(context, name)
        if isinstance(group, click.Group) and words:
            name, *words = words
    if group is None:
        return name
    known = {option for it in group.params for option in (*it.opts, *it.secondary_opts)}
    return next((word for word in words if word.startswith("--") and word.partition("=")[0] not in known), "")


@BY_NAME
def test_fields_exist(page: Page) -> None:
    spec = {it.path for it in walk(Spec)}
    free = {path for path, it in spec_leaves().items() if str(it.info.annotation).startswith("dict")}
    status = {f"status.{it.path}" for it in walk(Status)}
    values = set(flattened(yaml.safe_load((CHECKOUT / "charts/distributed-training-operator/values.yaml").read_text())))
    known = spec | status | values
    roots = {it.partition(".")[0] for it in known} | {"spec"}
    unknown = set()
    for word in dotted(page.code):
        path = word.lstrip(".").removeprefix("spec.")
        path = re.sub(r"\[\d*\]", "", path)
        inside = any(path.startswith(f"{it}.") for it in free)
        if word.lstrip(".").partition(".")[0] in roots and path not in known and not inside:
            unknown.add(word)
    assert unknown == set()


def dotted(texts: Iterable[str]) -> Iterator[str]:
    """Words such as `spec.runPolicy.suspend` and `metrics.jobs`, but no names of files."""
    for text in texts:
        for word in re.findall(r"[^\s,;:=`'\"{}<>|()]+", text):
            if DOTTED.fullmatch(word) and word.rpartition(".")[2] not in SUFFIXES:
                yield word


def flattened(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every path of the chart's values, blocks included."""
    for key, value in values.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{key}.")


@BY_NAME
def test_variables_exist(page: Page) -> None:
    known = {value for key, value in vars(Env).items() if not key.startswith("_")}
    known |= {variable_name(name) for name in Settings.__dataclass_fields__}
    sources = [*(CHECKOUT / "tests/cluster").rglob("*.py"), *(CHECKOUT / "charts").glob("*.py")]
    known |= {found for it in sources for found in re.findall(r"\bADTS_[A-Z_]+", it.read_text())}
    named = {found for text in page.code for found in re.findall(r"\bADTS_[A-Z_]+", text)}
    assert named - known == set()


def families() -> set[str]:
    """The metrics of the operator, without those that every process has."""
    registry = Metrics(job_metrics=True).registry
    found = [it.name + ("_total" if it.type == "counter" else "") for it in registry.collect()]
    return {it for it in found if it.startswith("adts_")}


def of_the_launcher() -> set[str]:
    """The metrics of a job's lead pod."""
    whole = {"loss": 1.0, "evaluationLoss": 1.0, "tokensPerSecond": 1.0, "mfu": 1.0, "etaSeconds": 1.0}
    traffic = {"exposedSeconds": 1.0, "hiddenSeconds": 1.0}
    text = launcher_metrics("job", PodStatus.model_validate({"progress": whole, "communication": traffic})).decode()
    return set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))


def test_the_page_on_monitoring_names_every_metric() -> None:
    modules = {"adts_api", "adts_operator", "adts_trainer"}
    named = {found for text in page("docs/monitoring.md").code for found in re.findall(r"\badts_[a-z_]+", text)}
    assert named - modules == families() | of_the_launcher()


@pytest.mark.parametrize("page", FOR_USERS, ids=[it.name for it in FOR_USERS])
def test_words_of_the_status_exist(page: Page) -> None:
    known = {*map(str, Reason), *map(str, ConditionType), *get_args(Phase), *FAILURES, *KUBERNETES}
    known |= {choice for it in spec_leaves().values() for choice in get_args(it.info.annotation) if choice}
    named = {found[1] for span in page.spans if (found := re.fullmatch(r"((?:[A-Z][a-z]+){2,})(?:=\w+)?", span))}
    assert named - known == set()


def test_the_page_on_security_has_the_operators_rights() -> None:
    golden = yaml.safe_load((CHECKOUT / "tests/chart/golden/rbac.yaml").read_text())["every-switch-on"]
    rights: dict[str, set[str]] = {}
    for role in ("ClusterRole/adts-operator", "Role/adts-operator-lease"):
        for row, verbs in golden[role].items():
            rights.setdefault(row.split()[1], set()).update(verbs.split())
    lines = (CHECKOUT / "docs/security.md").read_text().partition("| Mode |")[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]
    told = {re.split(r",? ", re.sub(r"`[^`]+`,? ?", "", cells[0]))[0]: {*cells[1].split(", ")} for cells in rows}
    assert told == rights


def test_manifests_are_valid() -> None:
    things = [
        (block, thing)
        for it in PAGES.values()
        for block in it.blocks
        if block.language == "yaml"
        for thing in yaml.safe_load_all(block.text)
    ]
    manifests = [(block, thing) for block, thing in things if thing.get("kind") == "DistributedTraining"]
    parts_of_a_spec = [(block, thing) for block, thing in things if "kind" not in thing]
    assert {block.page for block, _ in manifests} >= {"README.md", "docs/command.md"}
    for block, thing in manifests:
        parse(thing, f"{block.page}, {block.section}")
    for block, part in parts_of_a_spec:
        parse({**GPT, "spec": {**GPT["spec"], **part}}, f"{block.page}, {block.section}")
