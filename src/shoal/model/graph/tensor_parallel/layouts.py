"""How a tensor is distributed over the ranks, and which splits must be cut at the same places.

A tensor is whole on every rank unless it has an `AxisSplit`. There are no partial sums between nodes: a node that
computes a part of a sum is followed by its `AllReduce` at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from shoal.core.plan.share_rounding import round_shares
from shoal.model.graph.tensor_parallel.shapes.sizes import ONE, Size


@dataclass(frozen=True, slots=True)
class AxisSegment:
    """Consecutive indices of an axis, cut into one range for each rank."""

    split_class: int
    length: int
    """Length over all ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisSplit:
    """A split along one axis: each rank holds its range of every segment, one after the other.

    The axis consists of `repeats` periods: heads that a reshape merged with the batch repeat for each row; queries,
    keys and values in one matrix are three segments of a period.
    """

    axis: int
    """Number of the axis, counted from the front."""
    period: tuple[AxisSegment, ...]
    repeats: Size = ONE

    @property
    def period_length(self) -> int:
        """Indices of one period, over all ranks."""
        return sum(segment.length for segment in self.period)

    @property
    def size(self) -> Size:
        """Size of the whole axis."""
        return self.repeats.times(Size(self.period_length))

    def at(self, axis: int) -> AxisSplit:
        """The same split on another axis."""
        return replace(self, axis=axis)


class SplitClasses:
    """Which segments are cut at the same relative places: a union-find whose sets have a number of equal, indivisible
    atoms.

    A segment of length n whose class has a atoms may be cut at multiples of n / a. Joining two classes takes the
    greatest common divisor of their atoms, as does a reshape that leaves fewer places to cut at.
    """

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self._parent: list[int] = []
        self._atoms: list[int] = []
        self._origins: list[frozenset[int]] = []

    def new(self, num_atoms: int, origin: int | None = None) -> int:
        """Create a class.

        Args:
            num_atoms: at least the number of ranks.
            origin: the node that chose this split; it may be told not to.
        """
        self._parent.append(len(self._parent))
        self._atoms.append(num_atoms)
        self._origins.append(frozenset() if origin is None else frozenset([origin]))
        return len(self._parent) - 1

    def root(self, split_class: int) -> int:
        """The representative of a class."""
        while self._parent[split_class] != split_class:
            split_class = self._parent[split_class]
        return split_class

    def num_atoms(self, split_class: int) -> int:
        """The number of equal atoms into which segments of the class may be cut."""
        return self._atoms[self.root(split_class)]

    def origins(self, split_class: int) -> frozenset[int]:
        """Nodes that chose the splits in this class."""
        return self._origins[self.root(split_class)]

    def constrain(self, pairs: Iterable[tuple[int, int]] = (), limits: Iterable[tuple[int, int]] = ()) -> bool:
        """Join pairs of classes, and limit classes to divisors of a number of atoms: all of it, or nothing.

        Returns:
            Whether every class still has an atom for each rank; if not, nothing has changed.
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
    """The indices that each rank owns: every class's atoms are distributed by share, once."""

    def __init__(self, classes: SplitClasses, shares: Sequence[int]) -> None:
        self.num_ranks = len(shares)
        self._classes = classes
        self._shares = tuple(shares)
        self._edges: dict[int, tuple[int, ...]] = {}

    def ranges(self, split: AxisSplit, rank: int) -> list[tuple[int, int]]:
        """The rank's range [first, last) of every segment of one period, in indices of the whole axis."""
        found: list[tuple[int, int]] = []
        start = 0
        for segment in split.period:
            first, last = self._range(segment, rank)
            found.append((start + first, start + last))
            start += segment.length
        return found

    def all_ranges(self, split: AxisSplit, rank: int) -> list[tuple[int, int]]:
        """As `ranges`, over all periods. Only for axes of fixed size."""
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
