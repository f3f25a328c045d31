"""Which tokens may be drawn, and the draw: shared by sampling from whole logits and from shards of them.

Shapes: V vocabulary, or one shard's part of it; C candidates.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shoal.arrays import F32, I64
from shoal.protocol.language_messages import Sampling

_NUCLEUS_GUESS = 512
"""Candidates that are sorted first in the search for the top-p nucleus; multiplied by NUCLEUS_GROWTH until they contain
it."""
NUCLEUS_GROWTH = 4
_THRESHOLD_SPAN = 64
"""To find few of many values, the largest of each span of this many is taken first: one partition of 51864 values would
take 400 us."""
_PICK_CHUNK = 512
"""Weights that are summed at once to find a draw. Measured for 49152 weights on a 2-core AVX2 machine: 26 us (the same
with 256 or 1024), while a running sum of all takes 160 us; for 151936 weights 81 us and 1070 us."""


def softmax_weights(logits_V: F32, best_logit: np.float32, temperature: float) -> F32:
    """Unnormalized probabilities, in which the token with the vocabulary's best logit weighs 1."""
    weights_V = logits_V - best_logit
    if temperature != 1.0:
        weights_V /= np.float32(temperature)
    return np.exp(weights_V, out=weights_V)


def effective_top_k(sampling: Sampling, vocab_size: int) -> int:
    """The number of most likely tokens to keep; 0 for all."""
    return sampling.top_k if 0 < sampling.top_k < vocab_size else 0


def candidates(weights_V: F32, sampling: Sampling) -> tuple[I64 | None, F32]:
    """Token ids that may be drawn (None: all) and their weights. The best token's weight is 1."""
    top_k = effective_top_k(sampling, len(weights_V))
    if top_k:
        ids_C = largest(weights_V, top_k)
        return truncate(ids_C, weights_V[ids_C], sampling, float(weights_V[ids_C].sum()))
    if sampling.top_p < 1.0:
        mass = float(weights_V.sum(dtype=np.float64))
        ids_C = _nucleus_and_more(weights_V, sampling.top_p * mass)
        return truncate(ids_C, weights_V[ids_C], sampling, mass)
    return above_floor(None, weights_V, sampling.min_p)


def truncate(ids_C: I64, weights_C: F32, sampling: Sampling, mass: float) -> tuple[I64, F32]:
    """Apply top-p, then min-p, to candidates that are sorted by falling likelihood. `mass`: the total that top-p is a
    share of."""
    if sampling.top_p < 1.0:
        keep = nucleus_size(weights_C, sampling.top_p * mass)
        ids_C, weights_C = ids_C[:keep], weights_C[:keep]
    kept_C, weights_C = above_floor(ids_C, weights_C, sampling.min_p)
    assert kept_C is not None
    return kept_C, weights_C


def above_floor(ids_C: I64 | None, weights_C: F32, min_p: float) -> tuple[I64 | None, F32]:
    """Candidates at least min_p times as likely as the best token. Ids None: the whole vocabulary, in order."""
    if min_p <= 0.0:
        return ids_C, weights_C
    kept = np.flatnonzero(weights_C >= min_p)
    return kept if ids_C is None else ids_C[kept], weights_C[kept]


def largest(values_V: F32, count: int) -> I64:
    """Indices of the `count` largest values or of all, largest first; of equal values the smaller index comes first."""
    if count == 0:
        return np.empty(0, np.int64)
    count = min(count, len(values_V))
    threshold = _low_threshold(values_V, count)
    ids_C = np.flatnonzero(~(values_V < threshold))
    return ids_C[np.argsort(-values_V[ids_C], kind="stable")][:count]


def _low_threshold(values_V: F32, count: int) -> np.float32:
    """A value that at least `count` values reach, but not many more: the `count`-th largest value or, of many values,
    that among the largest of each span."""
    if count * _THRESHOLD_SPAN * 2 > len(values_V):
        return np.partition(values_V, -count)[-count]
    tops = np.maximum.reduceat(values_V, np.arange(0, len(values_V), _THRESHOLD_SPAN))
    return np.partition(tops, -count)[-count]


def nucleus_size(weights_C: npt.NDArray[np.floating], mass: float) -> int:
    """How many candidates, most likely first, reach this mass together; all if they do not reach it."""
    return min(int(np.searchsorted(np.cumsum(weights_C, dtype=np.float64), mass)) + 1, len(weights_C))


def pick(weights_C: npt.NDArray[np.floating], u: float) -> int:
    """Index of the candidate at u: the inverse of the cumulative distribution, for u in [0, 1).

    Sums of chunks tell which chunk it is in, so that a running sum is formed of that chunk only.
    """
    ends = np.cumsum(np.add.reduceat(weights_C, np.arange(0, len(weights_C), _PICK_CHUNK), dtype=np.float64))
    mass = u * ends[-1]
    chunk = _index_at(ends, mass)
    start = chunk * _PICK_CHUNK
    cumulative = np.cumsum(weights_C[start : start + _PICK_CHUNK], dtype=np.float64)
    index = start + _index_at(cumulative, mass - (ends[chunk - 1] if chunk else 0.0))
    while index and not weights_C[index]:  # rounding may carry a draw past the last candidate with a positive weight
        index -= 1
    return index


def _index_at(cumulative: npt.NDArray[np.float64], mass: float) -> int:
    return min(int(np.searchsorted(cumulative, mass, side="right")), len(cumulative) - 1)


def _nucleus_and_more(weights_V: F32, mass: float) -> I64:
    """The most likely tokens, at least as many as reach the mass. Source: arXiv 1904.09751, section 3.1."""
    count = min(_NUCLEUS_GUESS, len(weights_V))
    while True:
        ids_C = largest(weights_V, count)
        if count == len(weights_V) or float(weights_V[ids_C].sum(dtype=np.float64)) >= mass:
            return ids_C
        count = min(NUCLEUS_GROWTH * count, len(weights_V))
