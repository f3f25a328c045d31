"""Draw the next token of each row from its logits.

Order: penalties, log-probabilities, temperature, top-k, top-p, min-p, draw. The draw's random number depends on
nothing but (seed, token index), so a request that is computed again elsewhere goes on with the same tokens.

Shapes: R rows, V vocabulary, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shoal.protocol.messages import SampledToken, SampleRow, Sampling, TokenLogprobs

F32 = npt.NDArray[np.float32]
_MASK = (1 << 64) - 1
_NUCLEUS_GUESS = 512
"""Candidates sorted first when looking for the top-p nucleus; doubled until the nucleus is inside."""


def sample_rows(logits_RV: F32, rows: Sequence[SampleRow]) -> list[SampledToken]:
    """One token for each row.

    Mutates: rows of `logits_RV` whose request has penalties.
    """
    greedy_R = logits_RV.argmax(axis=-1)
    return [
        _sample_row(logits_V, row, int(best)) for logits_V, row, best in zip(logits_RV, rows, greedy_R, strict=True)
    ]


def uniform(seed: int, token_index: int) -> float:
    """A number in [0, 1) keyed by (seed, token_index).

    Source: SplitMix64, Steele, Lea and Flood, OOPSLA 2014, figure 16: the token index is the stream position.
    """
    z = (seed + (token_index + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = _mix(_mix(seed & _MASK) ^ z)
    return (z >> 11) * 2.0**-53


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def _sample_row(logits_V: F32, row: SampleRow, best: int) -> SampledToken:
    raw = logits_V.tobytes() if row.want_logits else b""
    sampling = row.sampling
    if row.history:
        _apply_penalties(logits_V, np.frombuffer(row.history, "<i4"), sampling)
        best = int(logits_V.argmax())
    if row.target is not None:
        token_id = row.target
    elif sampling.temperature == 0.0:
        token_id = best
    else:
        token_id = _draw(logits_V, sampling, uniform(sampling.seed, row.token_index))
    logprobs = None
    if sampling.num_logprobs is not None:
        logprobs = _logprobs(logits_V, token_id, sampling.num_logprobs)
    return SampledToken(token_id=token_id, logprobs=logprobs, logits=raw)


def _apply_penalties(logits_V: F32, history: npt.NDArray[np.int32], sampling: Sampling) -> None:
    """Source: OpenAI API reference, frequency and presence penalties."""
    ids, counts = np.unique(history, return_counts=True)
    logits_V[ids] -= (sampling.presence_penalty + sampling.frequency_penalty * counts).astype(np.float32)


def _draw(logits_V: F32, sampling: Sampling, u: float) -> int:
    """Inverse of the cumulative distribution over the candidates, at u."""
    scores_V = (logits_V - logits_V.max()) / np.float32(sampling.temperature)
    ids_C, weights_C = _candidates(scores_V, sampling)
    cumulative_C = np.cumsum(weights_C, dtype=np.float64)
    index = int(np.searchsorted(cumulative_C, u * cumulative_C[-1], side="right"))
    index = min(index, len(cumulative_C) - 1)
    return int(index if ids_C is None else ids_C[index])


def _candidates(scores_V: F32, sampling: Sampling) -> tuple[npt.NDArray[np.int64] | None, F32]:
    """Token ids that may be drawn (None: all) and their unnormalised probabilities. The best token's weight is 1."""
    weights_V = np.exp(scores_V)
    top_k = sampling.top_k if 0 < sampling.top_k < len(weights_V) else 0
    if top_k:
        ids_C = _largest(weights_V, top_k)
        weights_C = weights_V[ids_C]
        if sampling.top_p < 1.0:
            keep = _nucleus_size(weights_C, sampling.top_p * float(weights_C.sum()))
            ids_C, weights_C = ids_C[:keep], weights_C[:keep]
    elif sampling.top_p < 1.0:
        ids_C, weights_C = _nucleus(weights_V, sampling.top_p)
    else:
        ids_C, weights_C = None, weights_V
    if sampling.min_p > 0.0:
        kept = np.flatnonzero(weights_C >= sampling.min_p)
        ids_C, weights_C = (kept if ids_C is None else ids_C[kept]), weights_C[kept]
    return ids_C, weights_C


def _largest(values_V: F32, count: int) -> npt.NDArray[np.int64]:
    """Indices of the `count` largest values or of all, largest first; ties to the smaller index."""
    count = min(count, len(values_V))
    threshold = np.partition(values_V, -count)[-count]
    ids_C = np.flatnonzero(~(values_V < threshold))
    return ids_C[np.argsort(-values_V[ids_C], kind="stable")][:count]


def _nucleus(weights_V: F32, top_p: float) -> tuple[npt.NDArray[np.int64], F32]:
    """The smallest set of most likely tokens whose mass reaches top_p. Source: arXiv 1904.09751, section 3.1."""
    mass = top_p * float(weights_V.sum(dtype=np.float64))
    count = min(_NUCLEUS_GUESS, len(weights_V))
    while True:
        ids_C = _largest(weights_V, count)
        weights_C = weights_V[ids_C]
        if count == len(weights_V) or float(weights_C.sum(dtype=np.float64)) >= mass:
            keep = _nucleus_size(weights_C, mass)
            return ids_C[:keep], weights_C[:keep]
        count = min(4 * count, len(weights_V))


def _nucleus_size(weights_C: F32, mass: float) -> int:
    return min(int(np.searchsorted(np.cumsum(weights_C, dtype=np.float64), mass)) + 1, len(weights_C))


def _logprobs(logits_V: F32, token_id: int, num_top: int) -> TokenLogprobs:
    shifted_V = logits_V - logits_V.max()
    log_sum = float(np.log(np.exp(shifted_V).sum(dtype=np.float64)))
    top_ids = _largest(logits_V, num_top) if num_top else np.empty(0, np.int64)
    return TokenLogprobs(
        logprob=float(shifted_V[token_id]) - log_sum,
        top_ids=tuple(top_ids.tolist()),
        top_logprobs=tuple(float(value) - log_sum for value in shifted_V[top_ids]),
    )
