"""The Grafana dashboard of the chart, from a table of panels: what each is called, its unit and its queries."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

WIDTH, HEIGHT = 24, 7
"""Columns of Grafana's grid, and rows of a panel."""

OPERATOR = 'job="$job"'
"""Selects one installation of the operator: the scrape job."""


class Panel(NamedTuple):
    """One panel."""

    title: str
    unit: str
    queries: dict[str, str]
    """PromQL by legend; a legend may hold {{label}}."""
    kind: str = "timeseries"
    per_row: int = 3
    """Panels of this size that fill a row."""


def rate(metric: str, by: str) -> str:
    """Events per second of a counter, summed by labels."""
    return f"sum by ({by}) (rate({metric}{{{OPERATOR}}}[$__rate_interval]))"


def quantile(q: float, histogram: str) -> str:
    """A quantile of a histogram of all replicas."""
    return f"histogram_quantile({q:g}, {rate(f'{histogram}_bucket', 'le')})"


def of_jobs(metric: str) -> str:
    """A gauge of jobs, of those that the variables select; only the leader has it."""
    return f'max by (namespace, name) ({metric}{{{OPERATOR}, namespace=~"$namespace", name=~"$name"}})'


ROWS: dict[str, tuple[Panel, ...]] = {
    "Jobs": (
        Panel("Jobs by phase", "short", {"{{phase}}": f"max by (phase) (adts_jobs{{{OPERATOR}}})"}),
        Panel("Restarts", "ops", {"{{scope}} {{reason}}": rate("adts_restarts_total", "scope, reason")}),
        Panel("Tokens per second, all jobs", "short", {"all": f"sum({of_jobs('adts_job_tokens_per_second')})"}),
    ),
    "Every job (needs metrics.jobs=true)": (
        Panel("Step", "short", {"{{namespace}}/{{name}}": of_jobs("adts_job_step")}),
        Panel("Loss", "short", {"{{namespace}}/{{name}}": of_jobs("adts_job_loss")}),
        Panel("Tokens per second", "short", {"{{namespace}}/{{name}}": of_jobs("adts_job_tokens_per_second")}),
    ),
    "Operator": (
        Panel("Leaders (must be 1)", "short", {"leaders": f"sum(adts_leader{{{OPERATOR}}})"}, "stat", 4),
        Panel("Queue", "short", {"jobs waiting": f"max(adts_queue_depth{{{OPERATOR}}})"}, per_row=4),
        Panel(
            "Time of a reconcile",
            "s",
            {f"p{q * 100:g}": quantile(q, "adts_reconcile_seconds") for q in (0.5, 0.99)},
            per_row=4,
        ),
        Panel("Errors of reconciles", "ops", {"{{kind}}": rate("adts_reconcile_errors_total", "kind")}, per_row=4),
        Panel(
            "Requests to the API server",
            "reqps",
            {"{{verb}} {{resource}}": rate("adts_api_requests_total", "verb, resource")},
            per_row=4,
        ),
        Panel(
            "Requests that failed",
            "reqps",
            {
                "{{verb}} {{resource}} {{code}}": "sum by (verb, resource, code) (rate(adts_api_requests_total"
                f'{{{OPERATOR}, code!~"2.."}}[$__rate_interval]))'
            },
            per_row=4,
        ),
        Panel(
            "Silence of a watch",
            "s",
            {"{{resource}}": f"max by (resource) (adts_watch_age_seconds{{{OPERATOR}}})"},
            per_row=4,
        ),
        Panel("Memory", "bytes", {"{{pod}}": f"process_resident_memory_bytes{{{OPERATOR}}}"}, per_row=4),
    ),
}

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON model."""
    return {
        "uid": "adts",
        "title": "Distributed training",
        "tags": ["adts", "kubernetes", "training"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": list(variables())},
        "panels": panels(),
    }


def variables() -> list[dict[str, Any]]:
    """What a viewer chooses: data source, installation, namespaces and jobs."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    queries = {
        "job": "label_values(adts_leader, job)",
        "namespace": f"label_values(adts_job_step{{{OPERATOR}}}, namespace)",
        "name": f'label_values(adts_job_step{{{OPERATOR}, namespace=~"$namespace"}}, name)',
    }
    labels = {"job": "Operator", "namespace": "Namespace", "name": "Job"}
    return [
        source,
        *(
            {
                "name": name,
                "label": labels[name],
                "type": "query",
                "datasource": DATASOURCE,
                "query": {"query": query, "refId": name},
                "refresh": 2,
                "sort": 1,
                **({} if name == "job" else {"multi": True, "includeAll": True, "allValue": ".*"}),
            }
            for name, query in queries.items()
        ),
    ]


def panels() -> list[dict[str, Any]]:
    """Row headings and panels on the grid, from the left to the right and from the top down."""
    placed: list[dict[str, Any]] = []
    x = y = 0
    for title, row in ROWS.items():
        placed.append({"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": at(0, y, WIDTH, 1)})
        x, y = 0, y + 1
        for panel in row:
            width = WIDTH // panel.per_row
            if x + width > WIDTH:
                x, y = 0, y + HEIGHT
            placed.append(panel_json(panel) | {"gridPos": at(x, y, width, HEIGHT)})
            x += width
        y += HEIGHT
    return [panel | {"id": number} for number, panel in enumerate(placed, start=1)]


def at(x: int, y: int, width: int, height: int) -> dict[str, int]:
    """A place on the grid."""
    return {"x": x, "y": y, "w": width, "h": height}


def panel_json(panel: Panel) -> dict[str, Any]:
    """One panel without its place."""
    return {
        "type": panel.kind,
        "title": panel.title,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": DATASOURCE, "expr": query, "legendFormat": legend}
            for number, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def text() -> str:
    """The dashboard as the text of a file."""
    return json.dumps(dashboard(), indent=2) + "\n"
