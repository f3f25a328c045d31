"""How a tensor lies over the ranks, and which splits must be cut at the same places.

A tensor is whole on every rank unless it has an `AxisSplit`. Sums are never left open: a node that computes a part of a
sum is followed by its `AllReduce` at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from shoal.core.plan.share_rounding import round_shares
from shoal.model.graph.tensor_parallel.shapes.sizes import ONE, Size


@dataclass(frozen=True, slots=True)
class AxisSegment:
    """Consecutive indices of an axis that are cut into one range per rank."""

    split_class: int
    length: int
    """of the whole, over all ranks"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisSplit:
    """One axis is cut: rank r holds its range of every segment, one after the other.

    The axis is `period` after `period`, `repeats` times: heads that a reshape merged with the batch repeat per row;
    queries, keys and values in one matrix are three segments.
    """

    axis: int
    """from the front"""
    period: tuple[AxisSegment, ...]
    repeats: Size = ONE

    @property
    def period_length(self) -> int:
        """Indices of one period, over all ranks."""
        return sum(segment.length for segment in self.period)

    @property
    def size(self) -> Size:
        """Of the whole axis."""
        return self.repeats.times(Size(self.period_length))

    def at(self, axis: int) -> AxisSplit:
        """The same on another axis."""
        return replace(self, axis=axis)


class SplitClasses:
    """Which segments are cut at the same relative places: a union-find whose sets count equal, indivisible atoms.

    A segment of length n whose class has a atoms may be cut at multiples of n / a. Joining two classes, or a reshape
    that leaves fewer places to cut at, takes the greatest common divisor.
    """

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self._parent: list[int] = []
        self._atoms: list[int] = []
        self._origins: list[frozenset[int]] = []

    def new(self, num_atoms: int, origin: int | None = None) -> int:
        """A class of its own.

        Args:
            num_atoms: at least the number of ranks.
            origin: the node that chose to split; it may be told not to.
        """
        self._parent.append(len(self._parent))
        self._atoms.append(num_atoms)
        self._origins.append(frozenset() if origin is None else frozenset([origin]))
        return len(self._parent) - 1

    def root(self, split_class: int) -> int:
        """The class's representative."""
        while self._parent[split_class] != split_class:
            split_class = self._parent[split_class]
        return split_class

    def num_atoms(self, split_class: int) -> int:
        """Into how many equal atoms segments of the class may be cut."""
        return self._atoms[self.root(split_class)]

    def origins(self, split_class: int) -> frozenset[int]:
        """Nodes that chose to split and ended up in this class."""
        return self._origins[self.root(split_class)]

    def constrain(self, pairs: Iterable[tuple[int, int]] = (), limits: Iterable[tuple[int, int]] = ()) -> bool:
        """Join pairs of classes and limit classes to divisors of a number of atoms: all of it, or nothing.

        Returns:
            Whether every class still has an atom for each rank; nothing has changed where not.
        """
        kept = (self._parent.copy(), self._atoms.copy(), self._origins.copy())
        roots: set[int] = set()
        for first, second in pairs:
            roots.add(self._join(self.root(first), self.root(second)))
        for split_class, num_atoms in limits:
            root = self.root(split_class)
            self._atoms[root] = math.gcd(self._atoms[root], num_atoms)
            roots.add(root)
        if all(self._atoms[self.root(root)] >= self.num_ranks for root in roots):
            return True
        self._parent, self._atoms, self._origins = kept
        return False

    def _join(self, first: int, second: int) -> int:
        self._parent[second] = first
        self._atoms[first] = math.gcd(self._atoms[first], self._atoms[second])
        self._origins[first] |= self._origins[second]
        return first


class RankRanges:
    """Which indices each rank owns: every class's atoms dealt out by share, once."""

    def __init__(self, classes: SplitClasses, shares: Sequence[int]) -> None:
        self.num_ranks = len(shares)
        self._classes = classes
        self._shares = tuple(shares)
        self._edges: dict[int, tuple[int, ...]] = {}

    def ranges(self, split: AxisSplit, rank: int) -> list[tuple[int, int]]:
        """[first, last) of every segment of one period that the rank holds, in whole indices."""
        found: list[tuple[int, int]] = []
        start = 0
        for segment in split.period:
            first, last = self._range(segment, rank)
            found.append((start + first, start + last))
            start += segment.length
        return found

    def all_ranges(self, split: AxisSplit, rank: int) -> list[tuple[int, int]]:
        """The same over all periods. Only for axes of fixed size."""
        fixed = split.repeats.fixed
        assert fixed is not None, "an axis of open size has no list of ranges"
        length = split.period_length
        period = self.ranges(split, rank)
        return [(turn * length + first, turn * length + last) for turn in range(fixed) for first, last in period]

    def period_size(self, split: AxisSplit, rank: int) -> int:
        """Indices of one period that the rank holds."""
        return sum(last - first for first, last in self.ranges(split, rank))

    def _range(self, segment: AxisSegment, rank: int) -> tuple[int, int]:
        root = self._classes.root(segment.split_class)
        num_atoms = self._classes.num_atoms(root)
        if root not in self._edges:
            counts = round_shares(num_atoms, self._shares, at_least=1)
            self._edges[root] = tuple(sum(counts[:end]) for end in range(len(counts) + 1))
        atom = segment.length // num_atoms
        return self._edges[root][rank] * atom, self._edges[root][rank + 1] * atom
