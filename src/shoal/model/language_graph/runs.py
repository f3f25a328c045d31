"""Divides a step of the scheduler into runs of a graph: which sequences' tokens are computed together.

Decoding rows share a run if the graph allows it, so that all weights are read once; each piece of a prompt has a run of
its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from shoal.arrays import I32
from shoal.model.language_graph.abilities import Abilities
from shoal.protocol.language_messages import Step

_MOST_PADDED = 2
_ALWAYS_PADDED = 64
"""A row may be padded to this many times its own length, or by this many tokens. A judgment: reading padding is cheap
compared with reading the weights again, until it is most of what attention reads."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SequencePiece:
    """Consecutive tokens of one sequence."""

    first: int
    """Row of the first token in the step's flat batch."""
    count: int
    past: int
    """Tokens of the sequence before them."""
    table: I32
    """The sequence's blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """Limits of one run."""

    abilities: Abilities
    max_tokens: int
    """Most tokens of a piece of a prompt, since the logits of all of them are computed."""
    max_cells: int
    """Most cells of the pasts of all rows, padding included."""


def pieces_of(step: Step, *, num_blocks: int, block_size: int) -> list[SequencePiece]:
    """The sequences of a step. Raises ValueError if the step does not fit the cache."""
    if step.block_copies:
        raise ValueError("an ONNX language model has no beam search: no blocks are copied")
    starts = np.frombuffer(step.query_starts, "<i4").tolist()
    positions = np.frombuffer(step.positions, "<i4").tolist()
    lengths = np.frombuffer(step.context_lens, "<i4").tolist()
    tables = np.frombuffer(step.block_tables, "<i4").reshape(len(lengths), -1)
    pieces: list[SequencePiece] = []
    for first, last, length, table in zip(starts, starts[1:], lengths, tables, strict=False):
        past = length - (last - first)
        used = table[: -(-length // block_size)]
        if past < 0 or last <= first or positions[first:last] != list(range(past, length)):
            raise ValueError(f"rows {first}:{last} are no neighboring tokens that end a sequence of {length}")
        if len(used) * block_size < length or used.min() < 0 or used.max() >= num_blocks:
            raise ValueError(f"a sequence of {length} tokens lies in blocks {used.tolist()} of {num_blocks}")
        pieces.append(SequencePiece(first=first, count=last - first, past=past, table=used))
    if starts[0] != 0 or starts[-1] != step.num_tokens:
        raise ValueError(f"{step.num_tokens} rows are divided at {starts}")
    return pieces


def divide(
    pieces: Iterable[SequencePiece], wanted: Collection[int], limits: RunLimits
) -> list[tuple[SequencePiece, ...]]:
    """The runs of a step, in order. All rows of a run have the same number of new tokens.

    Args:
        pieces: of the step.
        wanted: rows of the flat batch whose logits are wanted.
        limits: of a run.
    """
    pieces = list(pieces)
    long = [(part,) for piece in pieces if piece.count > 1 for part in _parts(piece, wanted, limits)]
    single = sorted((piece for piece in pieces if piece.count == 1), key=lambda piece: (piece.past, piece.first))
    return [*long, *_together(single, limits)]


def _parts(piece: SequencePiece, wanted: Collection[int], limits: RunLimits) -> Iterator[SequencePiece]:
    """Divide a piece into as many runs as the graph needs."""
    done = 0
    while done < piece.count:
        count = _next_count(piece, done, wanted, limits)
        yield replace(piece, first=piece.first + done, count=count, past=piece.past + done)
        done += count


def _next_count(piece: SequencePiece, done: int, wanted: Collection[int], limits: RunLimits) -> int:
    left = piece.count - done
    if not limits.abilities.chunks and piece.past + done:
        return 1
    count = min(left, limits.max_tokens) if limits.abilities.chunks else left
    if limits.abilities.last_only:  # a run ends at the next row whose logits are wanted
        count = next((n for n in range(1, count) if piece.first + done + n - 1 in wanted), count)
    return count


def _together(single: Sequence[SequencePiece], limits: RunLimits) -> Iterator[tuple[SequencePiece, ...]]:
    """Group rows with one token each by the lengths of their pasts."""
    group: list[SequencePiece] = []
    for piece in single:
        if group and not _fits(group, piece, limits):
            yield tuple(group)
            group = []
        group.append(piece)
    if group:
        yield tuple(group)


def _fits(group: Sequence[SequencePiece], piece: SequencePiece, limits: RunLimits) -> bool:
    shortest, longest = group[0].past, piece.past
    if not limits.abilities.batches or (len(group) + 1) * (longest + 1) > limits.max_cells:
        return False
    if limits.abilities.padding is None:
        return shortest == longest
    return longest <= max(_MOST_PADDED * shortest, shortest + _ALWAYS_PADDED)
