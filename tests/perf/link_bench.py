"""Trainings over a slow link: two namespaces, one rank in each, torch's hooks, DeepSpeed and our compressors in turns.

`make bench-communication` prints a table per link; `--write` puts them into docs/benchmarks/communication.md, with
.json and .png beside it. Root and Linux only. Nothing is asserted: the machine is shared.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from perf.bench_report import REPOSITORY, machine, write
from perf.link import cable, refusal
from perf.link_rank import RESULTS, Request
from perf.link_report import draw, report
from perf.link_variants import AUTO, MANY_BUCKETS, VARIANTS

LINKS = {"200mbit": "200 Mbit/s", "1gbit": "1 Gbit/s", "open": "Not shaped"}
"""Names on the command line and in the tables; a name is what tc takes, but for `open`."""
OVERLAP_LINK = "1gbit"
SPEC: dict[str, Any] = {
    "workers": {"replicas": 2, "processesPerWorker": 1},
    "model": {"type": "gpt", "layers": 6, "hiddenSize": 384, "heads": 6, "vocabularySize": 256},
    "data": {"type": "synthetic", "sequenceLength": 64},
    "training": {
        "steps": 10**6,
        "globalBatchSize": 2,
        "device": "cpu",
        "logEverySteps": 10**6,
        "tensorboard": False,
    },
}
"""10.8M parameters, 64 tokens a step on each rank."""
LONG = {"training": {"globalBatchSize": 32}}
SURVIVAL_STEPS = 20
LONGEST_SECONDS = 3000.0


@contextmanager
def ranks(request: Request, output: int | None = None) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The two ranks, at the two ends of a new cable; none outlives the block, however it ends. `output` is where they
    write to, as `subprocess` has it; None for where this process does."""
    file = Path(request.folder) / "request.json"
    file.write_text(json.dumps(asdict(request)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "tests")}
    started: list[subprocess.Popen[bytes]] = []
    with cable() as namespaces:
        try:
            for rank, name in enumerate(namespaces):
                command = ["ip", "netns", "exec", name, sys.executable, "-m", "perf.link_rank", str(file), str(rank)]
                started.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
            yield started
        finally:
            for process in started:
                process.kill()
                process.wait()


def ended(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> list[int | None]:
    """Exit codes once all have ended, one has failed, or the time is over; None of those that still run."""
    deadline = time.monotonic() + seconds
    while True:
        codes = [process.poll() for process in processes]
        if None not in codes or any(codes) or time.monotonic() > deadline:
            return codes
        time.sleep(0.2)


def measure(request: Request) -> dict[str, Any]:
    """What the lead wrote. Raises SystemExit if a rank fails."""
    with ranks(request) as processes:
        codes = ended(processes, LONGEST_SECONDS)
    if any(codes) or None in codes:
        raise SystemExit(f"ranks ended with {codes}; their words are above")
    found: dict[str, Any] = json.loads((Path(request.folder) / RESULTS).read_text())
    return found


def survival(request: Request) -> str:
    """Whether stock PowerSGD lives through some steps with more than one bucket, in words."""
    with ranks(request, subprocess.DEVNULL) as processes:  # an abort prints pages
        codes = ended(processes, 120.0)
    if None in codes and not any(codes):
        return "with torch's default buckets it hung"
    if any(codes):
        code = next(code for code in codes if code)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return f"with torch's default buckets a rank {how}"
    return f"with torch's default buckets it survived {request.steps} steps this time"


def build_request(folder: Path, rates: Sequence[str], variants: Sequence[str], steps: int, overlap: bool) -> Request:
    folder.mkdir()
    return Request(
        folder=str(folder),
        port=29700,  # the namespaces are ours alone
        parent=os.getpid(),
        spec=SPEC,
        long=LONG,
        rates=tuple(rates),
        variants=tuple(name for name in variants if name != AUTO),
        has_auto=AUTO in variants,
        steps=steps,
        overlap_rate=OVERLAP_LINK if overlap else None,
    )


def main() -> None:
    shared = [*(name for name in VARIANTS if name != MANY_BUCKETS), AUTO]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--links", nargs="+", default=list(LINKS), choices=list(LINKS))
    parser.add_argument("--variants", nargs="+", default=shared, choices=shared, metavar="NAME", help=f"of {shared}")
    parser.add_argument("--steps", type=int, default=20, help="of every variant on every link")
    parser.add_argument("--write", action="store_true", help="also write docs/benchmarks/communication.{md,json,png}")
    arguments = parser.parse_args()
    problem = refusal()
    if problem:
        raise SystemExit(f"link_bench: {problem}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that namespaces go on any way out
    conditions = f"{machine()}; {arguments.steps} steps of each variant in turns; 2 ranks."
    rates = {link: "" if link == "open" else link for link in arguments.links}
    titles = {rate: LINKS[link] for link, rate in rates.items()}
    notes = {"ours none": "torch's reducer"}
    with tempfile.TemporaryDirectory(prefix="adts-link-") as name:
        folder = Path(name)
        if "torch powersgd hook" in arguments.variants:
            trial = build_request(folder / "survival", [""], [MANY_BUCKETS], SURVIVAL_STEPS, False)
            notes["torch powersgd hook"] = f"one bucket; {survival(trial)}"
            print(f"torch powersgd hook: {notes['torch powersgd hook']}", flush=True)
        is_overlapped = OVERLAP_LINK in arguments.links
        request = build_request(
            folder / "all", list(rates.values()), arguments.variants, arguments.steps, is_overlapped
        )
        begin = time.monotonic()
        found = measure(request)
        print(f"measured in {time.monotonic() - begin:.0f} s")
    data, sample = SPEC["data"], SPEC["training"]
    tokens = data["sequenceLength"] * sample["globalBatchSize"]
    text = f"{conditions}\n\n{report(found, titles, tokens, notes)}"
    print(f"\n{text}")
    if arguments.write:
        everything = {"conditions": conditions, "notes": notes, **found}
        write("communication", "Training over a slow link", text, everything, lambda out: draw(found, titles, out))


if __name__ == "__main__":
    main()
