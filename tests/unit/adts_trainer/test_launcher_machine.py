"""What the machine offers, read from the kernel's files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adts_trainer.launch import machine


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        pytest.param({}, None, id="no control group"),
        pytest.param({"cpu.max": "max 100000\n"}, None, id="v2 without limit"),
        pytest.param({"cpu.max": "250000 100000\n"}, 2.5, id="v2"),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None, id="v1 without limit"
        ),
        pytest.param({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5, id="v1"),
    ],
)
def test_the_cpu_quota_of_both_versions(tmp_path, files, quota):
    assert machine.cpu_quota(tree(tmp_path, files)) == quota


def test_cores_are_the_affinity_within_the_quota(tmp_path):
    assert machine.available_cores(tmp_path) == len(os.sched_getaffinity(0))
    assert machine.available_cores(tree(tmp_path, {"cpu.max": "50000 100000"})) == 1


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        pytest.param({}, 0, id="no control group"),
        pytest.param({"memory.events": "low 0\noom 4\noom_kill 2\n"}, 2, id="v2"),
        pytest.param({"memory/memory.oom_control": "under_oom 0\noom_kill 3\n"}, 3, id="v1"),
    ],
)
def test_the_kernels_count_of_memory_kills(tmp_path, files, kills):
    assert machine.memory_kills(tree(tmp_path, files)) == kills


def test_the_memory_peak(tmp_path):
    assert machine.memory_peak_bytes(tmp_path) is None
    assert machine.memory_peak_bytes(tree(tmp_path, {"memory.peak": "1024\n"})) == 1024


@pytest.mark.parametrize(
    ("environ", "files", "count"),
    [
        pytest.param({}, [], 0, id="none"),
        pytest.param({}, ["dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm"], 2, id="device files"),
        pytest.param({}, ["proc/driver/nvidia/gpus/0000:01:00.0"], 1, id="driver only"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "1"}, ["dev/nvidia0", "dev/nvidia1"], 1, id="one visible"),
        pytest.param({"CUDA_VISIBLE_DEVICES": ""}, ["dev/nvidia0"], 0, id="none visible"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, ["dev/nvidia0", "dev/nvidia1"], 1, id="stops at -1"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "0,1,2"}, ["dev/nvidia0"], 1, id="never more than there are"),
    ],
)
def test_cuda_devices_without_torch(tmp_path, environ, files, count):
    assert machine.cuda_devices(environ, tree(tmp_path, dict.fromkeys(files, ""))) == count
