"""The trainer's share of the error tree (root: `adts_api.errors.AdtsError`), a class per exit code, and `classify`."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from adts_api.contract import ExitCode
from adts_api.errors import AdtsError
from adts_api.training import Model


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


_STORAGE_ERRNOS = frozenset({errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO, errno.ESTALE})
_LOST_PEER_WORDS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Socket closed",
    "gloo/transport",
    "connectFullMesh",
    "remote process exited",
    "NCCL communicator was aborted",
    "recvBytes",
    "Timed out waiting",
)
"""How gloo, NCCL and the TCPStore say that the other side is gone. They raise bare RuntimeErrors."""


def is_storage_failure(error: BaseException) -> bool:
    """Whether the disk is full, read-only or gone."""
    return isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another process is gone, also where other code wrapped that failure."""
    if _is_a(error, "DistError") or (isinstance(error, RuntimeError) and _tells_of_lost_peer(str(error))):
        return True
    cause = error.__cause__ or error.__context__
    return cause is not None and is_lost_peer(cause)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether host or device memory is exhausted."""
    if isinstance(error, MemoryError) or _is_a(error, "OutOfMemoryError"):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def classify(error: BaseException) -> tuple[ExitCode, str]:
    """The contract's exit code of a failure and its message for people. No torch is needed: types go by name."""
    first_line = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, AdtsError):
        return error.exit_code, str(error)
    if is_storage_failure(error):
        return ExitCode.STORAGE, f"{error}; free some space or fix the mount, then start again"
    if is_out_of_memory(error):
        return ExitCode.OUT_OF_MEMORY, (
            f"out of memory: {first_line}; use more spec.parallelism.microbatches, a smaller "
            "spec.training.globalBatchSize, spec.training.activationCheckpointing: full, or zero.stage 3"
        )
    if is_lost_peer(error):
        return ExitCode.LOST_PEER, f"another process of the job is gone: {first_line}"
    return ExitCode.CRASH, f"{type(error).__name__}: {first_line}"


@contextmanager
def blame_user_code(model: Model) -> Iterator[None]:
    """Turn an exception of a user's own model into UserCodeError with its last frame; others pass."""
    try:
        yield
    except AdtsError:
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if model.type != "custom" or is_lost_peer(error) or is_out_of_memory(error):
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UserCodeError(
            f"spec.model.factory: {model.factory} raised {type(error).__name__}: {error} "
            f"({frame.filename}:{frame.lineno} in {frame.name})"
        ) from error


def _tells_of_lost_peer(message: str) -> bool:
    return any(word in message for word in _LOST_PEER_WORDS)


def _is_a(error: BaseException, name: str) -> bool:
    return any(base.__name__ == name for base in type(error).__mro__)
