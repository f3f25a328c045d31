"""Which rows and columns of a whole matrix a shard has."""

from __future__ import annotations

from shoal.model.decoder_config import DecoderConfig
from shoal.model.recurrence.kinds import RecurrenceConfig
from shoal.model.weights import BLOCK, Range
from shoal.protocol.stage_config import ShardPart


def same_share(columns: Range, of: int, total: int, *, atom: int = BLOCK) -> Range:
    """The columns of an MLP of another size at which a shard is cut off, in whole quantization blocks, or in `atom` of
    something else. Neighbors' ranges follow each other as `columns` do; one may be empty."""

    def edge(column: int) -> int:
        return total if column == of else column if total == of else column * total // of // atom * atom

    return edge(columns[0]), edge(columns[1])


def at_share(given: Range, of: int, total: int) -> Range:
    """The range of `total` items that is the same part of them as `given` is of `of`."""
    return given[0] * total // of, given[1] * total // of


def times(given: Range, factor: int) -> Range:
    """The range of items of which each one counted before has `factor`."""
    return given[0] * factor, given[1] * factor


def length(given: Range) -> int:
    """How many items a range has."""
    return given[1] - given[0]


def within(own: Range | None, given: Range | None) -> Range | None:
    """A range that is counted within a shard's own, in the numbering of the whole matrix; None: all items.

    Raises:
        ValueError: it reaches beyond the shard's own.
    """
    if own is None or given is None:
        return given if own is None else own
    if not 0 <= given[0] <= given[1] <= own[1] - own[0]:
        raise ValueError(f"[{given[0]}, {given[1]}) is not within the shard's {own[1] - own[0]}")
    return own[0] + given[0], own[0] + given[1]


def table_rows(whole: DecoderConfig, part: ShardPart) -> Range:
    """The part's rows of the table of layers' inputs, which may have fewer than the vocabulary."""
    assert whole.layer_inputs is not None
    first, last = (min(edge, whole.layer_inputs.vocab_size) for edge in part.vocabulary)
    return first, last


def recurrent_pieces(recurrence: RecurrenceConfig, whole: DecoderConfig, part: ShardPart) -> Range:
    """Pieces of the recurrent layers that a shard has: as large a part as that of the MLP's columns."""
    return same_share(part.columns, whole.share_columns, recurrence.num_pieces, atom=recurrence.piece_atom)
