"""Pictures in a prompt: rows with vectors in place of tokens, their rotary positions, and what they attend over.

Shapes: N rows of a picture, W values in a row's vector, see `PictureRows`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

NUM_AXES = 3
"""Rotary positions of a row: time, height and width. Source: Qwen2-VL, arXiv 2409.12191, section 2.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture as consecutive rows of a prompt. Its request keeps it, so that other workers can compute it again."""

    key: bytes
    """Digest of the pixels and of how they were divided: equal keys mean equal vectors."""
    first_row: int
    """Position in the prompt, >= 0."""
    num_rows: int
    """At least one."""
    vectors: bytes = field(repr=False)
    """The vectors of the rows, fp32 [N, W]."""

    @property
    def end_row(self) -> int:
        """The first row after the picture."""
        return self.first_row + self.num_rows


class PictureSpan(NamedTuple):
    """The part of a picture within a range of rows of its prompt."""

    first_row: int
    """The first row, counted in the prompt."""
    num_rows: int
    vectors: bytes
    """The vectors of these rows only, fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """All pictures of a prompt."""

    pictures: tuple[Picture, ...]
    """At least one, in order, without overlap."""
    turns: array[int] | None = None
    """Three rotary positions for each row of the prompt, row after row; None: each row has its plain position."""
    ahead: int = 0
    """The offset of the rotary positions of rows after the prompt; usually negative, since most pictures take fewer
    positions than rows."""
    sees_whole: bool = False
    """Whether each row of a picture attends over all of its rows, including later ones; then no step ends within it."""

    @property
    def most_rows(self) -> int:
        """Rows of the largest picture."""
        return max(picture.num_rows for picture in self.pictures)

    def keys_within(self, start: int, stop: int) -> bytes:
        """The concatenated keys of all pictures with rows in start:stop."""
        return b"".join(one.key for one in self.pictures if one.first_row < stop and start < one.end_row)

    def spans_within(self, start: int, stop: int) -> Iterator[PictureSpan]:
        """The parts of all pictures within start:stop, in order."""
        for one in self.pictures:
            first, end = max(start, one.first_row), min(stop, one.end_row)
            if first < end:
                width = len(one.vectors) // one.num_rows
                yield PictureSpan(
                    first, end - first, one.vectors[(first - one.first_row) * width : (end - one.first_row) * width]
                )

    def turns_of(self, start: int, stop: int) -> array[int]:
        """Three rotary positions for each row in start:stop; rows after the prompt continue with the offset `ahead`."""
        if self.turns is None:
            return plain_turns(start, stop)
        known = len(self.turns) // NUM_AXES
        given = self.turns[NUM_AXES * start : NUM_AXES * min(stop, known)]
        if stop <= known:
            return given
        return given + plain_turns(max(start, known) + self.ahead, stop + self.ahead)

    def ends_of(self, start: int, stop: int) -> array[int]:
        """The end of the rows that each row in start:stop attends over."""
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
            wanted: the number of rows wanted, >= 1.
            room: the most rows that fit, >= `wanted`.

        Returns:
            `wanted`, unless that would cut a picture that must stay whole: then the rows before it, or all of the
            picture if there is room for it, or 0.
        """
        for one in self.pictures if self.sees_whole else ():
            if one.first_row < start + wanted < one.end_row:
                if one.first_row > start:
                    return one.first_row - start
                return one.end_row - start if one.end_row - start <= room else 0
        return wanted


def plain_turns(start: int, stop: int) -> array[int]:
    """Three rotary positions for each row in start:stop of a text without pictures: its plain position, three times."""
    return array("i", [position for position in range(start, stop) for _ in range(NUM_AXES)])
