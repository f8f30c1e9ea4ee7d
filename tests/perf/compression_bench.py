"""What compression costs in loss: the quick start trained to equal steps with every compressor, under every layout.

`make bench-compression` runs the cells that have no result yet, one `adts run` of the manifest each, and prints the
held-out loss beside that of the same layout without compression. A cell that was interrupted goes on from its last
checkpoint. `--write` puts table and curves into docs/benchmarks/compression.{md,json,png,csv}. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perf.bench_report import FOLDER, REPOSITORY, machine, table, write
from perf.compression_cells import LAYOUTS, METHODS, NONE, Cell, cells

MANIFEST = REPOSITORY / "examples/quickstart.yaml"
JOB = "quickstart"
RESULTS = REPOSITORY / ".cache/compression-bench"
"""A JSON file per cell, and a folder for each that is not done; `make clean` leaves it."""
STEPS = 900
"""Of the manifest."""
PROGRAM = Path(sys.executable).with_name("adts")
AIM = 1.02
SMOOTHED = 9
"""Logged training losses that are averaged in the plot."""


def prepare_data(workdir: Path) -> None:
    """The corpus of `make demo`, where the manifest looks for it."""
    out = workdir / "data/stdlib.bin"
    if out.exists() and out.with_name("stdlib-val.bin").exists():
        return
    source = sysconfig.get_paths()["stdlib"]
    take = ["--include", "*.py", "--exclude", "site-packages", "--holdout", "0.1"]
    subprocess.run([PROGRAM, "data", "prepare", source, *take, "--out", str(out)], check=True)


def command(cell: Cell, workdir: Path) -> list[str]:
    """As a user would type it."""
    options = [part for setting in cell.settings() for part in ("--set", setting)]
    return [str(PROGRAM), "run", str(MANIFEST.relative_to(REPOSITORY)), "--workdir", str(workdir), *options]


def train(cell: Cell) -> dict[str, Any]:
    """Run a cell to its end; what it left behind. Raises SystemExit if it fails."""
    workdir = RESULTS / cell.slug
    workdir.mkdir(parents=True, exist_ok=True)
    data = workdir / "data"
    if not data.is_symlink():
        data.symlink_to(RESULTS / "data")
    typed, begin = command(cell, workdir), time.monotonic()
    log = workdir / "output.txt"
    with log.open("a") as stream:
        code = subprocess.run(typed, cwd=REPOSITORY, stdout=stream, stderr=stream).returncode
    if code != 0:
        raise SystemExit(f"{cell.name}: `{shlex.join(typed)}` ended with {code}; see {log}")
    lines = [json.loads(it) for it in (workdir / JOB / "checkpoints/metrics.jsonl").read_text().splitlines()]
    steps = [it for it in lines if "loss" in it]
    return {
        "layout": cell.layout,
        "method": cell.method,
        "steps": cell.steps,
        "command": shlex.join(["adts", "run", typed[2], *typed[5:]]),
        "seconds": time.monotonic() - begin,
        "losses": [(it["step"], it["loss"]) for it in steps],
        "held-out": [(it["step"], it["evaluation_loss"]) for it in lines if "evaluation_loss" in it],
        "wire bytes per step": steps[-1]["wire_bytes_per_step"],
        "compression ratio": steps[-1].get("compression_ratio"),
    }


def result(cell: Cell) -> dict[str, Any]:
    """What is known of a cell, or is found out now."""
    file = RESULTS / f"{cell.slug}.json"
    if not file.exists():
        found = train(cell)
        file.write_text(json.dumps(found) + "\n")
        shutil.rmtree(RESULTS / cell.slug)  # checkpoints of all cells would be gigabytes
    known: dict[str, Any] = json.loads(file.read_text())
    return known


def row(found: dict[str, Any], plain: dict[str, Any] | None) -> dict[str, str]:
    """One line of the table; `plain` is the same layout without compression."""
    loss = found["held-out"][-1][1]
    ratio = loss / plain["held-out"][-1][1] if plain is not None else None
    saved = found["compression ratio"]
    return {
        "layout": found["layout"],
        "compression": found["method"],
        "held-out loss": f"{loss:.4f}",
        "to none": f"{ratio:.4f}{'' if ratio <= AIM else ' (over the aim)'}" if ratio is not None else "",
        "MB per step and rank": f"{found['wire bytes per step'] / 1e6:.3f}",
        "times fewer bytes": f"{saved:.1f}" if saved is not None else "",
    }


def report(found: Sequence[dict[str, Any]]) -> str:
    """The table, in the order of the cells."""
    plain = {it["layout"]: it for it in found if it["method"] == NONE}
    return table([row(it, plain.get(it["layout"])) for it in found])


def write_curves(found: Sequence[dict[str, Any]], out: Path) -> None:
    """Every logged loss as CSV: layout, method, kind, step, loss."""
    with out.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("layout", "method", "kind", "step", "loss"))
        for it in found:
            for kind, points in (("training", it["losses"]), ("held-out", it["held-out"])):
                writer.writerows((it["layout"], it["method"], kind, step, f"{loss:.5f}") for step, loss in points)


def draw(found: Sequence[dict[str, Any]], out: Path) -> None:
    """Loss over steps, a panel per layout: a line per method for the training loss, dots for the held-out one."""
    import matplotlib
    import numpy as np

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    layouts = list(dict.fromkeys(it["layout"] for it in found))
    columns = min(4, len(layouts))
    lines = -(-len(layouts) // columns)
    size = (4.2 * columns, 3.4 * lines)
    figure, panels = plt.subplots(lines, columns, figsize=size, dpi=110, sharex=True, sharey=True, squeeze=False)
    for axes, layout in zip(panels.flat, layouts, strict=False):
        for it in (it for it in found if it["layout"] == layout):
            steps, losses = np.array(it["losses"]).T
            window = min(SMOOTHED, len(losses))
            mean = np.convolve(losses, np.full(window, 1 / window), mode="valid")
            style = {"color": "black", "linewidth": 2.0} if it["method"] == NONE else {"linewidth": 1.0}
            (line,) = axes.plot(steps[window - 1 :], mean, label=it["method"], **style)
            axes.plot(*zip(*it["held-out"], strict=True), "o", color=line.get_color(), markersize=4)
        axes.set(title=layout, xlabel="step", ylabel="loss, nats")
        axes.legend(fontsize="x-small")
    for axes in panels.flat[len(layouts) :]:
        axes.remove()
    figure.tight_layout()
    figure.savefig(out, format="png")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=list(LAYOUTS), metavar="NAME")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="NAME")
    parser.add_argument("--steps", type=int, default=STEPS, help="of every training")
    parser.add_argument("--write", action="store_true", help="also write docs/benchmarks/compression.{md,json,png,csv}")
    arguments = parser.parse_args()
    chosen = [it for it in cells(arguments.steps) if it.layout in arguments.layouts and it.method in arguments.methods]
    if not chosen:
        raise SystemExit("--layouts, --methods: no cell has both; beside ddp only some methods are trained")
    prepare_data(RESULTS)
    found = []
    for number, cell in enumerate(chosen, 1):
        it = result(cell)
        found.append(it)
        print(f"{number}/{len(chosen)} {cell.name}: {it['held-out'][-1][1]:.4f}, {it['seconds']:.0f} s", flush=True)
    text = f"{machine()}; {arguments.steps} steps, one seed.\n\n{report(found)}"
    print(f"\n{text}")
    if arguments.write:
        write("compression", "Loss with compressed gradients", text, found, lambda out: draw(found, out))
        write_curves(found, FOLDER / "compression.csv")


if __name__ == "__main__":
    main()
