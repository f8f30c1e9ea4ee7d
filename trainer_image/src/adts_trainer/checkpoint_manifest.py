"""The JSON files of a checkpoint folder as models: what is read of them is checked before it is used. No torch here."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

FORMAT = 1
"""Version of the layout of a checkpoint, as its manifest states it."""


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class Lock(_Strict):
    """attempt.lock."""

    uid: str
    attempt: NonNegativeInt


class _File(_Strict):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[^/]+$")
    bytes: NonNegativeInt
    crc32: NonNegativeInt


class _Scaler(_Strict):
    active: bool
    scale: float
    goodSteps: NonNegativeInt  # noqa: N815 - as it stands in the file


class Manifest(_Strict):
    """What a training that continues reads of manifest.json."""

    step: NonNegativeInt
    attempt: NonNegativeInt
    consumedSamples: NonNegativeInt  # noqa: N815
    skippedSteps: list[NonNegativeInt]  # noqa: N815
    recentLosses: list[float]  # noqa: N815
    scaler: _Scaler
    optimizer: str
    time: str
    files: list[_File]
