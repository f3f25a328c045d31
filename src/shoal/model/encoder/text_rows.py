"""Texts and pairs of texts as rows of token ids, grouped by length so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as Backend

from shoal.errors import InvalidRequest, ModelLoadError
from shoal.model.text.vocabulary.guard import is_failure

MAX_BATCH_TOKENS = 8192
"""Tokens of a batch, padding included, which bounds its memory whatever the lengths. A judgment."""
_WIDTHS = (*range(8, 64, 8), *range(64, 128, 16), *range(128, 256, 32))
_WIDE_STEP = 64
"""Step between larger widths. At most a fifth of a row is padding, except in the shortest texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRow:
    """A text, or two that are compared."""

    ids: Sequence[int]
    type_ids: Sequence[int]
    """Which of the two texts each token belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBatch:
    """Rows of one width. Shapes: [B, S]."""

    places: Sequence[int]
    """Places of these rows among all rows."""
    ids_BS: npt.NDArray[np.int64]
    mask_BS: npt.NDArray[np.int64]
    type_ids_BS: npt.NDArray[np.int64]


class TextRows:
    """Makes rows. Thread-safe; other threads run meanwhile."""

    def __init__(self, file: Path, max_tokens: int, pad_id: int = 0) -> None:
        """
        Args:
            file: a tokenizer.json. Its own padding and truncation are not used.
            max_tokens: of a row, >= 1.
            pad_id: token for padding.

        Raises:
            ModelLoadError: the file cannot be read.
        """
        try:
            self._whole, self._cut = Backend.from_file(str(file)), Backend.from_file(str(file))
        except BaseException as error:
            if not is_failure(error):
                raise
            raise ModelLoadError(f"{file}: cannot be read as a tokenizer ({error})") from error
        for backend in (self._whole, self._cut):
            backend.no_padding()
            backend.no_truncation()
        self._cut.enable_truncation(max_tokens)
        self.max_tokens = max_tokens
        self.vocab_size = self._whole.get_vocab_size()
        self.pad_id = pad_id

    def rows(self, texts: Sequence[str] | Sequence[tuple[str, str]], *, cuts: bool = False) -> list[TextRow]:
        """Rows of texts or pairs; `cuts`: truncate those that are too long.

        Raises:
            InvalidRequest: a text is too long, empty or not valid.
        """
        backend = self._cut if cuts else self._whole
        try:
            encoded = backend.encode_batch(list(texts))
        except TypeError:
            raise InvalidRequest(
                "a text contains half of a surrogate pair, which is not a character", "input"
            ) from None
        except BaseException as error:
            if not is_failure(error):
                raise
            raise InvalidRequest(f"the model's tokenizer cannot read this text: {error}", "input") from error
        return [self._checked(TextRow(ids=one.ids, type_ids=one.type_ids)) for one in encoded]

    def row_of_ids(self, ids: Sequence[int], *, cuts: bool = False) -> TextRow:
        """A row of tokens from a client. Raises InvalidRequest if an id is not a token, or if there are none or too
        many."""
        if not ids or not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise InvalidRequest(
                f"token ids must be between 0 and {self.vocab_size - 1}, and there must be at least one", "input"
            )
        kept = list(ids[: self.max_tokens] if cuts else ids)
        return self._checked(TextRow(ids=kept, type_ids=[0] * len(kept)))

    def batches(self, rows: Sequence[TextRow]) -> Iterator[RowBatch]:
        """All rows in batches of similar lengths."""

        def width_of(place: int) -> int:
            return min(padded_width(len(rows[place].ids)), self.max_tokens)

        for width, group in groupby(sorted(range(len(rows)), key=width_of), width_of):
            places = list(group)
            most = max(1, MAX_BATCH_TOKENS // width)
            for first in range(0, len(places), most):
                yield self._batch(rows, places[first : first + most], width)

    def _batch(self, rows: Sequence[TextRow], places: Sequence[int], width: int) -> RowBatch:
        ids_BS = np.full((len(places), width), self.pad_id, np.int64)
        mask_BS, type_ids_BS = np.zeros_like(ids_BS), np.zeros_like(ids_BS)
        for row, place in enumerate(places):
            length = len(rows[place].ids)
            ids_BS[row, :length] = rows[place].ids
            type_ids_BS[row, :length] = rows[place].type_ids
            mask_BS[row, :length] = 1
        return RowBatch(places=places, ids_BS=ids_BS, mask_BS=mask_BS, type_ids_BS=type_ids_BS)

    def _checked(self, row: TextRow) -> TextRow:
        if not row.ids:
            raise InvalidRequest("a text is empty: it has no tokens", "input")
        if len(row.ids) > self.max_tokens:
            raise InvalidRequest(
                f"this model accepts at most {self.max_tokens} tokens, but a text has {len(row.ids)}: shorten "
                "it, or set `truncate_prompt_tokens` to -1",
                "input",
            )
        return row


def padded_width(length: int) -> int:
    """The width of a batch for texts with this many tokens."""
    return next((width for width in _WIDTHS if width >= length), -(-length // _WIDE_STEP) * _WIDE_STEP)
