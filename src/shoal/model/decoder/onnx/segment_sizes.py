"""How many graphs a stage has in the ONNX form, and what ONNX Runtime adds to them, without building any."""

from __future__ import annotations

from shoal.model.attention.paged_attention import native_available

_FP32_BYTES = 4


def count_segments(num_layers: int, *, is_shard: bool, is_parallel: bool = False) -> int:
    """Segments of a stage with this many layers. `is_parallel`: attention and MLP share one sum over the shards."""
    per_layer = (2 if is_parallel else 3) if is_shard else 1
    return num_layers * per_layer + 1


def count_pieces(num_layers: int, *, is_shard: bool) -> int:
    """Pieces of weights that such a stage loads one after the other, in the form that this installation uses."""
    return num_layers + 1 if native_available() else count_segments(num_layers, is_shard=is_shard)


def int8_packing_bytes(num_blocks: int) -> int:
    """Bytes that ONNX Runtime adds to blocks that are multiplied by 8-bit activations: it packs scales and sums next to
    the weights, and keeps the scales that it was given. Source: tests/model/decoder/test_memory.py measures it."""
    return num_blocks * 2 * _FP32_BYTES
