"""DeepSpeed's configuration from the spec. Pure: what it imports is the API only, and DeepSpeed least of all.

Every key is written whose default would change the training: DeepSpeed clips at 1.0 where `gradient_clipping` is
absent, sums half-precision gradients in half precision, and waits two overflows before it lowers the loss scale.
"""

from __future__ import annotations

from typing import Any

from adts_api.topology import Topology
from adts_api.v1alpha1 import Spec

_MEBIBYTE = 1024 * 1024
_FP32_BYTES = 4


def zero_config(spec: Spec, layout: Topology, *, on_gpu: bool) -> dict[str, Any]:
    """What `deepspeed.initialize` is given. Samples are of one rank, sizes in entries."""
    micro_batches, dtype = spec.parallelism.microbatches, spec.precision.dtype
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": spec.training.global_batch_size // (layout.dp * micro_batches),
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": 0.0,  # ours: exact, by a factor that also knows the number of targets
        "zero_optimization": _sharding(spec, on_gpu=on_gpu),
        "zero_allow_untested_optimizer": True,  # torch's AdamW and SGD
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeedCPUAdam compiles C++ for a minute at its first use
        "steps_per_print": None,
    }
    if spec.parallelism.pipeline > 1:
        is_same = not spec.parallelism.sequence_parallel  # then a tensor rank sends its part, and the next gathers all
        config["pipeline"] = {"pipe_partitioned": is_same, "grad_partitioned": is_same}
    wire = spec.precision.reduce_dtype
    if dtype != "fp32" or wire != "auto":
        config["communication_data_type"] = "fp32" if wire == "auto" else wire
    if dtype != "fp32":
        config[dtype] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    if dtype == "fp16":
        config["fp16"] |= {
            "loss_scale": 0,  # dynamic
            "loss_scale_window": spec.precision.loss_scale_interval,
            "hysteresis": 1,
        }
    return config


def _sharding(spec: Spec, *, on_gpu: bool) -> dict[str, Any]:
    zero = spec.zero
    bucket = max(1, int(spec.communication.bucket_megabytes * _MEBIBYTE) // _FP32_BYTES)
    sharding: dict[str, Any] = {
        "stage": zero.stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket + bucket % 2,  # it wants an even number
        "overlap_comm": on_gpu and spec.communication.overlap,
        "contiguous_gradients": True,
    }
    if zero.offload.optimizer == "cpu":
        sharding["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    if zero.offload.parameters == "cpu":
        sharding["offload_param"] = {"device": "cpu", "pin_memory": on_gpu}
    return sharding
