"""The page of `adts describe`: why a job is in its state and what to do about it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from adts_api.contract import COMMAND_EXIT_CODES, ConditionType, exit_reason
from adts_api.v1alpha1 import Condition, DistributedTraining, Restart
from adts_operator.advice import FAILURES, PHASES, REASONS, RESUME, Advice
from adts_operator.cluster.api import Object
from adts_operator.commands.cells import since, span
from adts_operator.commands.cluster_options import Target
from adts_operator.commands.pages import facts, heading, indented, is_unseen, stranger
from adts_operator.commands.reads import event_time
from adts_operator.commands.tables import plain_table
from adts_operator.core.conditions import find_condition
from adts_operator.core.observed import PodView
from adts_operator.view import STYLES

MOST_PODS = 16
MOST_EVENTS = 12
MOST_RESTARTS = 5
OPERATOR_PODS = "get pods --all-namespaces -l app.kubernetes.io/name=distributed-training-operator"


def describe_page(
    job: DistributedTraining, pods: Sequence[PodView], events: Sequence[Object], now: float
) -> RenderableType:
    """Everything up to the heading above the next command, which must not be folded."""
    parts: list[RenderableType] = [heading(job, now), indented(Text(meaning(job)))]
    parts += section("Facts", [facts(job, now)])
    parts += section("Conditions", conditions(job, now))
    parts += section(f"Pods of attempt {job.status.attempt}", pod_lines(current(job, pods)))
    parts += section("Restarts, the newest last", restarts(job, now))
    parts += section("Events, the newest last", event_lines(events, now))
    return Group(*parts, Text(), Text("Next", style="bold"))


def section(title: str, body: Iterable[RenderableType]) -> list[RenderableType]:
    """A heading and what stands below it; nothing where there is nothing."""
    lines = list(body)
    return [Text(), Text(title, style="bold"), *map(indented, lines)] if lines else []


def meaning(job: DistributedTraining) -> str:
    """The phase in a sentence, or why there is none to speak of yet."""
    text = stranger(job) or PHASES[job.status.phase]
    if not is_unseen(job) and job.status.observed_generation < job.metadata.generation:
        text += " The newest change of its spec was not looked at yet."
    return text


def conditions(job: DistributedTraining, now: float) -> Iterator[RenderableType]:
    """Every condition, and for each reason once what it means and what to do."""
    found = job.status.conditions
    last_of = {condition.reason: condition.type for condition in found}
    for condition in found:
        style = "green" if is_good(condition) else "yellow"
        line = Text(f"{condition.type} = {condition.status}", style=style)
        line.append(f"  {condition.reason}, {since(condition.last_transition_time, now)} ago", style="default")
        yield line
        yield indented(Text(condition.message))
        advice = [REASONS.get(condition.reason)]
        if condition.type == ConditionType.FAILED:
            advice.append(FAILURES.get(end_reason(job)))
        if last_of[condition.reason] == condition.type:
            for it in advice:
                yield from advice_lines(it, job.metadata.name)


def end_reason(job: DistributedTraining) -> str:
    """The word for the exit code that ended the job; of a script of the user's only where it means the same to all."""
    code = job.status.exit_code
    is_known = not job.spec.command or code in COMMAND_EXIT_CODES
    return exit_reason(code) if code is not None and is_known else ""


def is_good(condition: Condition) -> bool:
    """Whether a condition says what one hopes for."""
    hoped_for = (ConditionType.VALID, ConditionType.RUNNING, ConditionType.COMPLETE)
    return (condition.status == "True") == (condition.type in hoped_for)


def advice_lines(advice: Advice | None, name: str) -> Iterator[RenderableType]:
    """Meaning and action; nothing where nothing is to be done."""
    if advice is not None and advice.action:
        action = advice.action.replace("JOB", name)
        text = Text(f"{advice.meaning} ", style="dim")
        text.append(f"To do: {action}.", style="default")
        yield indented(text)


def current(job: DistributedTraining, pods: Iterable[PodView]) -> list[PodView]:
    """The pods of the current attempt, by index."""
    return sorted((pod for pod in pods if pod.attempt == job.status.attempt), key=lambda pod: pod.index)


def pod_lines(pods: Sequence[PodView]) -> Iterator[RenderableType]:
    """Every pod of a small gang; of a large one those that are not like the rest."""
    if not pods:
        return
    usual, _ = Counter(map(pod_state, pods)).most_common(1)[0]
    shown = list(pods) if len(pods) <= MOST_PODS else [pod for pod in pods if pod_state(pod) != usual][:MOST_PODS]
    table = plain_table("POD", "NODE", "STATE")
    table.add_column("REASON", overflow="fold")
    for pod in shown:
        state = Text(pod_state(pod), style=STYLES.get(pod.phase, "cyan"))
        table.add_row(pod.name, pod.node or "none", state, pod.reason)
    if shown:
        yield table
    for words in dict.fromkeys(f"{pod.reason}: {pod.message}".partition("\n")[0] for pod in shown if pod.message):
        yield Text(words.strip(": "))
    if len(shown) < len(pods):
        states = Counter(pod_state(pod) for pod in pods if pod not in shown)
        yield Text("and " + ", ".join(f"{number} {state}" for state, number in states.items()))


def pod_state(pod: PodView) -> str:
    """`Running`, `Failed (1)`, `Running, deleting`."""
    state = f"{pod.phase} ({pod.exit_code})" if pod.exit_code else str(pod.phase)
    return f"{state}, deleting" if pod.gone_by is not None else state


def restarts(job: DistributedTraining, now: float) -> Iterator[RenderableType]:
    """The last restarts: of the newest with all that is kept of its output."""
    found = job.status.restarts[-MOST_RESTARTS:]
    for restart in found:
        what = "new attempt" if restart.scope == "attempt" else "in place"
        where = f"{restart.pod} on {restart.node}" if restart.node else restart.pod
        code = "" if restart.exit_code is None else f" ({restart.exit_code})"
        yield Text(f"{since(restart.time, now)} ago, {what}: {where}: {restart.reason}{code}")
        if restart is found[-1]:
            yield from last_output(restart, job.metadata.name)


def last_output(restart: Restart, name: str) -> Iterator[RenderableType]:
    """What a restart's pod said last, and what its reason means."""
    yield indented(Text(restart.message, style="dim"))
    yield from advice_lines(FAILURES.get(restart.reason), name)


def event_lines(events: Sequence[Object], now: float) -> Iterator[RenderableType]:
    """The newest events."""
    if not events:
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for event in events[-MOST_EVENTS:]:
        times = max(int(event.get("count") or 1), int((event.get("series") or {}).get("count") or 1))
        message = f"{event.get('message', '')}{f' (x{times})' if times > 1 else ''}"
        style = "yellow" if event.get("type") == "Warning" else "default"
        age = span(now - event_time(event))
        table.add_row(f"{age} ago", Text(event.get("reason", ""), style=style), Text(about(event) + message))
    yield table


def about(event: Mapping[str, object]) -> str:
    """The name of what an event is about, where it is not the job."""
    involved = event.get("involvedObject")
    if isinstance(involved, Mapping) and involved.get("kind") == "Pod":
        return f"{involved.get('name')}: "
    return ""


def next_command(job: DistributedTraining, pods: Sequence[PodView], target: Target) -> str:
    """What to type next."""
    name, phase = job.metadata.name, job.status.phase
    valid = find_condition(job.status.conditions, ConditionType.VALID)
    waiting = next((pod.name for pod in current(job, pods) if pod.phase == "Pending"), "")
    if is_unseen(job):
        return f"kubectl {OPERATOR_PODS}"
    if valid is not None and valid.status == "False" and phase not in ("Succeeded", "Failed"):
        return target.command(f"edit dtrain {name}", program="kubectl")
    match phase:
        case "Queued":
            return target.command("get workloads", program="kubectl")
        case "Pending" | "Starting" if waiting:
            return target.command(f"describe pod {waiting}", program="kubectl")
        case "Suspended":
            return target.command(f"patch dtrain {name} {RESUME}", program="kubectl")
        case "Restarting":
            return target.command(f"logs {name} --previous")
        case "Failed":
            return target.command(f"logs {name} --tail 50")
        case "Succeeded":
            return target.command(f"logs {name} --worker 0 --tail 20")
        case _:
            return target.command(f"logs {name} --follow")
