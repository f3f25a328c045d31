"""The rows and columns of a whole matrix that a shard has."""

from __future__ import annotations

from shoal.model.decoder_config import DecoderConfig
from shoal.model.recurrence.kinds import RecurrenceConfig
from shoal.model.weights import BLOCK, Range
from shoal.protocol.stage_config import ShardPart


def same_share(columns: Range, of: int, total: int, *, atom: int = BLOCK) -> Range:
    """A shard's columns of an MLP (or of something else) of size `total`, given its `columns` of one of size `of`, in
    whole quantization blocks or pieces of `atom`. Ranges of neighboring shards are adjacent, as `columns` are; some may
    be empty."""

    def edge(column: int) -> int:
        return total if column == of else column if total == of else column * total // of // atom * atom

    return edge(columns[0]), edge(columns[1])


def at_share(given: Range, of: int, total: int) -> Range:
    """The range of `total` items that is the same fraction of them as `given` is of `of` items."""
    return given[0] * total // of, given[1] * total // of


def times(given: Range, factor: int) -> Range:
    """The range in items of which `factor` make up each item of the given range."""
    return given[0] * factor, given[1] * factor


def length(given: Range) -> int:
    """Number of items in a range."""
    return given[1] - given[0]


def within(own: Range | None, given: Range | None) -> Range | None:
    """A range within a shard's own range, renumbered as in the whole matrix; None: all items.

    Raises:
        ValueError: it reaches beyond the shard's own range.
    """
    if own is None or given is None:
        return given if own is None else own
    if not 0 <= given[0] <= given[1] <= own[1] - own[0]:
        raise ValueError(f"[{given[0]}, {given[1]}) is not within the shard's {own[1] - own[0]}")
    return own[0] + given[0], own[0] + given[1]


def table_rows(whole: DecoderConfig, part: ShardPart) -> Range:
    """The part's rows of the layer input table, which may have fewer rows than the vocabulary."""
    assert whole.layer_inputs is not None
    first, last = (min(edge, whole.layer_inputs.vocab_size) for edge in part.vocabulary)
    return first, last


def recurrent_pieces(recurrence: RecurrenceConfig, whole: DecoderConfig, part: ShardPart) -> Range:
    """The shard's pieces of the recurrent layers: about the same fraction as its part of the MLP's columns."""
    return same_share(part.columns, whole.share_columns, recurrence.num_pieces, atom=recurrence.piece_atom)
