"""From `spec.compression` to a compressor: the one place that knows all of them."""

from __future__ import annotations

from collections.abc import Sequence

from adts_api.errors import ConfigError
from adts_api.training import Compression
from adts_trainer.communication.codecs import BFloat16, Codec, Float8, Float16, Int8, Plain, Sign
from adts_trainer.communication.compressor import Compressor, Piece
from adts_trainer.communication.exact import Exact
from adts_trainer.communication.powersgd import PowerSGD
from adts_trainer.communication.randomk import RandomK
from adts_trainer.communication.topk import TopK
from adts_trainer.communication.two_stage import TwoStage
from adts_trainer.communication.wire import Wire
from adts_trainer.errors import UserCodeError
from adts_trainer.user_code import find_callable

_FACTORY = "spec.compression.factory"


def build(compression: Compression, wire: Wire, pieces: Sequence[Piece], seed: int) -> Compressor:
    """The compressor of one bucket; `seed` is equal on all ranks.

    `warmupSteps` is top-k's ramp; of the other methods the caller sums with `Exact` meanwhile. Raises ConfigError for
    `auto`, which is no compressor, and UserCodeError for what is wrong with a user's own.
    """
    match compression.method:
        case "none":
            return Exact(wire, pieces)
        case "bf16" | "fp16" | "int8" | "fp8" | "onebit":
            return TwoStage(wire, pieces, _codec(compression.method, compression.block_size))
        case "topk":
            return TopK(wire, pieces, _codec(compression.cast), compression.ratio, compression.warmup_steps)
        case "randomk":
            unbiased = not compression.error_feedback
            return RandomK(
                wire, pieces, compression.ratio, seed, unbiased=unbiased, cast=_cast(compression, wire, pieces)
            )
        case "powersgd":
            return PowerSGD(wire, pieces, compression.rank, seed, _cast(compression, wire, pieces))
        case "custom":
            return _custom(compression.factory, wire, pieces)
        case method:
            raise ConfigError(f"spec.compression.method: {method} is no compressor; choose one before it is built")


def _codec(name: str, block: int = 1) -> Codec:
    match name:
        case "bf16":
            return BFloat16()
        case "fp16":
            return Float16()
        case "int8":
            return Int8(block)
        case "fp8":
            return Float8(block)
        case "onebit":
            return Sign(block)
        case _:
            return Plain()


def _cast(compression: Compression, wire: Wire, pieces: Sequence[Piece]) -> Compressor | None:
    """What sums a compressor's own numbers in fewer bytes; None to sum them as they are."""
    return None if compression.cast == "none" else TwoStage(wire, pieces, _codec(compression.cast))


def _custom(path: str, wire: Wire, pieces: Sequence[Piece]) -> Compressor:
    factory = find_callable(path, _FACTORY)
    try:
        compressor = factory(wire, tuple(pieces))
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        raise UserCodeError(f"{_FACTORY}: {path}(wire, pieces) raised {type(error).__name__}: {error}") from error
    if not isinstance(compressor, Compressor):
        raise UserCodeError(
            f"{_FACTORY}: {path} returned {type(compressor).__name__}; "
            "it must return an adts_trainer.communication.compressor.Compressor"
        )
    return compressor
