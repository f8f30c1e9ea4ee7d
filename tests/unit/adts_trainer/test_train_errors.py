"""Every failure of a rank becomes an exit code of the contract and one message."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from adts_api.contract import ExitCode
from adts_api.errors import ConfigError
from adts_api.topology import Topology
from adts_api.training import Model
from adts_trainer.distributed_setup import open_processes
from adts_trainer.errors import (
    DataError,
    DeviceMissingError,
    DivergedError,
    FencedError,
    UserCodeError,
    blame_user_code,
    classify,
)
from support.ranks import Place

GLOO = "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4321"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("a field"), ExitCode.BAD_CONFIG, "a field"),
        (DataError("a file"), ExitCode.BAD_DATA, "a file"),
        (DivergedError("nan"), ExitCode.DIVERGED, "nan"),
        (FencedError("newer"), ExitCode.FENCED, "newer"),
        (RuntimeError(GLOO), ExitCode.LOST_PEER, "another process of the job is gone: "),
        (dist.DistBackendError("NCCL error\nmore"), ExitCode.LOST_PEER, "NCCL error"),
        (dist.DistNetworkError("recv failed"), ExitCode.LOST_PEER, "recv failed"),
        (torch.OutOfMemoryError("CUDA out of memory."), ExitCode.OUT_OF_MEMORY, "CUDA out of memory."),
        (MemoryError(), ExitCode.OUT_OF_MEMORY, "microbatches"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            ExitCode.OUT_OF_MEMORY,
            "can't allocate",
        ),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a"), ExitCode.STORAGE, "No space left"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/a"), ExitCode.STORAGE, "Read-only"),
        (OSError(errno.ENOENT, "missing", "/a"), ExitCode.CRASH, "FileNotFoundError"),
        (ValueError("a bug\nof ours"), ExitCode.CRASH, "ValueError: a bug"),
        (RuntimeError(""), ExitCode.CRASH, "RuntimeError: "),
        (SystemExit(3), ExitCode.CRASH, "SystemExit: 3"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_failures_have_a_code_and_one_message(error: BaseException, code: ExitCode, words: str) -> None:
    found, message = classify(error)
    assert found is code
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("error", [RuntimeError(GLOO), torch.OutOfMemoryError("no"), DataError("mine")], ids=repr)
def test_a_users_model_is_not_blamed_for_what_it_did_not_do(error: Exception) -> None:
    with pytest.raises(type(error)), blame_user_code(Model(type="custom", factory="a:b")):
        raise error


def test_a_users_model_may_report_a_lost_peer_in_its_own_words() -> None:
    wrapped = ValueError("my own collective failed")
    wrapped.__cause__ = RuntimeError(GLOO)
    with pytest.raises(ValueError) as caught, blame_user_code(Model(type="custom", factory="a:b")):
        raise wrapped
    assert classify(caught.value)[0] is ExitCode.LOST_PEER


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt()], ids=repr)
def test_a_users_model_that_ends_the_process_is_blamed(error: BaseException) -> None:
    with pytest.raises(UserCodeError, match=type(error).__name__), blame_user_code(Model(type="custom", factory="a:b")):
        raise error


def test_a_built_in_model_that_raises_is_our_bug() -> None:
    with pytest.raises(KeyError), blame_user_code(Model(type="gpt")):
        raise KeyError("x")


def test_a_users_model_is_blamed_with_its_frame() -> None:
    with (
        pytest.raises(UserCodeError, match=r"a:b raised KeyError: 'x' \(.*test_train_errors.py:\d+ in test_a_users"),
        blame_user_code(Model(type="custom", factory="a:b")),
    ):
        raise KeyError("x")


def test_fewer_devices_than_processes_name_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    context = Place(tmp_path, port=1).context(0, world=2, node_rank=3, device="cuda")
    with (
        pytest.raises(DeviceMissingError, match=r"node .* \(node rank 3\): 1 CUDA devices, but 2 processes"),
        open_processes(context, Topology(1, 2, 1, 1)),
    ):
        pass
