"""Advice: every word that a status may hold has some, and the page of the docs says the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from adts_api.contract import ExitCode, Reason, exit_reason
from adts_api.v1alpha1 import Phase
from adts_operator import docs
from adts_operator.advice import FAILURES, PHASES, REASONS
from adts_operator.cli import COMMANDS

ALL = [*REASONS.items(), *FAILURES.items()]
NO_POD_ENDS_WITH = {ExitCode.OK, ExitCode.INTERRUPTED}


def test_every_word_of_the_status_is_explained() -> None:
    assert set(REASONS) == set(Reason)
    assert set(PHASES) == set(get_args(Phase))
    assert FAILURES.keys() >= {exit_reason(code) for code in ExitCode if code not in NO_POD_ENDS_WITH}


@pytest.mark.parametrize(("word", "advice"), ALL, ids=[word for word, _ in ALL])
def test_meaning_is_sentences_and_action_goes_into_one(word: str, advice: docs.Advice) -> None:
    assert advice.meaning.endswith(".")
    assert not advice.action.endswith(".")
    for command in re.findall(r"`adts (\w+)", advice.action):
        assert command in COMMANDS


def test_the_page_in_the_checkout_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert docs.main(["--check"]) == 0
    assert capsys.readouterr().out == "docs/reasons.md is up to date\n"


def test_an_old_page_is_found_and_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "docs").mkdir()
    assert docs.main(["--check", "--root", str(tmp_path)]) == 1
    assert docs.main(["--root", str(tmp_path)]) == 0
    assert docs.main(["--check", "--root", str(tmp_path)]) == 0
    assert "make crds" in capsys.readouterr().out
