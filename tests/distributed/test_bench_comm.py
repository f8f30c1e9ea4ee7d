"""`adts bench comm` with real ranks: forked here, and as the processes of a job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from adts_api.errors import AdtsError
from adts_api.training import Compression
from adts_api.wire_bytes import wire_bytes
from adts_trainer.commands.bench_comm import bench
from adts_trainer.communication import bench_ranks
from adts_trainer.launch.ranks import FORKS, warm_up
from adts_trainer.selfcheck.runner import PRELOAD, free_port
from support.auto_cases import bench_as_rank

pytestmark = pytest.mark.distributed


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in bench_ranks.VARIABLES:
        monkeypatch.delenv(name, raising=False)


def adts(*arguments: str | Path) -> Result:
    return CliRunner().invoke(bench, ["comm", *map(str, arguments)], catch_exceptions=False)


METHODS = ("none", "int8", "powersgd")


def test_local_ranks_measure_every_method(tmp_path: Path) -> None:
    chosen = [word for name in METHODS for word in ("--method", name)]
    files = ["--json", tmp_path / "link.json", "--plot", tmp_path / "link.png"]
    result = adts("--size", "0.5", "--size", "1", "--repetitions", "1", *chosen, *files)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("2 ranks; all-reduce latency ")
    told = json.loads((tmp_path / "link.json").read_text())
    assert result.output.endswith(told["advice"] + "\n")
    assert [(row["mebibytes"], row["method"]) for row in told["rows"]] == [(m, n) for m in (0.5, 1) for n in METHODS]
    for row in told["rows"]:
        shape = (int(row["mebibytes"] * 256), 1024)
        assert row["sent_bytes"] == wire_bytes(Compression(method=row["method"]), [shape], 2), row
        assert row["seconds"] > 0
    errors = {row["method"]: row["relative_error"] for row in told["rows"]}
    assert errors["none"] == 0 < errors["int8"] < 0.05 < errors["powersgd"] < 1
    assert (tmp_path / "link.png").read_bytes().startswith(b"\x89PNG")


def test_processes_of_a_job_find_each_other_and_rank_0_speaks(tmp_path: Path) -> None:
    warm_up(PRELOAD)
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    outputs = [tmp_path / f"rank-{rank}" for rank in range(2)]
    processes = [
        FORKS.Process(target=bench_as_rank, args=({**job, "RANK": str(rank)}, outputs[rank])) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    said = [output.read_text() for output in outputs]
    assert "2 ranks; " in said[0]
    assert "no method" in said[0]
    assert said[1] == ""


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    result = adts("--method", "zip")
    assert result.exit_code == 2
    assert "zip is none of none, fp16" in result.output


def test_what_ends_a_rank_ends_the_command_with_its_message() -> None:
    request = bench_ranks.Request(("custom",), (0.1,), 1, "cpu")
    with pytest.raises(AdtsError, match=r"^bench comm: .*spec\.compression\.factory"):
        list(bench_ranks.local(request, 2))
