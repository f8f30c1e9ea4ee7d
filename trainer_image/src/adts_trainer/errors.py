"""The trainer's share of the error tree (root: `adts_api.errors.AdtsError`), one class per exit code of the contract."""

from __future__ import annotations

from adts_api.contract import ExitCode
from adts_api.errors import AdtsError


class UserCodeError(AdtsError):
    """The user's own factory or model raised."""

    exit_code = ExitCode.USER_CODE


class DataError(AdtsError):
    """A data file is missing, empty or malformed."""

    exit_code = ExitCode.BAD_DATA


class CheckpointError(AdtsError):
    """A checkpoint is damaged, or belongs to another model."""

    exit_code = ExitCode.BAD_CHECKPOINT


class DivergedError(AdtsError):
    """Loss or gradient is not finite, or the loss spiked."""

    exit_code = ExitCode.DIVERGED


class FencedError(AdtsError):
    """A higher attempt owns the checkpoint folder."""

    exit_code = ExitCode.FENCED


class LostPeerError(AdtsError):
    """Another process of the job disappeared."""

    exit_code = ExitCode.LOST_PEER


class StartTimeoutError(AdtsError):
    """The workers did not find each other in time."""

    exit_code = ExitCode.START_TIMEOUT


class PreemptedError(AdtsError):
    """Told to stop; everything that could be saved was saved."""

    exit_code = ExitCode.PREEMPTED


class DeviceMissingError(AdtsError):
    """Fewer devices than processes."""

    exit_code = ExitCode.DEVICE_MISSING


class PortTakenError(AdtsError):
    """A port of the contract is in use."""

    exit_code = ExitCode.PORT_TAKEN


class StorageError(AdtsError):
    """A disk is full, read-only or gone."""

    exit_code = ExitCode.STORAGE


class NoProgressError(AdtsError):
    """Three rounds in place without a new step."""

    exit_code = ExitCode.NO_PROGRESS


class DeviceMemoryError(AdtsError):
    """Host or device memory is exhausted."""

    exit_code = ExitCode.OUT_OF_MEMORY
