"""A decoder as the planner sees it: embedding, layers, head, each with its bytes and its arithmetic.

Bytes are those that a worker's process holds, to a few percent: tests/model/decoder/test_memory.py compares them with
what processes take, for every form of weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.plan import Block
from shoal.model.attention.kv_storage import kv_bytes_per_token
from shoal.model.decoder.segment_sizes import count_segments, int8_packing_bytes
from shoal.model.decoder_config import DecoderConfig
from shoal.model.shard_source import ShardSource
from shoal.model.weights import BLOCK, Precision, WeightSource

_FP32_BYTES = 4
PROCESS_BYTES = 40 << 20
"""Anonymous memory of a worker before it has loaded anything: Python and its imports. Source: measured, as
_SESSION_BYTES is, in tests/model/decoder/test_memory.py."""
_SESSION_BYTES = 300 << 10
_BEFORE_THE_HEAD = ("o", "gate", "up", "down")
"""Matrices of the last layer that are in one session with the head, where sampled rows alone meet them."""
_ATTENTION_MATRICES, _MLP_MATRICES = ("q", "k", "v", "o"), ("gate", "up", "down")


def file_blocks(source: WeightSource, precision: Precision) -> list[Block]:
    """[embedding, layer 0, ..., head], from headers alone, with the bytes of weights that a step reads."""
    return _blocks(
        source,
        [source.matrix_bytes(name, precision) for name in ("embedding", "head")],
        [
            sum(
                source.matrix_bytes(f"layers.{layer}.{part}", precision) for part in _ATTENTION_MATRICES + _MLP_MATRICES
            )
            for layer in range(source.config.num_layers)
        ],
    )


def decoder_blocks(
    source: WeightSource, precision: Precision, *, wide_kernels: bool, exact_activations: bool = False
) -> list[Block]:
    """The same with the bytes that a worker holds.

    With `wide_kernels`, layers of 4-bit weights are held twice: they are in two packings. With `exact_activations` they
    are not, but 8-bit weights are held in fp32.
    """
    return _blocks(
        source,
        end_bytes(source, precision, exact_activations=exact_activations),
        [
            sum(layer_bytes(source, precision, layer, wide_kernels=wide_kernels, exact_activations=exact_activations))
            for layer in range(source.config.num_layers)
        ],
    )


def end_bytes(source: WeightSource, precision: Precision, *, exact_activations: bool = False) -> tuple[int, int]:
    """What a worker holds of the embedding, which is not packed, and of the head."""
    config = source.config
    num_weights = config.vocab_size * config.hidden_size
    head = _held(source.matrix_bytes("head", precision), num_weights, is_exact=exact_activations)
    return source.matrix_bytes("embedding", precision), head


def layer_bytes(
    source: WeightSource,
    precision: Precision,
    layer: int,
    *,
    wide_kernels: bool,
    exact_activations: bool = False,
) -> tuple[int, int]:
    """What a worker holds of a layer's attention matrices and of its MLP's. See `decoder_blocks` for the rest."""
    sizes = {
        name: (source.matrix_bytes(f"layers.{layer}.{name}", precision), num_weights)
        for name, num_weights in _matrix_weights(source.config).items()
    }
    has_wide = (
        wide_kernels
        and not exact_activations
        and any(num_bytes < num_weights for num_bytes, num_weights in sizes.values())
    )
    is_end = layer == source.config.num_layers - 1 and not isinstance(source, ShardSource)
    narrow_only = _BEFORE_THE_HEAD if is_end else ()

    def total(names: Sequence[str]) -> int:
        narrow = sum(_held(*sizes[name], is_exact=exact_activations) for name in names)
        wide = sum(_held(*sizes[name], is_wide=True) for name in names if name not in narrow_only)
        return narrow + (wide if has_wide else 0)

    return total(_ATTENTION_MATRICES), total(_MLP_MATRICES)


def process_bytes(
    source: WeightSource,
    precision: Precision,
    num_layers: int,
    *,
    wide_kernels: bool,
    is_shard: bool,
    max_step_tokens: int,
) -> int:
    """What a worker's process takes beside weights and KV: Python, sessions, and the memory that steps work on.

    Args:
        source: the whole model.
        precision: of its matrices.
        num_layers: that the worker has.
        wide_kernels: see `decoder_blocks`.
        is_shard: whether it has a part of each layer only.
        max_step_tokens: rows of the largest step.
    """
    config = source.config
    one, both = (sum(layer_bytes(source, precision, 0, wide_kernels=wide)) for wide in (False, wide_kernels))
    num_sessions = count_segments(num_layers, is_shard=is_shard) * (2 if both > one else 1)
    heads = config.num_heads + config.num_kv_heads
    row_items = 4 * config.hidden_size + 2 * heads * config.head_dim + 4 * config.intermediate_size
    return PROCESS_BYTES + num_sessions * _SESSION_BYTES + max_step_tokens * row_items * _FP32_BYTES


def _blocks(source: WeightSource, ends: Sequence[int], layers: Sequence[int]) -> list[Block]:
    config = source.config
    hidden_bytes = config.hidden_size * _FP32_BYTES
    embedding = Block(
        name="embedding",
        weight_bytes=ends[0],
        flops_per_token=0.0,
        kv_bytes_per_token=0,
        output_bytes_per_token=hidden_bytes,
    )
    head = Block(
        name="head",
        weight_bytes=ends[1],
        flops_per_token=2.0 * config.vocab_size * config.hidden_size,
        kv_bytes_per_token=0,
        output_bytes_per_token=_FP32_BYTES,
    )
    return [
        embedding,
        *(
            Block(
                name=f"layer.{layer}",
                weight_bytes=num_bytes,
                flops_per_token=_layer_flops(config),
                kv_bytes_per_token=kv_bytes_per_token(config, 1),
                output_bytes_per_token=hidden_bytes,
            )
            for layer, num_bytes in enumerate(layers)
        ),
        head,
    ]


def _held(num_bytes: int, num_weights: int, *, is_wide: bool = False, is_exact: bool = False) -> int:
    """What a session holds of a matrix of that size. 4-bit weights of a wide session meet fp32 activations, and of an
    exact one all do; for 8-bit weights that takes fp32 copies in their place."""
    is_dense, is_4_bit = num_bytes >= _FP32_BYTES * num_weights, num_bytes < num_weights
    if is_dense or (is_4_bit and (is_wide or is_exact)):
        return num_bytes
    if is_exact:
        return num_weights * _FP32_BYTES
    return num_bytes + int8_packing_bytes(num_weights // BLOCK)


def _matrix_weights(config: DecoderConfig) -> dict[str, int]:
    """Weights of each matrix of a layer."""
    hidden, heads = config.hidden_size, config.num_heads * config.head_dim
    kv_heads = config.num_kv_heads * config.head_dim
    mlp = hidden * config.intermediate_size
    return {
        **{"q": hidden * heads, "k": hidden * kv_heads, "v": hidden * kv_heads, "o": heads * hidden},
        **dict.fromkeys(_MLP_MATRICES, mlp),
    }


def _layer_flops(config: DecoderConfig) -> float:
    """Multiply-adds of one layer's matrices, twice."""
    return 2.0 * sum(_matrix_weights(config).values())
