"""Random attention batches and an independent answer to them: dense softmax attention, one row and head at a time."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.model.attention.interface import NO_VECTORS, Attention, AttentionLayer, AttentionShape, AttentionVectors
from shoal.model.attention.kv_storage import KvType

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Whole sequences (fused qkv rows of every position) and where their blocks lie."""

    shape: AttentionShape
    block_size: int
    num_blocks: int
    max_context: int
    sequences: tuple[F32, ...]
    """[length, qkv_width] each"""
    tables: tuple[npt.NDArray[np.int32], ...]
    cos: F32
    sin: F32


def make_case(
    shape: AttentionShape, lengths: tuple[int, ...], *, block_size: int = 16, seed: int = 0, magnitude: float = 1.0
) -> Case:
    """Sequences of random rows over blocks in random order, some blocks used by nobody."""
    rng = np.random.default_rng(seed)
    counts = [-(-length // block_size) for length in lengths]
    num_blocks = sum(counts) + 3
    order = rng.permutation(num_blocks).astype(np.int32)
    cuts = np.cumsum([0, *counts])
    max_context = max(lengths) + 5
    angles = np.outer(np.arange(max_context), 10000.0 ** -(np.arange(shape.rotary_dim // 2) / 7))
    return Case(
        shape=shape,
        block_size=block_size,
        num_blocks=num_blocks,
        max_context=max_context,
        sequences=tuple(
            (magnitude * rng.standard_normal((length, shape.qkv_width))).astype(np.float32) for length in lengths
        ),
        tables=tuple(order[a:b] for a, b in itertools.pairwise(cuts)),
        cos=np.cos(angles).astype(np.float32),
        sin=np.sin(angles).astype(np.float32),
    )


class Runner:
    """Feeds a case to one implementation, chunk by chunk, over caches that start full of NaN, or of codes of it."""

    def __init__(self, case: Case, attention: Attention, dtype: KvType = np.float32) -> None:
        shape, blocks, size = case.shape, case.num_blocks, case.block_size
        self.case = case
        self.attention = attention
        anything = 77 if dtype is np.uint8 else np.nan
        self.keys = np.full((blocks, shape.num_kv_heads, shape.head_dim, size), anything, dtype)
        self.values = np.full((blocks, shape.num_kv_heads, size, shape.head_dim), anything, dtype)
        scales = [np.full((blocks, shape.num_kv_heads, size), np.nan, np.float32) for _ in range(2)]
        self.layer: AttentionLayer = attention.layer(
            shape,
            self.keys,
            self.values,
            case.cos,
            case.sin,
            AttentionVectors(key_scales=scales[0], value_scales=scales[1]) if dtype is np.uint8 else NO_VECTORS,
        )

    def run(self, ranges: list[tuple[int, int, int]]) -> list[F32]:
        """One step over (sequence, first position, end position); the outputs of each range."""
        case = self.case
        width = max(-(-end // case.block_size) for _, _, end in ranges) + 1
        tables = np.full((len(ranges), width), -1, np.int32)
        for row, (s, _, end) in enumerate(ranges):
            used = -(-end // case.block_size)
            tables[row, :used] = case.tables[s][:used]
        qkv = np.concatenate([case.sequences[s][first:end] for s, first, end in ranges])
        starts = np.cumsum([0, *(end - first for _, first, end in ranges)]).astype(np.int32)
        step = self.attention.step(
            positions=np.concatenate([np.arange(first, end, dtype=np.int32) for _, first, end in ranges]),
            query_starts=starts,
            context_lens=np.array([end for _, _, end in ranges], np.int32),
            block_tables=tables,
        )
        out = np.full((qkv.shape[0], case.shape.out_width), np.nan, np.float32)
        self.layer.run(qkv, out, step)
        return [out[a:b] for a, b in itertools.pairwise(starts)]

    def run_chunked(self, rng: np.random.Generator) -> list[F32]:
        """All sequences to their ends, in steps of random chunks of random sequences."""
        lengths = [len(rows) for rows in self.case.sequences]
        done, outputs = [0] * len(lengths), [[] for _ in lengths]
        while done != lengths:
            left = [s for s in range(len(lengths)) if done[s] < lengths[s]]
            chosen = [s for s in left if rng.random() < 0.7] or left
            ranges = [(s, done[s], min(lengths[s], done[s] + int(rng.choice([1, 1, 3, 40])))) for s in chosen]
            for (s, _, end), out in zip(ranges, self.run(ranges), strict=True):
                outputs[s].append(out)
                done[s] = end
        return [np.concatenate(parts) for parts in outputs]


def dense_answer(case: Case) -> list[F32]:
    """What every position of every sequence must give, in float64."""
    return [_dense_sequence(case, rows.astype(np.float64)) for rows in case.sequences]


def _dense_sequence(case: Case, rows: npt.NDArray[np.float64]) -> F32:
    shape = case.shape
    heads = rows.reshape(len(rows), -1, shape.head_dim)
    q, k, v = np.split(heads, [shape.num_heads, shape.num_heads + shape.num_kv_heads], axis=1)
    q, k = _turn(case, q), _turn(case, k)
    out = np.zeros((len(rows), shape.num_heads, shape.head_dim))
    for p in range(len(rows)):
        first = max(0, p - shape.window + 1) if shape.window else 0
        if shape.window and shape.in_chunks:
            first = p // shape.window * shape.window
        end = len(rows) if shape.sees_all else p + 1
        for h in range(shape.num_heads):
            kv = h * shape.num_kv_heads // shape.num_heads
            scores = k[first:end, kv] @ q[p, h] * shape.scale
            if shape.softcap:
                scores = shape.softcap * np.tanh(scores / shape.softcap)
            weights = np.exp(scores - scores.max())
            out[p, h] = weights @ v[first:end, kv] / weights.sum()
    return out.reshape(len(rows), -1).astype(np.float32)


def _turn(case: Case, heads: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rotation as complex multiplication."""
    half = case.shape.rotary_dim // 2
    turned = heads.copy()
    for p, head in enumerate(turned):
        factor = case.cos[p].astype(np.float64) + 1j * case.sin[p].astype(np.float64)
        pairs = (head[:, :half] + 1j * head[:, half : 2 * half]) * factor
        head[:, :half], head[:, half : 2 * half] = pairs.real, pairs.imag
    return turned
