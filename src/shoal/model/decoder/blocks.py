"""A decoder as the planner sees it: embedding, layers, head, each with its bytes and its arithmetic.

Bytes are those that a worker's process holds, to a few percent: tests/model/decoder/test_memory.py compares them with
what processes take, for every form of weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.plan.language import Block
from shoal.model.attention.kv_storage import kv_bytes_per_token, kv_dtype
from shoal.model.attention.paged_attention import native_available
from shoal.model.decoder_config import DecoderConfig
from shoal.model.packed.pack import packed_bytes
from shoal.model.weights import Precision, WeightSource

_FP32_BYTES = 4
PROCESS_BYTES = 20 << 20
"""Anonymous memory of a worker before it has loaded anything: Python and its imports. Source: measured in
tests/model/decoder/test_memory.py."""
_CODES_BYTES = 3
"""Of each value of the widest row that matrices multiply, at most: its codes (two bytes where activations are exact),
and the scale and sums of its block of 32. Source: native/stage/stage.cpp."""
_ATTENTION_MATRICES, _MLP_MATRICES = ("q", "k", "v", "o"), ("gate", "up", "down")


def decoder_blocks(source: WeightSource, precision: Precision, *, exact_activations: bool = False) -> list[Block]:
    """[embedding, layer 0, ..., head], from headers alone. `exact_activations`: see `StageConfig`."""
    layers = [sum(layer_bytes(source, precision, layer)) for layer in range(source.config.num_layers)]
    kv_type = kv_dtype(precision, exact_activations=exact_activations)
    return _blocks(source, end_bytes(source, precision), layers, kv_bytes_per_token(source.config, 1, kv_type))


def end_bytes(source: WeightSource, precision: Precision) -> tuple[int, int]:
    """Of the embedding and of the head, which may be the same: see `core.plan.language.held_bytes`."""
    return _held_bytes(source, "embedding", precision), _held_bytes(source, "head", precision)


def layer_bytes(source: WeightSource, precision: Precision, layer: int) -> tuple[int, int]:
    """Of a layer's attention matrices and of its MLP's."""

    def total(names: Sequence[str]) -> int:
        return sum(_held_bytes(source, f"layers.{layer}.{name}", precision) for name in names)

    return total(_ATTENTION_MATRICES), total(_MLP_MATRICES)


def _held_bytes(source: WeightSource, name: str, precision: Precision) -> int:
    """What a worker holds of a matrix: its packed form, or without the extension what ONNX Runtime is given."""
    return packed_bytes(source, name, precision) if native_available() else source.matrix_bytes(name, precision)


def process_bytes(config: DecoderConfig, *, max_step_tokens: int) -> int:
    """What a worker's process takes beside weights and KV: Python, and the memory that steps work on.

    Args:
        config: of the whole model; a shard works on no more.
        max_step_tokens: rows of the largest step.
    """
    heads = config.num_heads * config.head_dim
    qkv = heads + 2 * config.num_kv_heads * config.head_dim
    row_items = 3 * config.hidden_size + qkv + heads + config.intermediate_size
    widest = max(config.hidden_size, heads, config.intermediate_size)
    return PROCESS_BYTES + max_step_tokens * (row_items * _FP32_BYTES + widest * _CODES_BYTES)


def _blocks(source: WeightSource, ends: Sequence[int], layers: Sequence[int], kv_bytes: int) -> list[Block]:
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
        same_weights_as="embedding" if config.tied_embeddings and native_available() else "",
    )
    return [
        embedding,
        *(
            Block(
                name=f"layer.{layer}",
                weight_bytes=num_bytes,
                flops_per_token=_layer_flops(config),
                kv_bytes_per_token=kv_bytes,
                output_bytes_per_token=hidden_bytes,
            )
            for layer, num_bytes in enumerate(layers)
        ),
        head,
    ]


def _layer_flops(config: DecoderConfig) -> float:
    """Multiply-adds of one layer's matrices, twice."""
    heads = 2 * (config.num_heads + config.num_kv_heads) * config.head_dim
    return 2.0 * config.hidden_size * (heads + 3 * config.intermediate_size)
