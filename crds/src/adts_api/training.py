"""What the trainer needs of the spec: the blocks below `spec` that shape the training itself.

Every model is frozen and refuses unknown fields. A field's docstring is its description in the CRD and in
`docs/manifest.md`, so it states meaning and unit. A default is always the value the API server fills in;
the default of a feature that has no code yet is its off value (see `cells.IMPLEMENTED`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class ApiModel(BaseModel):
    """Base of every block: immutable, strict about types like the API server, camelCase outside."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )


class Parallelism(ApiModel):
    """How one model is cut over the processes; data parallelism is whatever is left."""

    mode: Literal["manual", "auto"] = "manual"
    """`manual` uses the degrees below; `auto` lets `adts plan` choose those left at their default."""
    tensor: int = Field(1, ge=1)
    """Tensor-parallel degree: processes that share each layer's matrices. Must divide the processes of a worker."""
    pipeline: int = Field(1, ge=1)
    """Pipeline-parallel degree: number of consecutive groups of layers."""
    schedule: Literal[
        "GPipe", "1F1B", "Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"
    ] = "1F1B"
    """Pipeline schedule, by the names of torch.distributed.pipelining."""
    microbatches: int = Field(1, ge=1)
    """Equal parts each data rank splits its share of the global batch into; gradient accumulation without pipeline."""
    sequence_parallel: bool = False
    """Shard activations between tensor-parallel regions along the sequence."""
    context: int = Field(1, ge=1)
    """Context-parallel degree: processes that share one sequence."""
    expert: int = Field(1, ge=1)
    """Expert-parallel degree: processes that share the experts of a mixture-of-experts layer."""


class Offload(ApiModel):
    """Where ZeRO keeps state that does not fit the device."""

    optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Home of the optimizer state."""
    parameters: Literal["none", "cpu", "nvme"] = "none"
    """Home of the parameters (stage 3 only)."""
    nvme_path: str = ""
    """Folder on a local NVMe disk, for `nvme`."""


class Zero(ApiModel):
    """Sharding of optimizer state (stage 1), gradients (2), parameters (3) over the data ranks (ZeRO, 1910.02054)."""

    stage: int = Field(0, ge=0, le=3)
    """0 replicates everything, 1 shards the optimizer state, 2 also the gradients, 3 also the parameters."""
    engine: Literal["auto", "ddp", "native", "deepspeed"] = "auto"
    """`ddp` is torch DistributedDataParallel, `native` is FSDP2; `auto` takes ddp at stage 0, else native."""
    shard_degree: int = Field(0, ge=0)
    """Data ranks that share one copy of the state; 0 means all of them."""
    offload: Offload = Field(default_factory=Offload)
    """Where state that does not fit the device is kept."""


class Precision(ApiModel):
    """Number formats of the computation. Master weights and optimizer state are fp32 (fp64 with fp64)."""

    dtype: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    """Compute format of forward and backward; fp16 brings a loss scaler, fp64 is for proofs."""
    reduce_dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Format in which gradients travel between shards; sums are fp32 under native. `auto` is fp32 (fp64 with fp64)."""
    initial_loss_scale: float = Field(65536.0, gt=0)
    """First loss scale of fp16."""
    loss_scale_interval: int = Field(2000, ge=1)
    """Steps without overflow after which the fp16 loss scale doubles."""


class Compression(ApiModel):
    """Lossy gradient compression over the slow mesh axis, with error feedback."""

    method: Literal[
        "none", "auto", "bf16", "fp16", "int8", "fp8", "onebit", "topk", "randomk", "powersgd", "custom"
    ] = "none"
    """Compressor; `auto` measures the link and decides."""
    factory: str = ""
    """Import path `package.module:callable` of a compressor of your own, for `custom`."""
    rank: int = Field(4, ge=1)
    """Rank of PowerSGD's factors."""
    ratio: float = Field(0.01, gt=0, le=1)
    """Fraction of entries that top-k and random-k keep."""
    block_size: int = Field(256, ge=1)
    """Entries that share one scale in int8, fp8 and onebit."""
    error_feedback: bool = True
    """Add what was lost to the next gradient."""
    warmup_steps: int = Field(0, ge=0)
    """Optimizer steps before compression begins; with topk, steps of its ramp from a quarter of the entries down."""
    min_elements: int = Field(4096, ge=0)
    """Smaller tensors stay exact."""
    cast: Literal["none", "bf16", "fp16"] = "none"
    """Second stage of a chain: format of the numbers that topk, randomk and powersgd send."""


class Communication(ApiModel):
    """How gradients travel."""

    bucket_megabytes: float = Field(25.0, gt=0)
    """Size of a gradient bucket, in MiB."""
    overlap: bool = True
    """Start a bucket's reduction while the backward pass still runs."""
    sync_every: int = Field(1, ge=1)
    """Optimizer steps that replicas make apart before an outer step brings them together (DiLoCo, local SGD); 1: sum
    gradients in each."""
    outer_learning_rate: float = Field(0.7, gt=0)
    """Learning rate of the outer step; 1 without outer momentum is local SGD, the mean of the parameters."""
    outer_momentum: float = Field(0.9, ge=0, lt=1)
    """Nesterov momentum of the outer step."""


class Model(ApiModel):
    """The network. Exactly one of `spec.model.type` and `spec.command` is set."""

    type: Literal["", "mlp", "gpt", "custom", "huggingface"] = ""
    """`gpt`: a decoder-only transformer. `mlp`: a fully connected net. `custom`: your factory. `huggingface`: a local
    folder."""
    shape: Literal["gpt2", "llama"] = "gpt2"
    """gpt only. gpt2: LayerNorm, learned positions, GELU, biases. llama: RMSNorm, RoPE, SwiGLU, no biases."""
    layers: int = Field(4, ge=1, le=10_000)
    """Transformer blocks (gpt) or hidden layers (mlp)."""
    hidden_size: int = Field(256, ge=1, le=1_000_000)
    """Width of the residual stream (gpt) or of the hidden layers (mlp)."""
    heads: int = Field(4, ge=1)
    """gpt only. Attention heads; must divide hiddenSize."""
    key_value_heads: int = Field(0, ge=0)
    """gpt only. Heads of keys and values (grouped-query attention); must divide heads; 0 means as many as heads."""
    intermediate_size: int = Field(0, ge=0)
    """gpt only. Width inside the feed-forward; 0 means 4 x hiddenSize (gpt2) or 8/3 x hiddenSize in multiples of 64
    (llama)."""
    vocabulary_size: int = Field(0, ge=0)
    """Number of token ids, for gpt and for tokens or synthetic data of any model but mlp; 0 takes it from the data."""
    tie_embeddings: bool = True
    """gpt only. Use the token embedding as output matrix."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """gpt and mlp. Probability of dropping an activation, keyed by seed, step, sample and layer."""
    rope_theta: float = Field(10000.0, gt=0)
    """gpt with shape llama only. Base of the rotary frequencies."""
    input_size: int = Field(0, ge=0)
    """mlp only. Features of an input; 0 takes it from the data."""
    output_size: int = Field(0, ge=0)
    """mlp only. Classes or regression targets; 0 takes it from the data."""
    factory: str = ""
    """custom only. Import path `package.module:callable` that returns a torch.nn.Module."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """custom only. Keyword arguments of the factory."""
    path: str = ""
    """huggingface only. Local folder with config.json and, if pretrained, safetensors."""
    pretrained: bool = True
    """huggingface only. Load the folder's weights; false starts from fresh ones."""


class Evaluation(ApiModel):
    """Held-out loss while training."""

    path: str = ""
    """Held-out data of the same type as `spec.data`; empty switches evaluation off."""
    every_steps: int = Field(0, ge=0)
    """Optimizer steps between evaluations; 0 evaluates only at the end."""
    samples: int = Field(0, ge=0)
    """Samples of one evaluation, evenly spaced; 0 uses all of them."""


class Data(ApiModel):
    """The samples."""

    type: Literal["", "tokens", "text", "jsonl", "tensors", "synthetic"] = ""
    """`tokens`: a memmap of `adts data prepare`. `text`, `jsonl`: tokenised at start. `tensors`: safetensors for mlp.
    `synthetic`: made up, to measure speed."""
    path: str = ""
    """File, folder or glob pattern. Relative paths start where the trainer runs; `/data` is the mounted claim."""
    claim: str = ""
    """PersistentVolumeClaim mounted read-only at /data; empty mounts none. On a laptop /data is `<workdir>/data`."""
    tokenizer: str = "bytes"
    """text and jsonl only. `bytes` (256 ids) or the path of a tokenizer.json."""
    text_field: str = "text"
    """jsonl only. Field of each line that holds the text."""
    token_type: Literal["auto", "uint8", "uint16", "uint32"] = "auto"
    """tokens only. Integer type of the memmap; `auto` reads the .json beside it, else uint16."""
    sequence_length: int = Field(256, ge=1, le=16_777_216)
    """Tokens of one sample."""
    shuffle: bool = True
    """Visit the samples of an epoch in an order that is a function of (seed, epoch)."""
    evaluation: Evaluation = Field(default_factory=Evaluation)
    """Held-out data and how often it is looked at."""


class Schedule(ApiModel):
    """Learning rate over the steps: linear warm-up, then the chosen curve down to minRatio x learningRate."""

    type: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    """Curve after the warm-up; `wsd` is warm-up, stable, linear decay."""
    warmup_steps: int = Field(0, ge=0)
    """Steps of linear warm-up from 0."""
    decay_steps: int = Field(0, ge=0)
    """Length of the decay; 0 means up to training.steps (for wsd its last 20 %)."""
    min_ratio: float = Field(0.1, ge=0, le=1)
    """Final learning rate as a fraction of learningRate."""


class Optimizer(ApiModel):
    """The optimizer. Norms, biases and other vectors are never decayed."""

    name: Literal["adamw", "sgd", "onebit-adam"] = "adamw"
    """adamw (1711.05101), sgd with momentum, or 1-bit Adam (2102.02888)."""
    learning_rate: float = Field(3e-4, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled for adamw, L2 for sgd; on matrices only."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """adamw: decay of the first moment."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """adamw: decay of the second moment."""
    epsilon: float = Field(1e-8, gt=0)
    """adamw: added to the denominator."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """sgd: momentum."""
    clip_norm: float = Field(1.0, ge=0)
    """Largest global gradient norm; 0 never clips."""
    schedule: Schedule = Field(default_factory=Schedule)
    """Learning rate over the steps."""


class Training(ApiModel):
    """The loop."""

    steps: int = Field(0, ge=0)
    """Optimizer steps of the whole job; must be set with a model."""
    global_batch_size: int = Field(8, ge=1, le=16_777_216)
    """Samples per optimizer step of the whole job, whatever the world size."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is cuda where the workers have GPUs, never a silent fall back to CPU."""
    seed: int = Field(0, ge=0)
    """Initial weights, sample order and dropout are functions of it."""
    deterministic: bool = False
    """Bitwise equal re-runs on GPU as well, slower."""
    compile: bool = False
    """Compile each layer with torch.compile; needs a C++ compiler on CPU."""
    activation_checkpointing: Literal["none", "full"] = "none"
    """`full` recomputes every layer in the backward pass."""
    on_divergence: Literal["stop", "skip", "rollback"] = "stop"
    """At a non-finite gradient or a loss spike: end the job, skip the step, or reload the last checkpoint and skip the
    step there."""
    loss_spike_factor: float = Field(0.0, ge=0)
    """A loss above this factor times the mean of the last 100 steps is a divergence; 0 looks at finiteness only."""
    log_every_steps: int = Field(10, ge=1)
    """Steps between two lines of log and metrics."""
    tensorboard: bool = True
    """Write TensorBoard events beside the checkpoints."""


class Checkpoint(ApiModel):
    """Saving and resuming. A checkpoint of any engine and world size loads into any other."""

    path: str = "/checkpoints"
    """Folder of checkpoints, metrics and TensorBoard events.
    On a laptop /checkpoints is `<workdir>/<job>/checkpoints`."""
    claim: str = ""
    """PersistentVolumeClaim mounted at /checkpoints; empty gives a folder that ends with the pod."""
    every_steps: int = Field(0, ge=0)
    """Optimizer steps between checkpoints; 0 saves only at the end and when told to stop."""
    keep: int = Field(3, ge=1)
    """Newest checkpoints that are kept."""
    asynchronous: bool = True
    """Write in the background while training goes on."""
    resume: Literal["auto", "never"] = "auto"
    """`auto` continues from the newest checkpoint in path; `never` refuses to start where one exists."""
    initialize_from: str = ""
    """Pretrained weights to start from where path holds no checkpoint: a file or folder of `adts export`, or a Hugging
    Face folder of GPT-2 or Llama."""
    residual: Literal["sum", "perRank", "none"] = "sum"
    """What is kept of the compressors' error feedback."""
    export: Literal["none", "safetensors", "huggingface"] = "none"
    """Also write the final weights: `safetensors` as one file `model.safetensors`, `huggingface` as a folder
    `huggingface` that transformers loads."""
