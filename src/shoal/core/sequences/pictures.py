"""Pictures within a prompt: rows that have vectors in the place of tokens, and how they turn and see.

Shapes: N rows of a picture, W values of a row's vector, see `PictureRows`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

NUM_AXES = 3
"""Positions of a row: in time, by its height and by its width. Source: Qwen2-VL, arXiv 2409.12191, section 2.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Consecutive rows of a prompt. It stays with its request, so that other workers can compute it again."""

    key: bytes
    """Digest of the pixels and of how they were cut: equal ones have equal vectors."""
    first_row: int
    """Position in the prompt, >= 0."""
    num_rows: int
    """At least one."""
    vectors: bytes = field(repr=False)
    """fp32 [N, W]"""

    @property
    def end_row(self) -> int:
        """The first row behind it."""
        return self.first_row + self.num_rows


class PictureSpan(NamedTuple):
    """The rows of a picture that lie within some rows of its prompt."""

    first_row: int
    """Of the prompt."""
    num_rows: int
    vectors: bytes
    """fp32, of these rows alone"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """All pictures of a prompt."""

    pictures: tuple[Picture, ...]
    """At least one, in order, without overlap."""
    turns: array[int] | None = None
    """Three positions that each row of the prompt turns by, row after row; None: rows turn by their own position."""
    ahead: int = 0
    """How much further than their own position rows behind the prompt turn; most pictures turn less than they are long,
    then it is negative."""
    sees_whole: bool = False
    """Whether a picture's rows see all of it, those behind them included; then no step ends within one."""

    @property
    def most_rows(self) -> int:
        """Of the largest picture."""
        return max(picture.num_rows for picture in self.pictures)

    def keys_within(self, start: int, stop: int) -> bytes:
        """The keys of all pictures that have rows among these, one after the other."""
        return b"".join(one.key for one in self.pictures if one.first_row < stop and start < one.end_row)

    def spans_within(self, start: int, stop: int) -> Iterator[PictureSpan]:
        """The parts of all pictures that lie among these rows, in order."""
        for one in self.pictures:
            first, end = max(start, one.first_row), min(stop, one.end_row)
            if first < end:
                width = len(one.vectors) // one.num_rows
                yield PictureSpan(
                    first, end - first, one.vectors[(first - one.first_row) * width : (end - one.first_row) * width]
                )

    def turns_of(self, start: int, stop: int) -> array[int]:
        """Three positions for each of these rows; rows behind the prompt go on from its last."""
        if self.turns is None:
            return plain_turns(start, stop)
        known = len(self.turns) // NUM_AXES
        given = self.turns[NUM_AXES * start : NUM_AXES * min(stop, known)]
        if stop <= known:
            return given
        return given + plain_turns(max(start, known) + self.ahead, stop + self.ahead)

    def ends_of(self, start: int, stop: int) -> array[int]:
        """The row before which each of these rows sees."""
        ends = array("i", range(start + 1, stop + 1))
        for one in self.pictures if self.sees_whole else ():
            first, end = max(start, one.first_row), min(stop, one.end_row)
            if first < end:
                ends[first - start : end - start] = array("i", [one.end_row]) * (end - first)
        return ends

    def rows_at_once(self, start: int, wanted: int, room: int) -> int:
        """How many rows from `start` on may go into a step.

        Args:
            start: the first row.
            wanted: rows that would go, >= 1.
            room: rows that may go at most, >= `wanted`.

        Returns:
            As many as are wanted, unless that would cut a picture whose rows see all of it: then fewer, or the whole
            picture where there is room for it, or 0.
        """
        for one in self.pictures if self.sees_whole else ():
            if one.first_row < start + wanted < one.end_row:
                if one.first_row > start:
                    return one.first_row - start
                return one.end_row - start if one.end_row - start <= room else 0
        return wanted


def plain_turns(start: int, stop: int) -> array[int]:
    """Of rows without pictures before them: their position, three times."""
    return array("i", [position for position in range(start, stop) for _ in range(NUM_AXES)])
