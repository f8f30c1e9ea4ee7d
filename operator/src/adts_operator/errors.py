"""The operator's share of the error tree (root: `adts_api.errors.AdtsError`)."""

from __future__ import annotations

from adts_api.contract import ExitCode
from adts_api.errors import AdtsError


class StorageError(AdtsError):
    """A folder of the run cannot be written: disk full, read-only, or no permission."""

    exit_code = ExitCode.STORAGE
