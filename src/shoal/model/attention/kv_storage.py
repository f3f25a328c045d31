"""The memory of a stage's paged KV cache: one key and one value array a layer, cut into blocks of tokens.

Which block belongs to whom is decided by `core.kv.kv_blocks`; this is only the memory. The layout inside a block serves
the kernel: keys are stored with the token axis last, so that the scores of neighbouring tokens are one vector.

Shapes: N blocks, H kv heads, D head_dim, S block_size.
"""

from __future__ import annotations

import math

import numpy as np

from shoal.arrays import I32
from shoal.model.attention.interface import KV
from shoal.model.decoder_config import DecoderConfig
from shoal.model.weights import Precision

KvType = type[np.float32] | type[np.float16]

BLOCK_SIZE_MULTIPLE = 16
"""Tokens; the kernel scores 16 keys at a time. Source: one AVX-512 register of fp32."""
ALIGNMENT_BYTES = 64
"""Start of every array: one cache line, so that no vector load crosses two."""


def kv_dtype(precision: Precision, *, exact_activations: bool) -> KvType:
    """What a stage holds its cache in: half precision, where weights or activations are rounded more coarsely anyway.

    Source: perplexity of SmolLM2 with exact weights and activations 14.2170 instead of 14.2164 (docs/log.md).
    """
    return np.float32 if precision == "fp32" or exact_activations else np.float16


def kv_bytes_per_token(config: DecoderConfig, num_layers: int, dtype: KvType = np.float32) -> int:
    """Bytes of KV cache that one token of context takes in `num_layers` layers, its keys and values held in `dtype`.

    Layers that have other heads than most, or none, are not considered: see `decoder.blocks.layer_kv_bytes`.
    """
    return num_layers * 2 * config.num_kv_heads * config.head_dim * np.dtype(dtype).itemsize


class KvStorage:
    """Zeroed keys and values of the layers with attention in a contiguous range. Pages are taken from the system when
    first written."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        first_layer: int,
        last_layer: int,
        num_blocks: int,
        block_size: int,
        dtype: KvType = np.float32,
    ) -> None:
        """Layers `first_layer` to `last_layer` (exclusive), each with `num_blocks` blocks of `block_size` tokens.

        Raises: ValueError for an impossible size, MemoryError where the system refuses it.
        """
        if first_layer > config.last_cut and first_layer < config.num_layers:
            raise ValueError(
                f"no stage can begin with layer {first_layer}: it attends over keys of layers before, so that "
                f"{config.last_cut} is the last that one can begin with"
            )
        if not 0 <= first_layer <= last_layer <= config.num_layers:
            raise ValueError(f"layers {first_layer}:{last_layer} are not within the model's {config.num_layers}")
        if num_blocks < 1 or block_size < 1 or block_size % BLOCK_SIZE_MULTIPLE:
            raise ValueError(f"{num_blocks} blocks of {block_size} tokens: need blocks of a multiple of 16 tokens")
        layers = [layer for layer in range(first_layer, last_layer) if config.has_attention(layer)]
        owners = layers[:1] if config.sees_all else layers  # nothing is kept for later steps there
        self._keys: dict[int, KV] = {}
        self._values: dict[int, KV] = {}
        for layer in layers:
            heads = config.layer_heads(layer)
            if layer in owners and config.kv_source(layer) == layer:
                shape = (num_blocks, heads.num_kv_heads)
                self._keys[layer] = aligned_zeros((*shape, heads.head_dim, block_size), dtype)
                self._values[layer] = aligned_zeros((*shape, block_size, heads.head_dim), dtype)
            elif config.sees_all:
                self._keys[layer], self._values[layer] = self._keys[layers[0]], self._values[layers[0]]

    def keys(self, layer: int) -> KV:
        """Keys of a layer, counted over the whole model. Shapes: [N, H, D, S]."""
        return self._of(self._keys, layer)

    def values(self, layer: int) -> KV:
        """Values of a layer, counted over the whole model. Shapes: [N, H, S, D]."""
        return self._of(self._values, layer)

    @property
    def num_bytes(self) -> int:
        """Bytes reserved; resident memory grows towards it as blocks are used."""
        arrays = {id(array): array for array in (*self._keys.values(), *self._values.values())}
        return sum(array.nbytes for array in arrays.values())

    def copy_blocks(self, copies_C2: I32) -> None:
        """Copy the first block of each pair to the second, in order. Raises ValueError for one that is not there."""
        arrays = {id(array): array for array in (*self._keys.values(), *self._values.values())}
        num_blocks = min((len(array) for array in arrays.values()), default=0)
        if arrays and copies_C2.size and not 0 <= copies_C2.min() <= copies_C2.max() < num_blocks:
            raise ValueError(f"a block is copied that is none of {num_blocks}")
        for array in arrays.values():
            for source, target in copies_C2:
                array[target] = array[source]

    def touch(self) -> None:
        """Take all pages from the system now."""
        for array in (*self._keys.values(), *self._values.values()):
            array.fill(0.0)

    def _of(self, arrays: dict[int, KV], layer: int) -> KV:
        if layer not in arrays:
            raise ValueError(f"layer {layer} is not stored here, only {', '.join(map(str, arrays))}")
        return arrays[layer]


def aligned_zeros(shape: tuple[int, ...], dtype: KvType) -> KV:
    """Zeros at a cache-line boundary; np.zeros takes fresh pages from calloc, which are not touched before use."""
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(num_bytes + ALIGNMENT_BYTES, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT_BYTES
    return raw[start : start + num_bytes].view(dtype).reshape(shape)
