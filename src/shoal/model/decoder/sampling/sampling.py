"""Draw the next token of each row from its logits.

Order: biases, penalties, tokens that are not allowed, times of speech before others, log-probabilities, temperature,
top-k, top-p, min-p, draw. The draw's random number depends on nothing but (seed, token index), so a request that is
computed again elsewhere goes on with the same tokens.

Shapes: R rows, V vocabulary, or one shard's part of it, C tokens among which one is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shoal.arrays import F32, I64
from shoal.model.decoder.sampling.allowed import few_allowed, forbid_others
from shoal.model.decoder.sampling.candidates import (
    candidates,
    effective_top_k,
    largest,
    pick,
    softmax_weights,
)
from shoal.protocol.messages import SampledToken, SampleRow, TokenLogprobs

_MASK = (1 << 64) - 1


def sample_rows(logits_RV: F32, rows: Sequence[SampleRow]) -> list[SampledToken]:
    """One token for each row.

    Mutates: rows of `logits_RV` whose request has biases or penalties, or may not draw any token.
    """
    return [_sample_row(logits_V, row) for logits_V, row in zip(logits_RV, rows, strict=True)]


def prepare_rows(
    logits_RV: F32, rows: Sequence[SampleRow], first_id: int = 0
) -> tuple[list[bytes], npt.NDArray[np.int64]]:
    """Apply biases and penalties, and take out the tokens that are not allowed: they have the logit -inf.

    Args:
        logits_RV: of the tokens from first_id on.
            Mutates: rows whose request has biases or penalties, or may not draw any token, or draws times.

    Returns: the logits before that of rows that want them, and the index of each row's best logit after it.
    """
    raw_R = [_prepare_row(logits_V, row, first_id) for logits_V, row in zip(logits_RV, rows, strict=True)]
    return raw_R, logits_RV.argmax(axis=-1)


def uniform(seed: int, token_index: int) -> float:
    """A number in [0, 1) keyed by (seed, token_index).

    Source: SplitMix64, Steele, Lea and Flood, OOPSLA 2014, figure 16: the token index is the stream position.
    """
    z = (seed + (token_index + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = _mix(_mix(seed & _MASK) ^ z)
    return (z >> 11) * 2.0**-53


def token_logprobs(
    token_logit: np.float32, best_logit: np.float32, log_sum: float, top_ids: Sequence[int], top_logits: F32
) -> TokenLogprobs:
    """Log-probabilities of the chosen token and of the most likely ones. `log_sum`: of exp(logit - best logit)."""
    return TokenLogprobs(
        logprob=float(token_logit - best_logit) - log_sum,
        top_ids=tuple(top_ids),
        top_logprobs=tuple(value - log_sum for value in (top_logits - best_logit).tolist()),
    )


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def _sample_row(logits_V: F32, row: SampleRow) -> SampledToken:
    ids_C = _few_candidates(row, len(logits_V))
    if ids_C is not None:
        return SampledToken(token_id=_sample_among(logits_V, ids_C, row))
    raw = _prepare_row(logits_V, row, 0)
    best = int(logits_V.argmax())
    token_id = _choose(logits_V, best, row) if row.target is None else row.target
    logprobs = None
    if row.sampling.num_logprobs is not None:
        logprobs = _logprobs(logits_V, token_id, logits_V[best], row.sampling.num_logprobs)
    return SampledToken(token_id=token_id, logprobs=logprobs, logits=raw)


def _few_candidates(row: SampleRow, vocab_size: int) -> I64 | None:
    """The tokens that may be drawn, where they are few and nothing else is wanted of the row than one of them."""
    wants_more = row.target is not None or row.want_logits or row.sampling.num_logprobs is not None
    if not row.allowed or wants_more or row.forbidden or row.sampling.first_timestamp:
        return None
    return few_allowed(row.allowed, vocab_size)


def _sample_among(logits_V: F32, ids_C: I64, row: SampleRow) -> int:
    """The token that would be drawn from the whole row, where all others weigh nothing."""
    if len(ids_C) == 1:
        return int(ids_C[0])
    _change_logits(logits_V, row, 0)
    logits_C = logits_V[ids_C]
    num_missing = effective_top_k(row.sampling, len(logits_V)) + 1 - len(ids_C)
    if num_missing > 0:  # the whole row has more than its top k tokens: they are drawn from by their order
        logits_C = np.concatenate([logits_C, np.full(num_missing, -np.inf, np.float32)])
    return int(ids_C[_choose(logits_C, int(logits_C.argmax()), row)])


def _choose(logits_C: F32, best: int, row: SampleRow) -> int:
    """Index of the best token or of a draw."""
    return best if row.sampling.is_greedy else _draw(logits_C, row, logits_C[best])


def _prepare_row(logits_V: F32, row: SampleRow, first_id: int) -> bytes:
    """Apply what the request changes. Returns the logits before that, if it wants them."""
    raw = logits_V.tobytes() if row.want_logits else b""
    _change_logits(logits_V, row, first_id)
    if row.allowed:
        forbid_others(logits_V, row.allowed, first_id)
    if row.sampling.first_timestamp:
        _prefer_times(logits_V, row.sampling.first_timestamp - first_id)
    return raw


def _change_logits(logits_V: F32, row: SampleRow, first_id: int) -> None:
    """What a request changes in the model's own logits, before any token is forbidden."""
    if row.sampling.logit_bias:
        ids, biases = zip(*row.sampling.logit_bias, strict=True)
        own, kept = _own(np.array(ids), len(logits_V), first_id)
        logits_V[own] += np.array(biases, np.float32)[kept]
    if row.repeated:
        own, _ = _own(np.frombuffer(row.repeated, "<i4"), len(logits_V), first_id)
        penalty, values = np.float32(row.sampling.repetition_penalty), logits_V[own]
        logits_V[own] = np.where(values > 0, values / penalty, values * penalty)
    if row.history:
        _apply_penalties(logits_V, row, first_id)
    if row.forbidden:
        own, _ = _own(np.array(row.forbidden), len(logits_V), first_id)
        logits_V[own] = -np.inf


def _own(ids: npt.NDArray[np.integer], num_columns: int, first_id: int) -> tuple[I64, npt.NDArray[np.bool_]]:
    """The columns of those tokens that lie in this part of the vocabulary, and which tokens they are."""
    kept = (ids >= first_id) & (ids < first_id + num_columns)
    return ids[kept].astype(np.int64) - first_id, kept


def _apply_penalties(logits_V: F32, row: SampleRow, first_id: int) -> None:
    """Source: OpenAI API reference, frequency and presence penalties."""
    ids, counts = np.unique(np.frombuffer(row.history, "<i4"), return_counts=True)
    own = slice(*np.searchsorted(ids, (first_id, first_id + len(logits_V))))
    penalties = row.sampling.presence_penalty + row.sampling.frequency_penalty * counts[own]
    logits_V[ids[own] - first_id] -= penalties.astype(np.float32)


def _prefer_times(logits_V: F32, first: int) -> None:
    """Leave only times where they are together more likely than any other token. Whole vocabularies only: models with
    times are not cut into shards."""
    times, others = logits_V[first:], logits_V[:first]
    best = times.max(initial=-np.inf)
    if best == -np.inf:
        return
    if best + np.log(np.exp(times - best).sum()) > others.max(initial=-np.inf):
        others[:] = -np.inf


def _draw(logits_C: F32, row: SampleRow, best_logit: np.float32) -> int:
    weights_C = softmax_weights(logits_C, best_logit, row.sampling.temperature)
    kept, weights_C = candidates(weights_C, row.sampling)
    index = pick(weights_C, uniform(row.sampling.seed, row.token_index))
    return index if kept is None else int(kept[index])


def _logprobs(logits_V: F32, token_id: int, best_logit: np.float32, num_top: int) -> TokenLogprobs:
    log_sum = float(np.log(softmax_weights(logits_V, best_logit, 1.0).sum(dtype=np.float64)))
    top_ids = largest(logits_V, num_top)
    return token_logprobs(logits_V[token_id], best_logit, log_sum, top_ids.tolist(), logits_V[top_ids])
