"""Draws the next token of each row when every shard has the logits of a part of the vocabulary.

The tokens are those that `sample_rows` draws from the whole vocabulary: weights are the same numbers, because they are
relative to the best logit of all shards, and every shard decides everything after that in the same way from what all
shards sent. They send, for all rows in the same exchanges:

    1. the best logit and its token: greedy rows are done
    2. for draws: the sum of the weights; for top-p and top-k the shard's most likely tokens
       for log-probabilities: the sum of exp, the most likely tokens and, once the token is known, its logit
    3. for temperature or min-p alone: the token found by the shard whose mass contains the draw
       for top-p: more tokens, as long as the nucleus may have some that were not sent

Shapes: R rows, V this shard's part of the vocabulary, S shards.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from shoal.arrays import F32, I64
from shoal.model.decoder.sampling.candidates import softmax_weights
from shoal.model.decoder.sampling.changes import change_rows, rule_out
from shoal.model.decoder.sampling.exchanges import Procedure, together
from shoal.model.decoder.sampling.sampling import can_be_drawn_from, token_logprobs
from shoal.model.decoder.sampling.shard_draw import ShardRow, choose_token, find_logit, gather_largest, gather_numbers
from shoal.protocol.language_messages import NO_TOKEN, SampledToken, SampleRow


def sample_shard(
    logits_RV: F32, rows: Sequence[SampleRow], *, first_id: int, vocab_size: int
) -> Procedure[list[SampledToken]]:
    """Draw one token for each row, the same on every shard. Run it with `run_exchange`.

    Args:
        logits_RV: of this shard's tokens, at least one; shards own the vocabulary in rank order.
            Mutates: rows whose request has biases or penalties, or restricts tokens.
        first_id: this shard's first token.
        vocab_size: tokens of all shards.
    """
    if not rows:
        return []
    raw_R = change_rows([*logits_RV], rows, first_id)
    for logits_V, row in zip(logits_RV, rows, strict=True):
        rule_out(logits_V, row, first_id)
    columns_S, best_ids_R, best_logits_R = yield from _find_best(logits_RV, logits_RV.argmax(axis=-1), first_id)
    assert sum(columns_S) == vocab_size, f"{columns_S} tokens in the shards of a vocabulary of {vocab_size}"
    is_broken_R = [not can_be_drawn_from(logit) for logit in best_logits_R]
    tokens = [
        SampledToken(token_id=NO_TOKEN if is_broken else best_id if sample.target is None else sample.target)
        for best_id, sample, is_broken in zip(best_ids_R, rows, is_broken_R, strict=True)
    ]
    unsettled = [index for index, sample in enumerate(rows) if not is_broken_R[index] and _needs_more(sample)]
    procedures = [
        _sample_row(
            ShardRow(
                logits_V=logits_RV[index],
                first_id=first_id,
                best_id=best_ids_R[index],
                best_logit=best_logits_R[index],
                columns_S=columns_S,
            ),
            rows[index],
            raw_R[index],
        )
        for index in unsettled
    ]
    for index, token in zip(unsettled, (yield from together(procedures)), strict=True):
        tokens[index] = token
    return tokens


def _needs_more(sample: SampleRow) -> bool:
    """Whether the row needs more than the best logit."""
    is_drawn = sample.target is None and not sample.sampling.is_greedy
    return is_drawn or sample.want_logits or sample.sampling.num_logprobs is not None


def _find_best(logits_RV: F32, own_best_R: I64, first_id: int) -> Procedure[tuple[tuple[int, ...], list[int], F32]]:
    """The number of tokens of each shard, and each row's best token and logit; of equal ones the smallest id."""
    num_rows, num_columns = logits_RV.shape
    rows_R = np.arange(num_rows)
    own_ids_R = (own_best_R + first_id).astype("<i4")
    received = yield struct.pack("<i", num_columns) + own_ids_R.tobytes() + logits_RV[rows_R, own_best_R].tobytes()
    all_SN = np.frombuffer(b"".join(received), "<i4").reshape(len(received), 1 + 2 * num_rows)
    ids_SR, logits_SR = all_SN[:, 1 : 1 + num_rows], all_SN[:, 1 + num_rows :].view("<f4")
    shard_R = logits_SR.argmax(axis=0)
    return tuple(all_SN[:, 0].tolist()), ids_SR[shard_R, rows_R].tolist(), logits_SR[shard_R, rows_R]


def _sample_row(row: ShardRow, sample: SampleRow, raw: bytes) -> Procedure[SampledToken]:
    num_top = sample.sampling.num_logprobs
    if num_top is None and not sample.want_logits:
        return SampledToken(token_id=(yield from choose_token(row, sample)))
    parts: list[Procedure[Any]] = [_choose_and_score(row, sample), _normalize(row, num_top), _gather_logits(row, raw)]
    (token_id, logit), scale, logits = yield from together(parts)
    logprobs = None if scale is None else token_logprobs(logit, row.best_logit, *scale)
    return SampledToken(token_id=token_id, logprobs=logprobs, logits=logits)


def _choose_and_score(row: ShardRow, sample: SampleRow) -> Procedure[tuple[int, np.float32 | None]]:
    """The token, and its logit if log-probabilities are wanted."""
    token_id = yield from choose_token(row, sample)
    if sample.sampling.num_logprobs is None:
        return token_id, None
    return token_id, (yield from find_logit(row, token_id))


def _normalize(row: ShardRow, num_top: int | None) -> Procedure[tuple[float, list[int], F32] | None]:
    """The log of the sum of exp(logit - best logit), and the best tokens with their logits."""
    if num_top is None:
        return None
    own_sum = float(softmax_weights(row.logits_V, row.best_logit, 1.0).sum(dtype=np.float64))
    parts: list[Procedure[Any]] = [gather_numbers(own_sum), gather_largest(row, row.logits_V, num_top)]
    sums_S, (ids_C, logits_C) = yield from together(parts)
    return math.log(math.fsum(sums_S)), ids_C[:num_top].tolist(), logits_C[:num_top]


def _gather_logits(row: ShardRow, raw: bytes) -> Procedure[bytes]:
    """The whole row before penalties; empty if it is not wanted."""
    if not raw:
        return b""
    received = yield raw.ljust(4 * max(row.columns_S), b"\0")
    return b"".join(part[: 4 * columns] for part, columns in zip(received, row.columns_S, strict=True))
