"""Errors a user can act on: one message and an exit code of the contract. All else is a bug with a traceback.

AdtsError
├── ManifestError      the manifest is wrong: every field error at once        BAD_CONFIG
├── ConfigError        environment, command line or machine does not fit       BAD_CONFIG
└── (adts_trainer.errors: data, checkpoints, peers, devices, storage, user code)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adts_api.contract import ExitCode


class AdtsError(Exception):
    """A failure with a message for people; printed without a traceback unless `--debug`."""

    exit_code: ExitCode = ExitCode.CRASH


class ConfigError(AdtsError):
    """The environment, the command line or the machine does not fit the job."""

    exit_code = ExitCode.BAD_CONFIG


@dataclass(frozen=True)
class FieldError:
    """One thing wrong with a manifest: `path: value rule; fix`."""

    path: str
    """Field path such as `spec.parallelism.tensor`."""
    problem: str
    """The value and the rule it breaks: `3 does not divide the 8 processes of a worker`."""
    fix: str
    """What to write instead: `use 1, 2, 4 or 8`."""

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}; {self.fix}"


class ManifestError(AdtsError):
    """A manifest with one or more field errors, all of them reported."""

    exit_code = ExitCode.BAD_CONFIG

    def __init__(self, errors: Sequence[FieldError], source: str = "") -> None:
        self.errors = tuple(errors)
        self.source = source
        where = f"{source}: " if source else ""
        super().__init__("\n".join(f"{where}{error}" for error in self.errors))
