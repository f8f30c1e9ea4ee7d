"""The link benchmark's measurements as tables and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from perf.bench_report import Quartiles, paired_ratios, table
from perf.link_variants import AUTO, COMPUTE, FIXED, PLAIN

_RESAMPLES = 5000
NONE = "ours none"
Steps = Mapping[str, Sequence[Mapping[str, Any]]]


def seconds(steps: Sequence[Mapping[str, Any]]) -> list[float]:
    return [it["seconds"] for it in steps]


def bootstrap(ratios: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median of paired ratios (Efron, percentile method)."""
    values, generator = np.asarray(ratios), np.random.default_rng(0)
    picked = values[generator.integers(0, len(values), (_RESAMPLES, len(values)))]
    low, high = np.percentile(np.median(picked, axis=1), [2.5, 97.5])
    return float(low), float(high)


def variant_rows(steps: Steps, notes: Mapping[str, str]) -> list[dict[str, str]]:
    """One row per variant; the ratio is to plain DDP, step by step."""
    rows = []
    compute = median(seconds(steps[COMPUTE])) if COMPUTE in steps else None
    for name, its in steps.items():
        traffic = [it["traffic"] for it in its if it["traffic"] is not None]
        is_paired = PLAIN in steps and name not in (PLAIN, COMPUTE)
        ratio = str(Quartiles.of(paired_ratios(seconds(its), seconds(steps[PLAIN])))) if is_paired else ""
        rows.append(
            {
                "variant": name,
                "step, s": f"{median(seconds(its)):.3f}",
                "to torch ddp (quartiles)": ratio,
                "step - compute, s": f"{median(seconds(its)) - compute:.3f}" if compute is not None else "",
                "MB by the reducer": _mega(it["sent bytes"] for it in traffic),
                "MB by the interface": _mega(it["interface bytes"] for it in its),
                "exposed, s": _seconds(it["exposed seconds"] for it in traffic),
                "hidden, s": _seconds(it["hidden seconds"] for it in traffic),
                "note": notes.get(name, ""),
            }
        )
    return rows


def conclusions(found: Mapping[str, Any], tokens: int) -> list[str]:
    """What is to be said of a link beside its table."""
    steps, wire = found["steps"], found["wire seconds"]
    lines = []
    if COMPUTE in steps:
        compute = median(seconds(steps[COMPUTE]))
        lines.append(
            f"{tokens} tokens per step; compute {compute:.3f} s, gradients alone on the wire {wire:.3f} s: no "
            f"compression can be more than {(compute + wire) / compute:.2f} times as fast as compute and wire in turn."
        )
    if found["auto"] is not None:
        lines += _of_auto(found["auto"], steps)
    return lines


def _of_auto(auto: Mapping[str, Any], steps: Steps) -> list[str]:
    lines = [
        f"`auto` chose {auto['chose']} after {auto['steps until decided']} steps ({auto['because']}); it probed for "
        f"{auto['probe seconds']} s."
    ]
    fixed = [name for name in FIXED if name in steps]
    if fixed:
        best = min(fixed, key=lambda it: median(seconds(steps[it])))
        rivals = {f"the best fixed choice ({best})": best, "none": NONE}
        for told, name in rivals.items():
            if name in steps:
                ratios = paired_ratios(seconds(steps[AUTO]), seconds(steps[name]))
                low, high = bootstrap(ratios)
                lines.append(
                    f"After its decision `auto` takes {median(ratios):.3f} of {told}'s step, 95 % interval "
                    f"{low:.3f} to {high:.3f}."
                )
    return lines


def overlap_rows(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """Exposed share of what communication costs, of trainings whose reducer is ours."""
    rows, compute = [], median(seconds(found["steps"][COMPUTE]))
    for name, its in found["steps"].items():
        traffic = [it["traffic"] for it in its if it["traffic"] is not None]
        shares = [it["exposed seconds"] / it["busy seconds"] for it in traffic if it["busy seconds"]]
        rows.append(
            {
                "training": name,
                "step, s": f"{median(seconds(its)):.3f}",
                "step - compute, s": f"{median(seconds(its)) - compute:.3f}",
                "communication, s": _seconds(it["busy seconds"] for it in traffic),
                "exposed, s": _seconds(it["exposed seconds"] for it in traffic),
                "exposed share": f"{median(shares):.1%}" if shares else "",
            }
        )
    return rows


def report(found: Mapping[str, Any], titles: Mapping[str, str], tokens: int, notes: Mapping[str, str]) -> str:
    """Everything, as Markdown; `titles` of the links by their rates."""
    parts = []
    for rate, link in found["links"].items():
        parts += [f"### {titles[rate]}", table(variant_rows(link["steps"], notes)), *conclusions(link, tokens)]
    if found["overlap"] is not None:
        wire = found["overlap"]["wire seconds"]
        parts += [
            "### A step that computes longer than it communicates",
            f"The same model with longer batches; its gradients alone take {wire:.3f} s on the wire.",
            table(overlap_rows(found["overlap"])),
        ]
    return "\n\n".join(parts)


def draw(found: Mapping[str, Any], titles: Mapping[str, str], out: Path) -> None:
    """Median step of each variant, one panel per link."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    links = found["links"]
    figure, panels = plt.subplots(1, len(links), figsize=(4.5 * len(links), 4.5), dpi=120, sharey=True, squeeze=False)
    for axes, (rate, link) in zip(panels[0], links.items(), strict=True):
        names = list(link["steps"])
        axes.barh(names, [median(seconds(link["steps"][name])) for name in names])
        if COMPUTE in names:
            axes.axvline(median(seconds(link["steps"][COMPUTE])), color="black", linewidth=1)
        axes.set(title=titles[rate], xlabel="seconds per step")
    panels[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(out, format="png")
    plt.close(figure)


def _mega(values: Any) -> str:
    found = list(values)
    return f"{median(found) / 1e6:.2f}" if found else ""


def _seconds(values: Any) -> str:
    found = list(values)
    return f"{median(found):.3f}" if found else ""
