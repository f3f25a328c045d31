"""Attention of a flat batch over the paged KV cache: one interface, a native and a NumPy implementation.

One call per layer rotates queries and keys, appends keys and values to the cache and attends. A batch mixes prefill
chunks and decode rows freely; sequence b owns rows query_starts[b]:query_starts[b+1].

Shapes: T rows, B sequences, M block-table width, N blocks, H kv heads, D head_dim, S block_size,
Q fused width (num_heads + 2 num_kv_heads) D, O num_heads D, C max_context, R rotary_dim / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from shoal.model.decoder_config import DecoderConfig
from shoal.model.paged_attention_numpy import NumpyLayer, NumpyStep

if TYPE_CHECKING:
    from shoal import _native

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """One layer's attention, or one shard's share of its heads."""

    num_heads: int
    """query heads, a multiple of num_kv_heads"""
    num_kv_heads: int
    head_dim: int
    """a multiple of 8"""
    rotary_dim: int
    """leading dimensions that rotate; even, at most head_dim"""
    scale: float
    """factor on q.k"""
    window: int = 0
    """tokens a row sees, itself included; 0: all"""
    softcap: float = 0.0
    """cap * tanh(score / cap); 0: none"""

    @classmethod
    def of(cls, config: DecoderConfig, layer: int) -> AttentionShape:
        """The whole attention of one layer of a model."""
        return cls(
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            rotary_dim=config.layer_rope(layer).rotary_dim,
            scale=config.attention_scale,
            window=config.window(layer),
            softcap=config.attention_softcap,
        )

    @property
    def qkv_width(self) -> int:
        """Columns of the fused projection: q heads, k heads, v heads."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    @property
    def out_width(self) -> int:
        return self.num_heads * self.head_dim


class AttentionStep(Protocol):
    """One step's checked metadata, shared by all layers."""

    @property
    def num_tokens(self) -> int: ...
    @property
    def num_sequences(self) -> int: ...


class AttentionLayer(Protocol):
    """The attention of one layer over its part of the cache."""

    def run(self, qkv: F32, out: F32, step: AttentionStep, /) -> None:
        """Rotate, append keys and values, attend.

        Shapes: qkv [T, Q] before rotation (q heads, k heads, v heads), out [T, O]; both C-contiguous.
        Mutates: out, and the slots of the cache that belong to the step's rows.
        Raises: ValueError for a wrong shape or a step made for another cache, TypeError for a wrong type.
        """
        ...


class Attention(Protocol):
    """Makes layers and steps that fit each other. One a worker: it owns the compute threads."""

    @property
    def is_native(self) -> bool: ...

    def layer(self, shape: AttentionShape, keys: F32, values: F32, cos: F32, sin: F32) -> AttentionLayer:
        """The attention of one layer; keeps the arrays alive.

        Shapes: keys [N, H, D, S], values [N, H, S, D] (see `kv_storage`), cos and sin [C, R].
        Raises: ValueError where shapes do not fit each other.
        """
        ...

    def step(self, *, positions: I32, query_starts: I32, context_lens: I32, block_tables: I32) -> AttentionStep:
        """Check and copy one step's metadata; the arrays may change afterwards.

        Shapes: positions [T], query_starts [B+1], context_lens [B], block_tables [B, M] (-1 beyond the last block).
        Raises: ValueError for anything that would read or write outside a sequence's own blocks.
        """
        ...


def native_available() -> bool:
    """Whether the C++ extension was built and can be imported here."""
    try:
        from shoal import _native  # noqa: F401
    except ImportError:
        return False
    return True


def make_attention(
    *, num_threads: int, num_blocks: int, block_size: int, max_context: int, native: bool | None = None
) -> Attention:
    """The attention of one worker.

    `native` None takes the C++ kernel where it was built and NumPy otherwise; True insists; False takes NumPy.

    Raises: ImportError when native is True and the extension is missing, ValueError for an impossible size.
    """
    if min(num_threads, num_blocks, block_size, max_context) < 1 or block_size % 16:
        raise ValueError("threads, blocks and context must be positive, block_size a positive multiple of 16")
    if native is None:
        native = native_available()
    if native:
        return NativeAttention(num_threads, num_blocks, block_size, max_context)
    return NumpyAttention(num_blocks, block_size, max_context)


class NativeAttention:
    """The C++ kernel on its own threads."""

    is_native = True

    def __init__(self, num_threads: int, num_blocks: int, block_size: int, max_context: int, isa: str = "") -> None:
        """`isa` picks one of `_native.supported_isas()` for tests; empty takes the best."""
        from shoal import _native

        self._native = _native
        self._pool = _native.ThreadPool(num_threads)
        self._limits = (num_blocks, block_size, max_context)
        self._isa = isa

    def layer(self, shape: AttentionShape, keys: F32, values: F32, cos: F32, sin: F32) -> _native.AttentionLayer:
        return self._native.AttentionLayer(
            pool=self._pool,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            rotary_dim=shape.rotary_dim,
            scale=shape.scale,
            window=shape.window,
            softcap=shape.softcap,
            keys=keys,
            values=values,
            cos=cos,
            sin=sin,
            isa=self._isa,
        )

    def step(self, *, positions: I32, query_starts: I32, context_lens: I32, block_tables: I32) -> _native.StepMetadata:
        return self._native.StepMetadata(positions, query_starts, context_lens, block_tables, *self._limits)


class NumpyAttention:
    """The same in NumPy: for tests and for machines without a compiler."""

    is_native = False

    def __init__(self, num_blocks: int, block_size: int, max_context: int) -> None:
        self._limits = (num_blocks, block_size, max_context)

    def layer(self, shape: AttentionShape, keys: F32, values: F32, cos: F32, sin: F32) -> NumpyLayer:
        return NumpyLayer(
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            rotary_dim=shape.rotary_dim,
            scale=shape.scale,
            window=shape.window,
            softcap=shape.softcap,
            keys=keys,
            values=values,
            cos=cos,
            sin=sin,
        )

    def step(self, *, positions: I32, query_starts: I32, context_lens: I32, block_tables: I32) -> NumpyStep:
        return NumpyStep(positions, query_starts, context_lens, block_tables, *self._limits)
