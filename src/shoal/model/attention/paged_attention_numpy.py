"""Paged attention in NumPy: the reference for the native kernel, on the same cache layout.

Shapes: T rows, B sequences, M block-table width, N blocks, H kv heads, G query heads per kv head, D head_dim, S
block_size, L context length of one sequence, R rotary_dim / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.arrays import F32, I32
from shoal.model.attention.interface import KV, AttentionStep


class NumpyStep:
    """Checked metadata of one step; see `interface.Attention.step`."""

    def __init__(
        self,
        positions: I32,
        query_starts: I32,
        context_lens: I32,
        block_tables: I32,
        num_blocks: int,
        block_size: int,
        max_context: int,
    ) -> None:
        for name, array, ndim in (
            ("positions", positions, 1),
            ("query_starts", query_starts, 1),
            ("context_lens", context_lens, 1),
            ("block_tables", block_tables, 2),
        ):
            if array.dtype != np.int32:
                raise TypeError(f"{name} must be int32, not {array.dtype}")
            if array.ndim != ndim:
                raise ValueError(f"{name} must have {ndim} dimensions, not {array.ndim}")
        self.positions_T = positions.copy()
        self.query_starts_B1 = query_starts.copy()
        self.context_lens_B = context_lens.copy()
        self.block_tables_BM = block_tables.copy()
        self.limits = (num_blocks, block_size, max_context)
        self.angles: tuple[F32, F32] | None = None
        self.ends_seen_T: I32 = self.positions_T + np.int32(1)
        self._check_rows()
        self._check_sequences()

    @property
    def num_tokens(self) -> int:
        return self.positions_T.size

    @property
    def num_sequences(self) -> int:
        return self.context_lens_B.size

    def set_angles(self, cos_TR: F32, sin_TR: F32) -> None:
        """Rotate rows by these angles in every layer. Raises ValueError."""
        if cos_TR.shape != sin_TR.shape or cos_TR.ndim != 2 or len(cos_TR) != self.num_tokens:
            raise ValueError("every row must have its angles")
        self.angles = cos_TR.copy(), sin_TR.copy()

    def set_ends_seen(self, ends_T: I32) -> None:
        """Set the key before which each row sees. Raises ValueError."""
        if ends_T.shape != self.positions_T.shape:
            raise ValueError("every row must say what it sees")
        for b, context in enumerate(self.context_lens_B.tolist()):
            rows = slice(int(self.query_starts_B1[b]), int(self.query_starts_B1[b + 1]))
            ends = ends_T[rows]
            if np.any(ends <= self.positions_T[rows]) or np.any(ends > context) or np.any(np.diff(ends) < 0):
                raise ValueError(f"sequence {b}: a row sees what it cannot")
        self.ends_seen_T = ends_T.copy()

    def _check_rows(self) -> None:
        starts = self.query_starts_B1
        if starts.size != self.num_sequences + 1 or self.block_tables_BM.shape[0] != self.num_sequences:
            raise ValueError("query_starts, context_lens and block_tables disagree on the number of sequences")
        if starts[0] != 0 or starts[-1] != self.num_tokens or np.any(np.diff(starts) < 0):
            raise ValueError("query_starts must rise from 0 to the number of rows")

    def _check_sequences(self) -> None:
        num_blocks, block_size, max_context = self.limits
        for b, context in enumerate(self.context_lens_B.tolist()):
            first, last = int(self.query_starts_B1[b]), int(self.query_starts_B1[b + 1])
            if not last - first <= context <= max_context:
                raise ValueError(f"sequence {b}: context {context} is not within its rows and {max_context}")
            if np.any(self.positions_T[first:last] != np.arange(context - (last - first), context)):
                raise ValueError(f"sequence {b}: positions are not the last ones of its context")
            used = -(-context // block_size)
            blocks = self.block_tables_BM[b, :used]
            if blocks.size < used or np.any(blocks < 0) or np.any(blocks >= num_blocks):
                raise ValueError(f"sequence {b}: its block table is too short or names a block that is not there")


@dataclass(frozen=True, slots=True, kw_only=True)
class NumpyLayer:
    """One layer's attention; see `interface.AttentionLayer`."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int
    scale: float
    window: int
    softcap: float
    keys: KV
    """[N, H, D, S]"""
    values: KV
    """[N, H, S, D]"""
    cos: F32
    """[max_context, R]"""
    sin: F32
    in_chunks: bool = False
    sees_all: bool = False
    norm_epsilon: float = 0.0
    only_reads: bool = False
    sinks: F32 | None = None
    """[num_heads]"""
    q_norm: F32 | None = None
    """[D]"""
    k_norm: F32 | None = None
    """[D]"""
    query_scales: F32 | None = None
    """[max_context]"""
    key_scales: None = None
    value_scales: None = None

    def __post_init__(self) -> None:
        if self.num_kv_heads < 1 or self.num_heads < 1 or self.num_heads % self.num_kv_heads:
            raise ValueError("num_heads must be a positive multiple of num_kv_heads")
        if self.head_dim < 1:
            raise ValueError("head_dim must be positive")
        if self.rotary_dim % 2 or not 0 <= self.rotary_dim <= self.head_dim:
            raise ValueError("rotary_dim must be even and at most head_dim")
        if self.window < 0 or self.softcap < 0.0:
            raise ValueError("window and softcap must not be negative")
        if self.sees_all and self.window:
            raise ValueError("rows that see their whole context have no window")
        self._check_arrays()

    def _check_arrays(self) -> None:
        if self.keys.dtype != self.values.dtype or self.keys.dtype not in (np.float32, np.float16):
            raise TypeError("keys and values must both be float32 or both float16")
        if self.keys.ndim != 4 or self.values.ndim != 4:
            raise ValueError("keys and values must have four dimensions")
        num_blocks, block_size = self.keys.shape[0], self.keys.shape[3]
        if self.keys.shape != (num_blocks, self.num_kv_heads, self.head_dim, block_size):
            raise ValueError("keys must be [blocks, num_kv_heads, head_dim, block_size]")
        if self.values.shape != (num_blocks, self.num_kv_heads, block_size, self.head_dim) or block_size % 16:
            raise ValueError("values must be [blocks, num_kv_heads, block_size, head_dim], block_size a multiple of 16")
        if self.cos.ndim != 2 or self.cos.shape != self.sin.shape or self.cos.shape[1] != self.rotary_dim // 2:
            raise ValueError("cos and sin must be [max_context, rotary_dim / 2]")
        if self.sinks is not None and self.sinks.shape != (self.num_heads,):
            raise ValueError("sinks must be [num_heads]")
        if any(norm is not None and norm.shape != (self.head_dim,) for norm in (self.q_norm, self.k_norm)):
            raise ValueError("norms of q and k must be [head_dim]")
        if self.query_scales is not None and self.query_scales.shape != self.cos.shape[:1]:
            raise ValueError("query_scales must be [max_context]")

    def run(self, qkv: F32, out: F32, step: AttentionStep, /) -> None:
        """See `interface.AttentionLayer.run`."""
        if not isinstance(step, NumpyStep):
            raise TypeError("the step was made by another implementation")
        self._check_call(qkv, out, step)
        heads_THD = qkv.reshape(step.num_tokens, -1, self.head_dim)
        num_rotated = self.num_heads + (0 if self.only_reads else self.num_kv_heads)
        rotated_THD = self._rotate(heads_THD[:, :num_rotated], step)
        if self.q_norm is not None and self.k_norm is not None:
            rotated_THD[:, : self.num_heads] = self._norm(rotated_THD[:, : self.num_heads], self.q_norm)
            rotated_THD[:, self.num_heads :] = self._norm(rotated_THD[:, self.num_heads :], self.k_norm)
        if self.query_scales is not None:
            rotated_THD[:, : self.num_heads] *= self.query_scales[step.positions_T, None, None]
        k_THD, v_THD = rotated_THD[:, self.num_heads :], heads_THD[:, num_rotated:]
        out_THD = out.reshape(step.num_tokens, self.num_heads, self.head_dim)
        bounds = step.query_starts_B1.tolist()
        for b in range(step.num_sequences):
            rows = slice(bounds[b], bounds[b + 1])
            if rows.start < rows.stop and not self.only_reads:
                self._append(k_THD[rows], v_THD[rows], step, b)
        for b in range(step.num_sequences):
            rows = slice(bounds[b], bounds[b + 1])
            if rows.start < rows.stop:
                out_THD[rows] = self._attend(rotated_THD[rows, : self.num_heads], rows, step, b)

    def _check_call(self, qkv: F32, out: F32, step: NumpyStep) -> None:
        if qkv.dtype != np.float32 or out.dtype != np.float32:
            raise TypeError("qkv and out must be float32")
        if not (qkv.flags.c_contiguous and out.flags.c_contiguous):
            raise TypeError("qkv and out must be C-contiguous")
        own_heads = 0 if self.only_reads else 2 * self.num_kv_heads
        if qkv.shape != (step.num_tokens, (self.num_heads + own_heads) * self.head_dim):
            raise ValueError("qkv must be [rows of the step, (num_heads + 2 num_kv_heads) head_dim]")
        if out.shape != (step.num_tokens, self.num_heads * self.head_dim):
            raise ValueError("out must be [rows of the step, num_heads head_dim]")
        if step.limits != (self.keys.shape[0], self.keys.shape[3], self.cos.shape[0]):
            raise ValueError("the step was made for another number of blocks, block size or context")
        if step.angles is not None and step.angles[0].shape[1] != self.rotary_dim // 2:
            raise ValueError("the step's angles are for another number of rotating dimensions")

    def _rotate(self, x_THD: F32, step: NumpyStep) -> F32:
        """Half-split rotation: pair i is dimensions i and i + R. Source: RoFormer, arXiv 2104.09864, equation 34."""
        half = self.rotary_dim // 2
        cos_TR, sin_TR = step.angles or (self.cos[step.positions_T], self.sin[step.positions_T])
        cos_T1R, sin_T1R = cos_TR[:, None], sin_TR[:, None]
        first_THR, second_THR = x_THD[..., :half], x_THD[..., half : 2 * half]
        rotated_THD = x_THD.copy()
        rotated_THD[..., :half] = first_THR * cos_T1R - second_THR * sin_T1R
        rotated_THD[..., half : 2 * half] = second_THR * cos_T1R + first_THR * sin_T1R
        return rotated_THD

    def _norm(self, x_THD: F32, weight: F32) -> F32:
        mean = np.mean(np.square(x_THD), axis=-1, keepdims=True)
        return x_THD / np.sqrt(mean + np.float32(self.norm_epsilon)) * weight

    def _append(self, k_THD: F32, v_THD: F32, step: NumpyStep, b: int) -> None:
        last = int(step.context_lens_B[b])
        positions_T = np.arange(last - k_THD.shape[0], last)
        blocks_T = step.block_tables_BM[b, positions_T // self.keys.shape[3]]
        slots_T = positions_T % self.keys.shape[3]
        with np.errstate(over="ignore"):  # beyond fp16's range is infinite, as in the kernel
            self.keys[blocks_T, :, :, slots_T] = k_THD
            self.values[blocks_T, :, slots_T] = v_THD

    def _attend(self, q_THD: F32, rows: slice, step: NumpyStep, b: int) -> F32:
        context = int(step.context_lens_B[b])
        blocks = step.block_tables_BM[b, : -(-context // self.keys.shape[3])]
        k_NHDS, v_NHSD = (array[blocks].astype(np.float32, copy=False) for array in (self.keys, self.values))
        k_HDL = k_NHDS.transpose(1, 2, 0, 3).reshape(self.num_kv_heads, self.head_dim, -1)[..., :context]
        v_HLD = v_NHSD.transpose(1, 0, 2, 3).reshape(self.num_kv_heads, -1, self.head_dim)[:, :context]
        num_rows, group = q_THD.shape[0], self.num_heads // self.num_kv_heads
        q_HTGD = q_THD.reshape(num_rows, self.num_kv_heads, group, self.head_dim).transpose(1, 0, 2, 3)
        scores_HTGL = (q_HTGD.reshape(self.num_kv_heads, -1, self.head_dim) @ k_HDL).reshape(
            self.num_kv_heads, num_rows, group, context
        ) * np.float32(self.scale)
        if self.softcap:
            scores_HTGL = np.float32(self.softcap) * np.tanh(scores_HTGL / np.float32(self.softcap))
        seen_TL = self._seen(step.positions_T[rows], step.ends_seen_T[rows], context)
        scores_HTGL = np.where(seen_TL[None, :, None, :], scores_HTGL, np.float32(-np.inf))
        if self.sinks is not None:
            sinks_HTG1 = np.broadcast_to(self.sinks.reshape(-1, 1, group, 1), (*scores_HTGL.shape[:-1], 1))
            scores_HTGL = np.concatenate([scores_HTGL, sinks_HTG1], axis=-1)
        weights_HTGL = np.ascontiguousarray(_softmax(scores_HTGL)[..., :context])
        out_HTGD = (weights_HTGL.reshape(self.num_kv_heads, -1, context) @ v_HLD).reshape(q_HTGD.shape)
        return np.ascontiguousarray(out_HTGD.transpose(1, 0, 2, 3)).reshape(q_THD.shape)

    def _seen(self, positions_T: I32, ends_T: I32, context: int) -> np.ndarray:
        keys_L = np.arange(context)[None, :]
        if self.sees_all:
            return np.ones((len(positions_T), context), np.bool_)
        distance_TL = positions_T[:, None] - keys_L
        seen_TL = keys_L < ends_T[:, None]
        if self.window and self.in_chunks:
            return seen_TL & (keys_L >= positions_T[:, None] // self.window * self.window)
        return seen_TL & (distance_TL < self.window) if self.window else seen_TL


def _softmax(scores: F32) -> F32:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)
