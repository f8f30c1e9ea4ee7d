"""One page about one job, from `job.json` and `metrics.jsonl`: `report.md` and `loss.png`. No torch here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adts_api.errors import AdtsError, ConfigError
from adts_trainer.errors import DataError


def write_report(run: Path, baselines_path: Path | None) -> str:
    """Write both files into the job folder `run`; the text of report.md. Raises ConfigError or DataError."""
    job = _read_json(run / "job.json", ConfigError, "is not the folder of an `adts run`; give runs/<job>")
    metrics = read_metrics(run / "checkpoints" / "metrics.jsonl")
    baselines = (
        _read_json(baselines_path, DataError, "is not the output of `adts data baselines --json`")
        if baselines_path
        else {}
    )
    draw_loss(metrics, baselines, job["metadata"]["name"], run / "loss.png")
    text = render(job, metrics, baselines)
    (run / "report.md").write_text(text)
    return text


def _read_json(path: Path, error: type[AdtsError], hint: str) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as cause:
        raise error(f"{path}: cannot be read ({cause}); {path.parent} {hint}") from cause


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl in order; a torn last line, from a killed writer, is left out."""
    try:
        lines = path.read_text().splitlines()
    except OSError as cause:
        raise DataError(f"{path}: cannot be read ({cause}); has the job logged a step yet?") from cause
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    if not rows:
        raise DataError(f"{path}: holds no metrics yet; wait for training.logEverySteps steps")
    return rows


def draw_loss(metrics: Sequence[dict[str, Any]], baselines: dict[str, float], title: str, out: Path) -> None:
    """Training and held-out loss over the steps, with the baselines as lines to beat."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
    for key, label, style in (("loss", "training", {"alpha": 0.6}), ("evaluation_loss", "held out", {"marker": "o"})):
        points = [(row["step"], row[key]) for row in metrics if row.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    for name, value in baselines.items():
        axes.axhline(value, linestyle="--", linewidth=1, color="grey")
        axes.annotate(
            f"{name} {value:.2f}", (0.995, value), xycoords=("axes fraction", "data"), ha="right", va="bottom"
        )
    axes.set(title=title, xlabel="optimizer step", ylabel="nats per token")
    axes.legend()
    figure.tight_layout()
    figure.savefig(out)
    plt.close(figure)


def render(job: dict[str, Any], metrics: Sequence[dict[str, Any]], baselines: dict[str, float]) -> str:
    """The page as Markdown."""
    status, spec = job["status"], job["spec"]
    steps = [row for row in metrics if "loss" in row]
    held_out = [row for row in metrics if "evaluation_loss" in row]
    progress = status.get("progress", {})
    facts = {
        "phase": status.get("phase"),
        "layout": f"{status.get('layout')}, {spec['precision']['dtype']}",
        "steps": f"{progress.get('step')} of {progress.get('steps')}",
        "attempts, rounds": f"{status.get('attempt')}, {status.get('rounds')}",
        "started, finished": f"{status.get('startedAt')}, {status.get('finishedAt') or 'not yet'}",
        "newest checkpoint": Path(status.get("checkpoint", {}).get("path", "none")).name,
    }
    if steps:
        speeds = sorted(row["tokens_per_second"] for row in steps if row.get("tokens_per_second"))
        facts["training loss"] = f"{steps[-1]['loss']:.4f} at step {steps[-1]['step']}"
        if speeds:
            facts["tokens/s, median"] = f"{speeds[len(speeds) // 2]:,.0f}"
        last = steps[-1]
        facts["bytes sent per step and rank"] = f"{last.get('wire_bytes_per_step') or 0:,.0f}"
        if "compression_ratio" in last:
            facts["between replicas"] = (
                f"{last['compression_ratio']:.1f} times fewer bytes than uncompressed; per step "
                f"{last['exposed_seconds']:.3f} s waited for, {last['hidden_seconds']:.3f} s hidden"
            )
    lines = [f"# {job['metadata']['name']}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    if held_out:
        lines += ["", "| held-out loss, nats per token | |", "|---|---|"]
        final = held_out[-1]["evaluation_loss"]
        lines.append(f"| **this model** | **{final:.3f}** at step {held_out[-1]['step']} |")
        for name, value in baselines.items():
            verdict = "beaten" if final < value else "not beaten"
            lines.append(f"| {name} counts | {value:.3f}, {verdict} by {abs(value - final):.3f} |")
    lines += ["", "![loss](loss.png)"]
    if status.get("restarts"):
        lines += ["", "| restart | scope | pod | reason |", "|---|---|---|---|"]
        lines += [
            f"| {r['time']} | {r['scope']} | {r.get('pod', '')} | {r.get('reason', '')} |" for r in status["restarts"]
        ]
    return "\n".join(lines) + "\n"
