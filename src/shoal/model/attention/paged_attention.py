"""Chooses the implementation of attention: the native kernel if it was built, otherwise NumPy."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, TypeVar

from shoal.arrays import F32, I32
from shoal.model.attention.interface import KV, NO_VECTORS, Attention, AttentionShape, AttentionVectors
from shoal.model.attention.paged_attention_numpy import NumpyLayer, NumpyStep

if TYPE_CHECKING:
    from shoal import _native

_Step = TypeVar("_Step", NumpyStep, "_native.StepMetadata")


def native_available() -> bool:
    """Whether the C++ extension was built and can be imported."""
    try:
        from shoal import _native  # noqa: F401
    except ImportError:
        return False
    return True


def make_attention(
    *,
    num_threads: int,
    num_blocks: int,
    block_size: int,
    max_context: int,
    native: bool | None = None,
    isa: str = "",
    pool: _native.ThreadPool | None = None,
) -> Attention:
    """The attention of one worker.

    `pool`: existing compute threads, instead of `num_threads` new ones.
    `native`: None: the C++ kernel if it was built, otherwise NumPy; True: the kernel; False: NumPy.

    Raises: ImportError if native is True and the extension is missing, ValueError for an impossible size.
    """
    if min(num_threads, num_blocks, block_size, max_context) < 1 or block_size % 16:
        raise ValueError("threads, blocks and context must be positive, block_size a positive multiple of 16")
    if native is None:
        native = native_available()
    if native:
        return NativeAttention(num_threads, num_blocks, block_size, max_context, isa, pool)
    return NumpyAttention(num_blocks, block_size, max_context)


class NativeAttention:
    """The C++ kernel on its own threads."""

    is_native = True

    def __init__(
        self,
        num_threads: int,
        num_blocks: int,
        block_size: int,
        max_context: int,
        isa: str = "",
        pool: _native.ThreadPool | None = None,
    ) -> None:
        """`isa`: one of `_native.supported_isas()`, for tests; empty: the best one."""
        from shoal import _native

        self._native = _native
        self.pool = _native.ThreadPool(num_threads) if pool is None else pool
        """The compute threads, which may do other work between two layers."""
        self._limits = (num_blocks, block_size, max_context)
        self._isa = isa

    def layer(
        self,
        shape: AttentionShape,
        keys: KV,
        values: KV,
        cos: F32,
        sin: F32,
        vectors: AttentionVectors = NO_VECTORS,
    ) -> _native.AttentionLayer:
        return self._native.AttentionLayer(
            pool=self.pool,
            **asdict(shape),
            keys=keys,
            values=values,
            cos=cos,
            sin=sin,
            **_arrays(vectors),
            isa=self._isa,
        )

    def step(
        self,
        *,
        positions: I32,
        query_starts: I32,
        context_lens: I32,
        block_tables: I32,
        angles: tuple[F32, F32] | None = None,
        ends_seen: I32 | None = None,
    ) -> _native.StepMetadata:
        step = self._native.StepMetadata(positions, query_starts, context_lens, block_tables, *self._limits)
        return _with_rows_of_pictures(step, angles, ends_seen)


class NumpyAttention:
    """Attention in NumPy, for tests and for machines without a compiler."""

    is_native = False

    def __init__(self, num_blocks: int, block_size: int, max_context: int) -> None:
        self._limits = (num_blocks, block_size, max_context)

    def layer(
        self,
        shape: AttentionShape,
        keys: KV,
        values: KV,
        cos: F32,
        sin: F32,
        vectors: AttentionVectors = NO_VECTORS,
    ) -> NumpyLayer:
        return NumpyLayer(
            **asdict(shape),
            keys=keys,
            values=values,
            cos=cos,
            sin=sin,
            **_arrays(vectors),
        )

    def step(
        self,
        *,
        positions: I32,
        query_starts: I32,
        context_lens: I32,
        block_tables: I32,
        angles: tuple[F32, F32] | None = None,
        ends_seen: I32 | None = None,
    ) -> NumpyStep:
        step = NumpyStep(positions, query_starts, context_lens, block_tables, *self._limits)
        return _with_rows_of_pictures(step, angles, ends_seen)


def _with_rows_of_pictures(step: _Step, angles: tuple[F32, F32] | None, ends_seen: I32 | None) -> _Step:
    if angles is not None:
        step.set_angles(*angles)
    if ends_seen is not None:
        step.set_ends_seen(ends_seen)
    return step


def _arrays(vectors: AttentionVectors) -> dict[str, Any]:
    """Vectors by name, not copied as by `asdict`."""
    return {one.name: getattr(vectors, one.name) for one in fields(vectors)}
