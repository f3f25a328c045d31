"""What a language model's graph can do, found by small runs, since files do not say it.

A graph that handles padding or the tokens of its own chunk wrongly gives wrong results without an error. So each
ability is compared once with the plain way, one sequence and one token at a time, and is used only if both agree.

Shapes: B rows, T new tokens, P cells of the past, C = P + T, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnxruntime as ort

from shoal.arrays import F32, I32, Array
from shoal.errors import InvalidRequest, ModelLoadError
from shoal.model.graph.stage.ort_values import as_array, to_value
from shoal.model.language_graph.padding import Side, first_cell, mask_of
from shoal.model.language_graph.session import Computed, LanguageSession, as_logits, no_past

_TOKENS = (3, 1, 4, 2, 5, 7, 6)
_LONG, _SHORT = 5, 2
_TOLERANCE = {"float32": 5e-3, "float16": 3e-2, "bfloat16": 1e-1}
"""Tolerance for logits, relative to their range, by the type of the caches. A judgment: kernels for other numbers of
rows round differently, and a wrong mask or position changes random models' logits by tenths of their range."""
_MADE_UP_BYTES = 128 << 20
"""Most bytes of a made-up past. A judgment: 4096 tokens of a small model, about as many as sliding windows have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """Abilities of one graph."""

    batches: bool
    """Whether rows whose pasts have the same length can be computed together."""
    padding: Side | None
    """The side of the padding with which rows of different pasts can be computed together; None: they cannot."""
    chunks: bool
    """Whether several tokens can follow a past in one run."""
    last_only: bool
    """Whether the graph returns logits of each row's last token only."""


def check_whole_caches(what: object, session: LanguageSession, max_cells: int) -> None:
    """Check that the caches keep all tokens of a text of `max_cells`, by a run of one token after a made-up past.

    Args:
        what: the graph's name in errors.
        session: of the graph.
        max_cells: tokens of the longest text that will come; the past is shorter if it would take much memory.

    Raises:
        ModelLoadError: they keep only the latest tokens.
    """
    caches = session.form.caches
    bytes_per_cell = sum(cache.num_heads * cache.dim * np.dtype(cache.dtype).itemsize for cache in caches)
    past = min(max_cells, session.config.max_context, _MADE_UP_BYTES // bytes_per_cell) - 1
    mask_BC = np.ones((1, past + 1), np.int32)
    try:
        session.run(np.array([[_TOKENS[0]]], np.int32), mask_BC, np.array([[past]], np.int32), no_past(caches, 1, past))
    except InvalidRequest as error:
        raise ModelLoadError(f"{what}: {error}") from error


def try_abilities(what: object, session: LanguageSession) -> Abilities:
    """Find a graph's abilities. `what`: the graph's name in errors. Raises ModelLoadError if it does not continue from
    its caches."""
    trial = _Trial(session)
    try:
        first = trial.begin(_TOKENS[:_LONG])
        whole = trial.begin(_TOKENS[: _LONG + 1])
        stepped = trial.follow([first], [_TOKENS[_LONG]])
    except InvalidRequest as error:
        raise ModelLoadError(f"{what}: it cannot compute a small text with its caches: {error}") from error
    if not trial.agree(whole, stepped):
        raise ModelLoadError(
            f"{what}: its answers with past keys and values differ from those without; export it again with its cache"
        )
    batches = trial.works(lambda: trial.check_rows([_LONG, _LONG], None))
    sides: tuple[Side, ...] = ("left", "right") if batches else ()
    padding: Iterator[Side] = (side for side in sides if trial.works(partial(trial.check_rows, [_SHORT, _LONG], side)))
    return Abilities(
        batches=batches,
        padding=next(padding, None),
        chunks=trial.works(trial.check_chunk),
        last_only=first.logits.shape[1] < _LONG,
    )


class _Trial:
    """Small runs of one graph over sequences whose pasts also come from runs."""

    def __init__(self, session: LanguageSession) -> None:
        self._session = session
        self._caches = session.form.caches
        self._tolerance = max(_TOLERANCE[cache.dtype] for cache in self._caches)

    def begin(self, tokens: Sequence[int]) -> Computed:
        """Run a sequence from its beginning."""
        return self._run([tokens], mask_of("left", 0, [0], len(tokens)), [0], no_past(self._caches, 1))

    def follow(self, pasts: Sequence[Computed], tokens: Sequence[int], side: Side | None = None) -> Computed:
        """Run one more token of each sequence. `side`: of the padding, if their pasts differ in length."""
        lengths = [as_array(past.presents[0]).shape[2] for past in pasts]
        num_cells, side = max(lengths), side or "left"
        joined = [
            to_value(_padded([as_array(past.presents[index]) for past in pasts], num_cells, side), cache.dtype)
            for index, cache in enumerate(self._caches)
        ]
        mask_BC = mask_of(side, num_cells, lengths, 1)
        return self._run([[token] for token in tokens], mask_BC, lengths, joined)

    def check_rows(self, lengths: Sequence[int], side: Side | None) -> bool:
        """Whether sequences of these lengths give the same together as each one alone."""
        texts = [_TOKENS[shift : shift + length] for shift, length in enumerate(lengths)]
        pasts = [self.begin(text) for text in texts]
        tokens = _TOKENS[: len(lengths)]
        together = self.follow(pasts, tokens, side)
        alone = [self.follow([past], [token]) for past, token in zip(pasts, tokens, strict=True)]
        return all(self.agree(one, together, row) for row, one in enumerate(alone))

    def check_chunk(self) -> bool:
        """Whether two tokens that follow a past in one run give the same as in the whole text."""
        past, end = self.begin(_TOKENS[:_SHORT]), _TOKENS[_SHORT:_LONG]
        mask_BC = mask_of("left", _SHORT, [_SHORT], len(end))
        return self.agree(self.begin(_TOKENS[:_LONG]), self._run([end], mask_BC, [_SHORT], past.presents))

    def agree(self, expected: Computed, found: Computed, row: int = 0) -> bool:
        """Whether a row's last token has the same logits as the only row of another run."""
        expected_V, found_V = _last(expected, 0), _last(found, row)
        scale = float(np.ptp(expected_V))
        return bool(np.abs(expected_V - found_V).max() <= self._tolerance * scale)

    def works(self, check: Callable[[], bool]) -> bool:
        """Whether the check can be run, and succeeds."""
        try:
            return check()
        except InvalidRequest:
            return False

    def _run(
        self,
        tokens: Sequence[Sequence[int]],
        mask_BC: I32,
        lengths: Sequence[int],
        pasts: Sequence[ort.OrtValue],
    ) -> Computed:
        ids_BT = np.array(tokens, np.int32)
        positions_BT = np.array(lengths, np.int32).reshape(-1, 1) + np.arange(ids_BT.shape[1], dtype=np.int32)
        return self._session.run(ids_BT, mask_BC, positions_BT, pasts)


def _last(computed: Computed, row: int) -> F32:
    return as_logits(computed.logits[row, -1])


def _padded(pasts: Sequence[Array], num_cells: int, side: Side) -> Array:
    """Single rows [1, H, p, D], padded and joined to [B, H, P, D]."""
    _, num_heads, _, dim = pasts[0].shape
    joined_BHPD = np.zeros((len(pasts), num_heads, num_cells, dim), pasts[0].dtype)
    for joined_HPD, past in zip(joined_BHPD, pasts, strict=True):
        length = past.shape[2]
        first = first_cell(side, num_cells, length)
        joined_HPD[:, first : first + length] = past[0]
    return joined_BHPD
