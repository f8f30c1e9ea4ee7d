"""The launcher's folder: private, gone afterwards, and swept where a launcher could not."""

from __future__ import annotations

import os

from adts_trainer.launch.run_folder import run_folder


def test_a_folder_is_private_and_gone_afterwards(tmp_path):
    with run_folder(tmp_path) as folder:
        (folder / "rank-0.json").write_text("{}")
        assert folder.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == []


def test_folders_in_use_are_left_alone(tmp_path):
    with run_folder(tmp_path) as first, run_folder(tmp_path) as second:
        assert first != second
        assert first.exists()


def test_the_folder_of_a_killed_launcher_is_swept_by_the_next(tmp_path):
    if (child := os.fork()) == 0:
        with run_folder(tmp_path):
            os._exit(0)
    os.waitpid(child, 0)
    (abandoned,) = tmp_path.iterdir()
    with run_folder(tmp_path):
        assert not abandoned.exists()


def test_what_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "adts-file").write_text("mine")
    (tmp_path / "other").mkdir()
    with run_folder(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"adts-file", "other"}
