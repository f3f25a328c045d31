"""A decoder as the planner sees it: embedding, layers, head, each with its bytes and its arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.plan import Block
from shoal.model.attention.kv_storage import kv_bytes_per_token
from shoal.model.decoder_config import DecoderConfig
from shoal.model.weights import Precision, WeightSource

_FP32_BYTES = 4
_ATTENTION_MATRICES, _MLP_MATRICES = ("q", "k", "v", "o"), ("gate", "up", "down")


def decoder_blocks(source: WeightSource, precision: Precision, *, wide_kernels: bool) -> list[Block]:
    """[embedding, layer 0, ..., head], from headers alone: no weight is read.

    With `wide_kernels`, layers of 4-bit weights count twice: they are held in two packings.
    """
    config = source.config
    hidden_bytes = config.hidden_size * _FP32_BYTES
    embedding = Block(
        name="embedding",
        weight_bytes=source.matrix_bytes("embedding", precision),
        flops_per_token=0.0,
        kv_bytes_per_token=0,
        output_bytes_per_token=hidden_bytes,
    )
    head = Block(
        name="head",
        weight_bytes=source.matrix_bytes("head", precision),
        flops_per_token=2.0 * config.vocab_size * config.hidden_size,
        kv_bytes_per_token=0,
        output_bytes_per_token=_FP32_BYTES,
    )
    layers = [
        Block(
            name=f"layer.{layer}",
            weight_bytes=sum(layer_bytes(source, precision, layer, wide_kernels=wide_kernels)),
            flops_per_token=_layer_flops(config),
            kv_bytes_per_token=kv_bytes_per_token(config, 1),
            output_bytes_per_token=hidden_bytes,
        )
        for layer in range(config.num_layers)
    ]
    return [embedding, *layers, head]


def layer_bytes(source: WeightSource, precision: Precision, layer: int, *, wide_kernels: bool) -> tuple[int, int]:
    """Resident bytes of a layer's attention matrices and of its MLP's. See `decoder_blocks` for `wide_kernels`."""

    def size(parts: Sequence[str]) -> int:
        return sum(source.matrix_bytes(f"layers.{layer}.{part}", precision) for part in parts)

    attention, mlp = size(_ATTENTION_MATRICES), size(_MLP_MATRICES)
    is_4_bit = attention + mlp < _layer_flops(source.config) / 2  # less than a byte a weight
    return (2 * attention, 2 * mlp) if wide_kernels and is_4_bit else (attention, mlp)


def _layer_flops(config: DecoderConfig) -> float:
    """Multiply-adds of one layer's matrices, twice."""
    heads = config.num_heads * config.head_dim
    kv_heads = config.num_kv_heads * config.head_dim
    attention = config.hidden_size * (2 * heads + 2 * kv_heads)
    return 2.0 * (attention + 3 * config.hidden_size * config.intermediate_size)
