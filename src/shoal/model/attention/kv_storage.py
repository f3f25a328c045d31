"""The memory of a stage's paged KV cache: one key array and one value array for each layer, cut into blocks of tokens.

`core.kv.kv_blocks` decides which block belongs to which sequence. The layout inside a block serves the kernel: keys are
stored with the token axis last, so that the scores of neighboring tokens are one vector. Codes of 8 bits are laid out
as described in native/attention/kernel/coded_chunk.h.

Shapes: N blocks, H kv heads, D head_dim, S block_size.
"""

from __future__ import annotations

import math

import numpy as np

from shoal.arrays import F32, I32
from shoal.model.attention.interface import KV
from shoal.model.decoder_config import DecoderConfig
from shoal.model.weights import Precision

KvType = type[np.float32] | type[np.float16] | type[np.uint8]
"""uint8: codes of 8 bits, with a scale for each token and head."""

BLOCK_SIZE_MULTIPLE = 16
"""Tokens of a block are a multiple of this, because the kernel scores 16 keys at a time. Source: one AVX-512 register
of fp32."""
ALIGNMENT_BYTES = 64
"""Alignment of every array: one cache line, so that no vector load crosses two."""
_SCALE_BYTES = 4
_CODE_ZERO = 128
"""Code of 0 in keys."""


def kv_dtype(precision: Precision, *, exact_activations: bool) -> KvType:
    """Type of a stage's cache: half precision if weights or activations are rounded more coarsely anyway.

    Source: perplexity of SmolLM2 with exact weights and activations 14.2170 instead of 14.2164 (docs/log.md).
    """
    return np.float32 if precision == "fp32" or exact_activations else np.float16


def whole_kv_dtype(config: DecoderConfig, precision: Precision, *, exact_activations: bool) -> KvType:
    """Type of keys and values that rows see completely: an encoder's, and those of clips. They are codes if weights and
    activations are.

    Source: the output of tiny.en's encoder at 8 bits deviates from that in fp32 by 1.2 to 4.9 % without codes, and by
    1.3 to 5.5 % with them.
    """
    is_coded = precision in ("int8", "int4") and not exact_activations and config.head_dim % BLOCK_SIZE_MULTIPLE == 0
    return np.uint8 if is_coded else kv_dtype(precision, exact_activations=exact_activations)


def whole_block_size(dtype: KvType, num_positions: int, block_size: int) -> int:
    """Tokens of a block if all `num_positions` of a sequence are kept together. With codes, one block holds them all,
    since contiguous codes of a head are read faster."""
    return -(-num_positions // block_size) * block_size if dtype is np.uint8 else block_size


def kv_bytes_per_token(config: DecoderConfig, num_layers: int, dtype: KvType = np.float32) -> int:
    """Bytes of KV cache for one token of context in `num_layers` layers, with keys and values in `dtype`.

    All layers are assumed to have the same heads: see `decoder.blocks.layer_kv_bytes` for those that do not.
    """
    scale_bytes = _SCALE_BYTES if dtype is np.uint8 else 0
    return num_layers * 2 * config.num_kv_heads * (config.head_dim * np.dtype(dtype).itemsize + scale_bytes)


class KvStorage:
    """Zeroed keys and values of the attention layers in a contiguous range. Pages are allocated when they are first
    written."""

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

        Raises: ValueError for an impossible size, MemoryError if the system refuses it.
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
        owners = layers[:1] if config.sees_all else layers  # nothing is kept for later steps in that case
        self._keys: dict[int, KV] = {}
        self._values: dict[int, KV] = {}
        self._scales: dict[int, tuple[F32, F32]] = {}
        for layer in layers:
            heads = config.layer_heads(layer)
            if layer in owners and config.kv_source(layer) == layer:
                shape = (num_blocks, heads.num_kv_heads)
                self._keys[layer] = aligned_zeros((*shape, heads.head_dim, block_size), dtype)
                self._values[layer] = aligned_zeros((*shape, block_size, heads.head_dim), dtype)
                if dtype is np.uint8:
                    self._scales[layer] = _zero_scales(*shape, block_size), _zero_scales(*shape, block_size)
            elif config.sees_all:
                self._keys[layer], self._values[layer] = self._keys[layers[0]], self._values[layers[0]]
                if dtype is np.uint8:
                    self._scales[layer] = self._scales[layers[0]]

    def keys(self, layer: int) -> KV:
        """Keys of a layer, numbered in the whole model. Shapes: [N, H, D, S]."""
        return self._of(self._keys, layer)

    def values(self, layer: int) -> KV:
        """Values of a layer, numbered in the whole model. Shapes: [N, H, S, D]."""
        return self._of(self._values, layer)

    def scales(self, layer: int) -> tuple[F32, F32] | tuple[None, None]:
        """Factors on a layer's codes, of keys and of values; None if there are no codes.

        Shapes: [N, H, S].
        """
        return self._scales.get(layer, (None, None))

    def keys_of(self, layer: int, blocks: slice, head: int) -> F32:
        """The keys of a head in some blocks, [D, blocks S]."""
        keys_NDS = self.keys(layer)[blocks, head]
        scales, _ = self.scales(layer)
        if scales is None:
            return np.concatenate([*keys_NDS], axis=1).astype(np.float32)
        N, D, S = keys_NDS.shape
        parts = keys_NDS.reshape(N, S // BLOCK_SIZE_MULTIPLE, D // 4, BLOCK_SIZE_MULTIPLE, 4)
        codes_DT = parts.transpose(2, 4, 0, 1, 3).reshape(D, N * S).astype(np.float32) - np.float32(_CODE_ZERO)
        return codes_DT * scales[blocks, head].reshape(-1)

    @property
    def num_bytes(self) -> int:
        """Reserved bytes; resident memory approaches them as blocks are used."""
        return sum(array.nbytes for array in self._arrays)

    def copy_blocks(self, copies_C2: I32) -> None:
        """Copy the first block of each pair to the second, in order. Raises ValueError if a block does not exist."""
        arrays = self._arrays
        num_blocks = min((len(array) for array in arrays), default=0)
        if arrays and copies_C2.size and not 0 <= copies_C2.min() <= copies_C2.max() < num_blocks:
            raise ValueError(f"a block is copied that is none of {num_blocks}")
        for array in arrays:
            for source, target in copies_C2:
                array[target] = array[source]

    def touch(self) -> None:
        """Allocate all pages now."""
        for array in self._arrays:
            array.fill(0)

    @property
    def _arrays(self) -> list[KV | F32]:
        """All arrays, each once."""
        scales = (one for both in self._scales.values() for one in both)
        return list({id(one): one for one in (*self._keys.values(), *self._values.values(), *scales)}.values())

    def _of(self, arrays: dict[int, KV], layer: int) -> KV:
        if layer not in arrays:
            raise ValueError(f"layer {layer} is not stored here, only {', '.join(map(str, arrays))}")
        return arrays[layer]


def _zero_scales(num_blocks: int, num_heads: int, block_size: int) -> F32:
    return np.zeros((num_blocks, num_heads, block_size), np.float32)


def aligned_zeros(shape: tuple[int, ...], dtype: KvType) -> KV:
    """Zeros at a cache-line boundary; np.zeros takes fresh pages from calloc, which are not touched before use."""
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(num_bytes + ALIGNMENT_BYTES, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT_BYTES
    return raw[start : start + num_bytes].view(dtype).reshape(shape)
