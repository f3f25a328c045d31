"""What a value of a graph can have to do with the rows of a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from shoal.model.graph.tensor_parallel.shapes.sizes import ONE, Size


@dataclass(frozen=True, slots=True)
class Shared:
    """Equal in every run, whichever rows are in it and however many: weights, inputs without a batch, their like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Entries that each belong to one row of the batch and depend on no other row.

    The axis is `before` * rows * `after` long: a reshape may have merged axes with the batch on either side.
    """

    rank: int
    axis: int
    """from the front"""
    before: Size = ONE
    after: Size = ONE
    """entries of one row that lie side by side"""
    index: Literal["all", "first"] | None = None
    """entries (of "first": the first along the last axis) that say which row of the batch they belong to"""

    @property
    def from_end(self) -> int:
        """The axis, counted from behind the last one."""
        return self.rank - self.axis

    @property
    def place(self) -> tuple[int, Size, Size]:
        """Where rows lie, in a form that is equal for values that can be broadcast to each other."""
        return (self.from_end, self.before, self.after)

    def length(self, batch: Size) -> Size:
        """Of the axis."""
        return self.before.times(batch).times(self.after)

    def at(self, axis: int, rank: int) -> Rows:
        """The same on another axis of a value with another rank."""
        return replace(self, axis=axis, rank=rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """Depends on several rows, or on their number or order; or it cannot be told."""

    reason: str


Kind = Shared | Rows | Mixed
SHARED = Shared()


class Mixing(Exception):
    """A node takes rows that were apart together, or nothing is known of it. The message says how."""


class AlreadyMixed(Mixing):
    """A node reads what was taken together before; the message says where."""
