"""What is found in rows of logits: the best token of each and, if wanted, the values for log-probabilities.

There are two implementations: NumPy's, which is the reference, and the native extension's, which reads a row two or
three times and distributes rows over threads. For 40 rows of 51864 tokens, with six tokens wanted of each, that takes 2
ms on one thread instead of 7 (AVX-512 and AVX2); without AVX2 it takes 28.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shoal.arrays import F32
from shoal.model.decoder.sampling.candidates import largest, softmax_weights
from shoal.model.decoder.sampling.changes import rule_out
from shoal.protocol.language_messages import SampleRow

if TYPE_CHECKING:
    from shoal._native import ThreadPool

_MOST_TOLD = 64
"""Most tokens that the native extension sorts one by one; larger numbers are sorted with NumPy."""


class Found(NamedTuple):
    """What was found in one row."""

    best: int
    """The token with the best logit; of equal ones the smallest id."""
    log_sum: float
    """Log of the sum of exp(logit - best logit), if log-probabilities are wanted; otherwise 0."""
    top_ids: list[int]
    """The wanted number of most likely tokens, most likely first; of equal ones the smaller id comes first."""


LookOver = Callable[[Sequence[F32], Sequence[SampleRow]], list[Found]]
"""Returns what is found in rows [V] of one length, to which biases and penalties have been applied. Mutates: rows whose
tokens are restricted, or that draw timestamps, as `changes.rule_out` does."""


def look_over(logits: Sequence[F32], rows: Sequence[SampleRow]) -> list[Found]:
    """A `LookOver` with NumPy."""
    return [_look_over_one(logits_V, row) for logits_V, row in zip(logits, rows, strict=True)]


def _look_over_one(logits_V: F32, row: SampleRow) -> Found:
    rule_out(logits_V, row)
    best, num_top = int(logits_V.argmax()), row.sampling.num_logprobs
    if num_top is None:
        return Found(best, 0.0, [])
    log_sum = float(np.log(softmax_weights(logits_V, logits_V[best], 1.0).sum(dtype=np.float64)))
    return Found(best, log_sum, largest(logits_V, num_top).tolist())


class NativeLookOver:
    """A `LookOver` with the native extension. Results are the same bits for all instruction sets and numbers of
    threads."""

    def __init__(self, pool: ThreadPool, isa: str) -> None:
        """
        Args:
            pool: the compute threads.
            isa: instruction set to compute with; empty: the best.
        """
        self._pool, self._isa = pool, isa

    def __call__(self, logits: Sequence[F32], rows: Sequence[SampleRow]) -> list[Found]:
        """See `LookOver`."""
        from shoal import _native

        if not rows:
            return []
        num_rows, num_tokens = len(rows), len(logits[0])
        wanted_R = [_num_found(row, num_tokens) for row in rows]
        shape = num_rows, max([0, *wanted_R])
        best_R, sums_R = np.empty(num_rows, np.int64), np.empty(num_rows, np.float64)
        ids_RK, top_RK = np.empty(shape, np.int32), np.empty(shape, np.float32)
        _native.look_over(
            self._pool,
            logits,
            [row.allowed for row in rows],
            np.array([min(row.sampling.first_timestamp, num_tokens) for row in rows], np.int32),
            np.array(wanted_R, np.int32),
            self._isa,
            best_R,
            sums_R,
            ids_RK,
            top_RK,
        )
        found = zip(rows, logits, best_R.tolist(), sums_R.tolist(), ids_RK.tolist(), strict=True)
        return [_told(row, logits_V, best, total, top_ids) for row, logits_V, best, total, top_ids in found]


def _num_found(row: SampleRow, num_tokens: int) -> int:
    """How many tokens the native extension looks for in a row; -1 if not even a sum is wanted."""
    num_top = row.sampling.num_logprobs
    if num_top is None:
        return -1
    return 0 if num_top > _MOST_TOLD else min(num_top, num_tokens)


def _told(row: SampleRow, logits_V: F32, best: int, total: float, top_ids: list[int]) -> Found:
    num_top = row.sampling.num_logprobs
    if num_top is None:
        return Found(best, 0.0, [])
    if num_top > _MOST_TOLD:
        return Found(best, _log(total), largest(logits_V, num_top).tolist())
    return Found(best, _log(total), top_ids[:num_top])


def _log(total: float) -> float:
    """The logarithm; NaN for the sum of a row whose logits are NaN."""
    return math.log(total) if total > 0.0 else math.nan
