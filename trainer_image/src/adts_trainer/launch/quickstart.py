"""The job of the bare quick start, `python -m adts_trainer` with no manifest: a tiny GPT reads Python's own source."""

from __future__ import annotations

import sysconfig
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from adts_api.errors import ConfigError
from adts_trainer.launch.settings import LauncherSettings

STEPS = 40
SEQUENCES = 16
TEXT = "asyncio/*.py"  # half a megabyte of English and code that every Python brings along


def new_run_folder(base: Path) -> Path:
    """The next free `default-<n>` in base, made: every quick start trains afresh. Raises ConfigError."""
    for number in count(1):
        folder = base / f"default-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be made ({error.strerror}); start in a folder you may write") from None
        return folder
    raise AssertionError("count() never ends")


def default_job(settings: LauncherSettings, folder: Path) -> dict[str, Any]:
    """The resource: 40 steps of a 0.4 M parameter GPT, checkpoints and metrics in `folder`."""
    source = Path(sysconfig.get_paths()["stdlib"])
    text = {"type": "text", "path": str(source / TEXT)} if list(source.glob(TEXT)) else {"type": "synthetic"}
    processes = settings.local_world_size
    devices = {"gpusPerWorker": processes} if settings.device == "cuda" else {"processesPerWorker": processes}
    return {
        "apiVersion": "adts.dev/v1alpha1",
        "kind": "DistributedTraining",
        "metadata": {"name": settings.job_name},
        "spec": {
            "workers": devices,
            "model": {
                "type": "gpt",
                "shape": "llama",
                "layers": 2,
                "hiddenSize": 128,
                "heads": 4,
                "vocabularySize": 256,
            },
            "data": {**text, "sequenceLength": 128},
            "optimizer": {"learningRate": 0.003, "schedule": {"warmupSteps": 10}},
            "training": {
                "steps": STEPS,
                "globalBatchSize": -(-SEQUENCES // processes) * processes,
                "device": settings.device,
            },
            "checkpoint": {"path": str(folder / "checkpoints")},
        },
    }


def write_default_job(settings: LauncherSettings, folder: Path) -> Path:
    """Writes the resource beside its results, to be copied and changed; returns its path."""
    path = folder / "training.yaml"
    path.write_text(yaml.safe_dump(default_job(settings, folder), sort_keys=False))
    return path
