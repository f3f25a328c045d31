"""What a value of a graph may have to do with the rows of a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from shoal.model.graph.tensor_parallel.shapes.sizes import ONE, Size


@dataclass(frozen=True, slots=True)
class Shared:
    """Equal in every run, whatever the rows and their number: weights, inputs without a batch, and what follows from
    them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Entries that each belong to one row of the batch and depend on no other row.

    The axis has the length `before` * rows * `after`, because a reshape may have merged the batch with axes before and
    after it.
    """

    rank: int
    axis: int
    """Number of the axis, counted from the front."""
    before: Size = ONE
    after: Size = ONE
    """Consecutive entries that belong to one row."""
    index: Literal["all", "first"] | None = None
    """Which entries contain the number of their row in the batch: all, or the first along the last axis; None: none
    do."""

    @property
    def from_end(self) -> int:
        """The axis, counted from the end: 1 is the last one."""
        return self.rank - self.axis

    @property
    def place(self) -> tuple[int, Size, Size]:
        """The place of the rows, in a form that is equal for values that can be broadcast to each other."""
        return (self.from_end, self.before, self.after)

    def length(self, batch: Size) -> Size:
        """Length of the axis."""
        return self.before.times(batch).times(self.after)

    def at(self, axis: int, rank: int) -> Rows:
        """The same rows on another axis of a value with another rank."""
        return replace(self, axis=axis, rank=rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """Depends on several rows, on their number or order, or on something unknown."""

    reason: str


Kind = Shared | Rows | Mixed
SHARED = Shared()


class Mixing(Exception):
    """A node combines rows that were separate, or its operator is unknown. The message says how."""


class AlreadyMixed(Mixing):
    """A node reads a value in which rows were combined earlier; the message says where."""
