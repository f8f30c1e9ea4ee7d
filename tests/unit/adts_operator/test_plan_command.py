"""`adts plan`: what it prints, what it fixes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from adts_operator import cli

JOB: dict[str, Any] = {
    "apiVersion": "adts.dev/v1alpha1",
    "kind": "DistributedTraining",
    "metadata": {"name": "demo"},
    "spec": {
        "model": {"type": "gpt", "layers": 24, "hiddenSize": 2048, "heads": 16, "vocabularySize": 50304},
        "data": {"type": "synthetic", "sequenceLength": 1024},
        "training": {"steps": 50, "globalBatchSize": 64},
        "precision": {"dtype": "bf16"},
    },
}
GPUS = ("--gpus", "8x1", "--gpu-memory", "40Gi")
SPEEDS = ("--gpu", "A100", "--worker-link-gbit", "2400")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "training.yaml"
    path.write_text(yaml.safe_dump(JOB))
    return path


def plan(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", *map(str, words)])
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_a_plan_ranks_layouts_and_says_why_others_lose(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = plan(manifest, *GPUS, *SPEEDS, capsys=capsys)
    assert (code, err) == (0, "")
    assert "1.31G parameters, bf16, global batch 64 x 1024 tokens\n1 worker x 8 GPUs\n40.0 GiB per GPU" in out
    header = next(line for line in out.splitlines() if line.startswith("LAYOUT"))
    expected = "LAYOUT ZERO ENGINE MICRO RECOMP STEP PARAMS GRADS OPTIM ACTIV OTHER PEAK"
    assert header.split() == expected.split()
    assert "Why the others lose:" in out
    assert " more, most of it " in out
    assert "Not known:" not in out


def test_without_speeds_no_seconds_are_printed(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = plan(manifest, *GPUS, capsys=capsys)
    assert code == 0
    assert " STEP " not in out
    assert "the speed of the GPU (--gpu), the links inside a worker (--worker-link-gbit): no seconds" in out


def test_json_holds_bytes_by_kind_and_seconds(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = plan(manifest, *GPUS, *SPEEDS, "--json", capsys=capsys)
    found = json.loads(out)
    assert code == 0
    assert found["memoryBytes"] == 40 * 2**30
    for entry in (*found["fitting"], *found["tooLarge"]):
        kinds = {name: count for name, count in entry["bytes"].items() if name not in ("peak", "reserved")}
        assert sum(kinds.values()) == entry["bytes"]["peak"] < entry["bytes"]["reserved"]
        assert (entry["missingBytes"] == 0) == (entry in found["fitting"])
    totals = [sum(entry["seconds"].values()) for entry in found["fitting"]]
    assert totals == sorted(totals)


def test_what_the_manifest_sets_is_fixed(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*GPUS, "--set", "zero.stage=3", "--set", "parallelism.microbatches=2", "--json")
    _, out, _ = plan(manifest, *words, capsys=capsys)
    layouts = [entry["layout"] for key in ("fitting", "tooLarge") for entry in json.loads(out)[key]]
    assert {(it["zeroStage"], it["microbatches"]) for it in layouts} == {(3, 2)}


def test_nothing_that_fits_ends_with_an_error(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = plan(manifest, "--gpus", "1x1", "--gpu-memory", "4Gi", capsys=capsys)
    assert code == 2
    assert "Nothing fits." in out
    assert ": lacks " in out


def test_auto_is_planned_and_a_batch_that_fits_no_layout_yet_too(
    manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*GPUS, "--set", "parallelism.mode=auto", "--set", "training.globalBatchSize=4")
    code, out, _ = plan(manifest, *words, capsys=capsys)
    assert code == 0
    assert "globalBatchSize 4 is no multiple of 8 data ranks" in out


ERRORS = {
    "a bad --gpus": (["--gpus", "8"], "--gpus 8: is not GPUs x workers; write such as 8x4 for 4 workers of 8 GPUs"),
    "a bad quantity": (["--gpu-memory", "lots"], "spec.workers.gpuMemory: 'lots' is no quantity"),
    "an error elsewhere": (["--set", "model.heads=3"], "spec.model.heads: 3 does not divide hiddenSize 2048"),
    "a command": (
        [word for it in ("model", "data", "training", "precision") for word in ("--set", f"{it}=null")]
        + ["--set", "command=[python, x.py]"],
        "a command's memory is unknown",
    ),
    "an unknown GPU": (["--gpu", "H1"], "is not one of"),
}


@pytest.mark.parametrize(("words", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_are_one_message(
    words: list[str], message: str, manifest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = plan(manifest, *words, capsys=capsys)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
