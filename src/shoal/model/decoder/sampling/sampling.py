"""Draws the next token of each row from its logits.

Order: biases, penalties, tokens that are not allowed, precedence of timestamps in speech, log-probabilities,
temperature, top-k, top-p, min-p, draw. The draw's random number depends only on (seed, token index), so a request that
is computed again elsewhere continues with the same tokens.

Shapes: R rows, V vocabulary, or one shard's part of it, C tokens among which one is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from shoal.arrays import F32, I64
from shoal.model.decoder.sampling.allowed import few_allowed
from shoal.model.decoder.sampling.candidates import candidates, effective_top_k, pick, softmax_weights
from shoal.model.decoder.sampling.changes import change_row, change_rows
from shoal.model.decoder.sampling.look_over import Found, LookOver, look_over
from shoal.protocol.language_messages import NO_TOKEN, SampledToken, SampleRow, TokenLogprobs

_MASK = (1 << 64) - 1


def sample_rows(logits_RV: F32, rows: Sequence[SampleRow], look: LookOver = look_over) -> list[SampledToken]:
    """Draw one token for each row.

    Args:
        logits_RV: of the whole vocabulary.
            Mutates: rows whose request has biases or penalties, or restricts tokens.
        rows: what is wanted of each.
        look: finds the best tokens of rows.
    """
    few_R = [_few_candidates(row, logits_RV.shape[1]) for row in rows]
    whole = [index for index, ids_C in enumerate(few_R) if ids_C is None]
    wanted, logits = [rows[index] for index in whole], [logits_RV[index] for index in whole]
    raw = change_rows(logits, wanted)
    sampled = map(_sample_row, logits, wanted, look(logits, wanted), raw)
    return [
        next(sampled) if ids_C is None else SampledToken(token_id=_sample_among(logits_V, ids_C, row))
        for logits_V, row, ids_C in zip(logits_RV, rows, few_R, strict=True)
    ]


def uniform(seed: int, token_index: int) -> float:
    """A number in [0, 1) that depends on (seed, token_index).

    Source: SplitMix64, Steele, Lea and Flood, OOPSLA 2014, figure 16: the token index is the stream position.
    """
    z = (seed + (token_index + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = _mix(_mix(seed & _MASK) ^ z)
    return (z >> 11) * 2.0**-53


def token_logprobs(
    token_logit: np.float32, best_logit: np.float32, log_sum: float, top_ids: Sequence[int], top_logits: F32
) -> TokenLogprobs:
    """Log-probabilities of the chosen token and of the most likely ones. `log_sum`: log of the sum of exp(logit - best
    logit)."""
    return TokenLogprobs(
        logprob=float(token_logit - best_logit) - log_sum,
        top_ids=tuple(top_ids),
        top_logprobs=tuple(value - log_sum for value in (top_logits - best_logit).tolist()),
    )


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def can_be_drawn_from(best_logit: np.float32) -> bool:
    """Whether a token can be drawn from a row with this best logit: it is neither +infinity nor NaN. A row that
    contains NaN has NaN as its best logit."""
    return bool(best_logit < np.inf)


def _sample_row(logits_V: F32, row: SampleRow, found: Found, raw: bytes) -> SampledToken:
    if not can_be_drawn_from(logits_V[found.best]) or math.isnan(found.log_sum):
        return SampledToken(token_id=NO_TOKEN)
    token_id = _choose(logits_V, found.best, row) if row.target is None else row.target
    logprobs = None
    if row.sampling.num_logprobs is not None:
        best_logit, top_logits = logits_V[found.best], logits_V[found.top_ids]
        logprobs = token_logprobs(logits_V[token_id], best_logit, found.log_sum, found.top_ids, top_logits)
    return SampledToken(token_id=token_id, logprobs=logprobs, logits=raw)


def _few_candidates(row: SampleRow, vocab_size: int) -> I64 | None:
    """The tokens that may be drawn, if they are few and the row wants nothing but one of them; otherwise None."""
    wants_more = row.target is not None or row.want_logits or row.sampling.num_logprobs is not None
    if not row.allowed or wants_more or row.forbidden or row.sampling.first_timestamp:
        return None
    return few_allowed(row.allowed, vocab_size)


def _sample_among(logits_V: F32, ids_C: I64, row: SampleRow) -> int:
    """The token that would be drawn from the whole row if all other tokens had no weight."""
    if len(ids_C) == 1:
        return int(ids_C[0])
    change_row(logits_V, row)
    logits_C = logits_V[ids_C]
    num_missing = effective_top_k(row.sampling, len(logits_V)) + 1 - len(ids_C)
    if num_missing > 0:  # the row's top k include tokens without weight, which are drawn by their order
        logits_C = np.concatenate([logits_C, np.full(num_missing, -np.inf, np.float32)])
    best = int(logits_C.argmax())
    return int(ids_C[_choose(logits_C, best, row)]) if can_be_drawn_from(logits_C[best]) else NO_TOKEN


def _choose(logits_C: F32, best: int, row: SampleRow) -> int:
    """Index of the best token, or of a drawn one."""
    return best if row.sampling.is_greedy else _draw(logits_C, row, logits_C[best])


def _draw(logits_C: F32, row: SampleRow, best_logit: np.float32) -> int:
    weights_C = softmax_weights(logits_C, best_logit, row.sampling.temperature)
    kept, weights_C = candidates(weights_C, row.sampling)
    index = pick(weights_C, uniform(row.sampling.seed, row.token_index))
    return index if kept is None else int(kept[index])
