"""Changes that a request makes to its logits before a token is drawn: biases, penalties, forbidden tokens.

Shapes: V vocabulary, or one shard's part of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shoal.arrays import F32, I64
from shoal.model.decoder.sampling.allowed import forbid_others
from shoal.protocol.language_messages import SampleRow


def change_rows(logits: Sequence[F32], rows: Sequence[SampleRow], first_id: int = 0) -> list[bytes]:
    """Apply biases and penalties, and give single forbidden tokens the logit -inf.

    Args:
        logits: of each row [V], those of the tokens from first_id on.
            Mutates: rows whose request has biases, penalties or forbidden tokens.

    Returns: the original logits of rows that want them.
    """
    raw_R: list[bytes] = []
    for logits_V, row in zip(logits, rows, strict=True):
        raw_R.append(logits_V.tobytes() if row.want_logits else b"")
        change_row(logits_V, row, first_id)
    return raw_R


def rule_out(logits_V: F32, row: SampleRow, first_id: int = 0) -> None:
    """Give the logit -inf to tokens that are not allowed and, where a timestamp takes precedence, to tokens that are
    not timestamps.

    Args:
        logits_V: of the tokens from first_id on, changed already.
            Mutates: the logits of a row whose tokens are restricted, or that draws timestamps.
    """
    if row.allowed:
        forbid_others(logits_V, row.allowed, first_id)
    if row.sampling.first_timestamp:
        _prefer_times(logits_V, row.sampling.first_timestamp - first_id)


def change_row(logits_V: F32, row: SampleRow, first_id: int = 0) -> None:
    """As `change_rows`, for one row."""
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
    """The columns of those tokens that lie in this part of the vocabulary, and which of the tokens these are."""
    kept = (ids >= first_id) & (ids < first_id + num_columns)
    return ids[kept].astype(np.int64) - first_id, kept


def _apply_penalties(logits_V: F32, row: SampleRow, first_id: int) -> None:
    """Source: OpenAI API reference, frequency and presence penalties."""
    ids, counts = np.unique(np.frombuffer(row.history, "<i4"), return_counts=True)
    own = slice(*np.searchsorted(ids, (first_id, first_id + len(logits_V))))
    penalties = row.sampling.presence_penalty + row.sampling.frequency_penalty * counts[own]
    logits_V[ids[own] - first_id] -= penalties.astype(np.float32)


def _prefer_times(logits_V: F32, first: int) -> None:
    """Keep only timestamps if they are together more likely than any other token. For whole vocabularies only: models
    with timestamps are not cut into shards."""
    times, others = logits_V[first:], logits_V[:first]
    best = times.max(initial=-np.inf)
    if best == -np.inf:
        return
    if best + np.log(np.exp(times - best).sum()) > others.max(initial=-np.inf):
        others[:] = -np.inf
