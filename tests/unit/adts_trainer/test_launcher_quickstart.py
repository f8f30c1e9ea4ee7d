"""The job of a start without a manifest."""

from __future__ import annotations

import pytest

from adts_api.errors import ConfigError
from adts_api.manifest import load
from adts_api.topology import world_size
from adts_api.validate import parse
from adts_trainer.launch.quickstart import default_job, new_run_folder, write_default_job
from adts_trainer.launch.settings import LauncherSettings


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("processes", [1, 2, 3, 5, 8, 24])
def test_the_default_job_is_valid_on_any_number_of_devices(tmp_path, device, processes):
    settings = LauncherSettings(config_path=None, local_world_size=processes, device=device)
    job = parse(default_job(settings, tmp_path))
    assert world_size(job.spec) == processes
    assert job.spec.training.device == device
    assert job.spec.data.type == "text", "Python's own source is there"
    assert job.spec.checkpoint.path == str(tmp_path / "checkpoints")


def test_every_quick_start_trains_afresh_in_a_folder_of_its_own(tmp_path):
    names = [new_run_folder(tmp_path / "runs").name for _ in range(3)]
    assert names == ["default-1", "default-2", "default-3"]


def test_the_manifest_is_left_beside_the_results_to_be_changed(tmp_path):
    settings = LauncherSettings(config_path=None)
    path = write_default_job(settings, tmp_path)
    assert load(path) == default_job(settings, tmp_path)


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(ConfigError, match=r"runs/default-1: cannot be made \(Not a directory\); start in a folder"):
        new_run_folder(tmp_path / "runs")
