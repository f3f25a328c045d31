"""Chooses one row's token when every shard has the logits of a part of the vocabulary.

A weight is computed by the shard that owns the token and sent as it is, never computed again: two kinds of processors
may round exp differently, and the shards must agree on what to exchange next.

Shapes: V this shard's part of the vocabulary, C candidates, S shards.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from shoal.arrays import F32, F64, I64
from shoal.model.decoder.sampling.candidates import (
    NUCLEUS_GROWTH,
    above_floor,
    effective_top_k,
    largest,
    pick,
    softmax_weights,
    truncate,
)
from shoal.model.decoder.sampling.exchanges import Procedure, together
from shoal.model.decoder.sampling.sampling import uniform
from shoal.protocol.language_messages import SampleRow, Sampling

_NUCLEUS_GUESS = 128
"""Candidates that a shard sends first in the search for the top-p nucleus: 1 KB a row. Source: over 2 ranks in shared
memory an all-gather of 8 bytes each takes 1.7 us, of 1 KB 2.3 us, of 16 KB 7.9 us (2-core AVX2 machine)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRow:
    """One row's logits in this shard, after penalties, and what all shards know about the row."""

    logits_V: F32
    first_id: int
    """Token of the first of these logits."""
    best_id: int
    best_logit: np.float32
    """Best logit of the whole vocabulary."""
    columns_S: tuple[int, ...]
    """Number of tokens of each shard."""

    @property
    def vocab_size(self) -> int:
        return sum(self.columns_S)


def choose_token(row: ShardRow, sample: SampleRow) -> Procedure[int]:
    """The target token, the best token or a drawn one."""
    if sample.target is not None:
        return sample.target
    if sample.sampling.is_greedy:
        return row.best_id
    weights_V = softmax_weights(row.logits_V, row.best_logit, sample.sampling.temperature)
    u = uniform(sample.sampling.seed, sample.token_index)
    if sample.sampling.top_p < 1.0 or effective_top_k(sample.sampling, row.vocab_size):
        return (yield from _draw_candidate(row, weights_V, sample.sampling, u))
    return (yield from _draw_by_mass(row, weights_V, sample.sampling.min_p, u))


def find_logit(row: ShardRow, token_id: int) -> Procedure[np.float32]:
    """The logit of any token, from the shard that owns it."""
    if token_id == row.best_id:
        return row.best_logit
    index = token_id - row.first_id
    own = row.logits_V[index] if 0 <= index < len(row.logits_V) else np.float32(0.0)
    received = yield own.tobytes()
    owner = next(shard for shard, end in enumerate(accumulate(row.columns_S)) if token_id < end)
    return np.frombuffer(received[owner], "<f4")[0]


def gather_numbers(number: float) -> Procedure[F64]:
    """The number that each shard passes, [S]."""
    received = yield struct.pack("<d", number)
    return np.frombuffer(b"".join(received), "<f8")


def gather_largest(row: ShardRow, values_V: F32, count: int) -> Procedure[tuple[I64, F32]]:
    """The tokens with the largest values of the whole vocabulary, largest first; of equal values the smaller id comes
    first.

    Each shard sends its `count` largest. The result is as much of the common order as these determine: at least `count`
    tokens, or the whole vocabulary.
    """
    if count == 0:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    own = largest(values_V, count)
    payload = np.zeros((2, min(count, max(row.columns_S))), "<i4")
    payload[0, : len(own)] = own + row.first_id
    payload[1, : len(own)].view("<f4")[:] = values_V[own]
    received = yield payload.tobytes()
    sent_S = [min(count, columns) for columns in row.columns_S]
    parts = [np.frombuffer(part, "<i4").reshape(2, -1)[:, :sent] for part, sent in zip(received, sent_S, strict=True)]
    ids_C, values_C = np.concatenate(parts, axis=1)
    values_C = values_C.view("<f4")
    order = np.argsort(-values_C, kind="stable")
    order = order[: _num_settled(order, sent_S, row.columns_S)]
    return ids_C[order].astype(np.int64), values_C[order]


def _num_settled(order_C: I64, sent_S: Sequence[int], columns_S: Sequence[int]) -> int:
    """How much of the common order is certain: a token that was not sent comes after the last one that its shard sent.

    Args:
        order_C: positions in what the shards sent, each its largest first.
    """
    places_C = np.empty_like(order_C)
    places_C[order_C] = np.arange(len(order_C))
    ends_S = accumulate(sent_S)
    lasts = [places_C[end - 1] for end, sent, all_ in zip(ends_S, sent_S, columns_S, strict=True) if sent < all_]
    return int(min(lasts, default=len(order_C) - 1)) + 1


def _draw_candidate(row: ShardRow, weights_V: F32, sampling: Sampling, u: float) -> Procedure[int]:
    """Draw with top-k or top-p: every shard draws from the same few candidates."""
    top_k = effective_top_k(sampling, row.vocab_size)
    if top_k:
        ids_C, weights_C = yield from gather_largest(row, weights_V, top_k)
        ids_C, weights_C = ids_C[:top_k], weights_C[:top_k]
        mass = float(weights_C.sum())
    else:
        ids_C, weights_C, mass = yield from _gather_nucleus(row, weights_V, sampling.top_p)
    ids_C, weights_C = truncate(ids_C, weights_C, sampling, mass)
    return int(ids_C[pick(weights_C, u)])


def _gather_nucleus(row: ShardRow, weights_V: F32, top_p: float) -> Procedure[tuple[I64, F32, float]]:
    """The most likely tokens, at least as many as reach top_p of the total mass, and the total mass."""
    count = _NUCLEUS_GUESS
    first: list[Procedure[Any]] = [
        gather_numbers(float(weights_V.sum(dtype=np.float64))),
        gather_largest(row, weights_V, count),
    ]
    masses_S, (ids_C, weights_C) = yield from together(first)
    mass = float(np.cumsum(masses_S)[-1])
    while len(ids_C) < row.vocab_size and np.cumsum(weights_C, dtype=np.float64)[-1] < top_p * mass:
        count *= NUCLEUS_GROWTH
        ids_C, weights_C = yield from gather_largest(row, weights_V, count)
    return ids_C, weights_C, mass


def _draw_by_mass(row: ShardRow, weights_V: F32, min_p: float, u: float) -> Procedure[int]:
    """Draw any token, or any above the floor: the shard whose mass contains the draw finds the token and tells the
    others."""
    kept, weights_C = above_floor(None, weights_V, min_p)
    masses_S = yield from gather_numbers(float(weights_C.sum(dtype=np.float64)))
    owner = pick(masses_S, u)
    token_id = 0
    if row.first_id == sum(row.columns_S[:owner]):
        ends_S = np.cumsum(masses_S)
        index = pick(weights_C, (u * ends_S[-1] - (ends_S[owner] - masses_S[owner])) / masses_S[owner])
        token_id = row.first_id + (index if kept is None else int(kept[index]))
    received = yield struct.pack("<i", token_id)
    return struct.unpack("<i", received[owner])[0]
