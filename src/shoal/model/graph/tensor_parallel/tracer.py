"""What rules know about a stage during the walk, and how they tie the splits of a node's inputs to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from shoal.model.graph.tensor_parallel.layouts import AxisSegment, AxisSplit, SplitClasses
from shoal.model.graph.tensor_parallel.shapes.constants import Constants
from shoal.model.graph.tensor_parallel.shapes.sizes import ONE, Shape
from shoal.model.graph.tensor_parallel.shapes.symbolic_shapes import SymbolicShapes
from shoal.model.graph.tensor_parallel.steps import Cut, Local, Operand, Whole

SPLIT_DTYPES = ("float32", "bool")
"""Types of values that may be split. Truth values are split together with the floats that they were compared from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What is known from earlier walks over the same stage."""

    whole: frozenset[int] = frozenset()
    """Nodes that must not start a split."""
    segments: Mapping[int, tuple[int, ...]]
    """Segments into which nodes that start a split must cut their axis, because of what follows them."""


_MAX_SEGMENTS = 32
"""Most segments of a weight: each costs a copy when the value is gathered."""


class SegmentsNeeded(Exception):
    """A node needs an axis in other segments than it was split into; the walk must be repeated with these."""

    def __init__(self, segments: Mapping[int, tuple[int, ...]]) -> None:
        super().__init__("the walk starts again with other segments")
        self.segments = segments


class Tracer:
    """State of one walk over a stage."""

    def __init__(self, shapes: SymbolicShapes, constants: Constants, choices: Choices, num_ranks: int) -> None:
        self.shapes = shapes
        self.constants = constants
        self.classes = SplitClasses(num_ranks)
        self.layouts: dict[str, AxisSplit] = {}
        self.node = 0
        """Index of the current node."""
        self._choices = choices

    def shape(self, name: str) -> Shape | None:
        """The whole shape of a value."""
        return self.shapes.shape(name)

    def rank(self, name: str) -> int | None:
        """Number of axes of a value."""
        shape = self.shape(name)
        return None if shape is None else len(shape)

    def layout(self, name: str) -> AxisSplit | None:
        """How a value is split; None: whole."""
        return self.layouts.get(name)

    def is_weight(self, name: str) -> bool:
        """Whether the value is a constant that may be cut by columns, rows or channels."""
        kind = self.constants.kind(name) if name in self.constants else None
        return kind is not None and kind.dtype == np.float32

    def start(self, axis: int, length: int, num_atoms: int | None = None) -> AxisSplit | None:
        """Start a new split, if the node may.

        Args:
            axis: of its result.
            length: of that axis.
            num_atoms: number of equal parts that must not be cut; None: `length`.

        Returns:
            None if there are too few atoms, or the node must not start a split.
        """
        if self.node in self._choices.whole:
            return None
        atoms = num_atoms or length
        parts = self._choices.segments.get(self.node, (1,))
        lengths = [part * length // sum(parts) for part in parts]
        counts = [part * atoms // length for part in lengths]
        is_even = all(part * atoms % length == 0 for part in lengths) and sum(lengths) == length
        if not is_even or min(counts) < self.classes.num_ranks:
            return None
        pairs = zip(lengths, counts, strict=True)
        return AxisSplit(
            axis=axis, period=tuple(AxisSegment(self.classes.new(n, self.node), part) for part, n in pairs)
        )

    def cut_like(self, length: int, axis: int) -> AxisSplit | None:
        """A split of a whole value that costs nothing but a slice."""
        if length < self.classes.num_ranks:
            return None
        return AxisSplit(axis=axis, period=(AxisSegment(self.classes.new(length), length),))

    def need_segments(self, split: AxisSplit, lengths: Sequence[int]) -> None:
        """Ask for the axis to be started in finer segments, with edges between these lengths, if its origins can do
        that.

        Raises:
            SegmentsNeeded: they can; the walk is repeated.
        """
        edges = set(accumulate(segment.length for segment in split.period))
        finer = sorted(edges | set(accumulate(lengths)))
        groups = {self.classes.origins(segment.split_class) for segment in split.period}
        is_possible = split.repeats == ONE and len(groups) == 1 and sum(lengths) == split.period_length
        if not is_possible or len(edges) == len(finer) or len(finer) > _MAX_SEGMENTS:
            return
        parts = tuple(last - first for first, last in pairwise([0, *finer]))
        origins = next(iter(groups))
        if origins and all(self._choices.segments.get(origin) != parts for origin in origins):
            raise SegmentsNeeded(dict(self._choices.segments) | dict.fromkeys(origins, parts))

    def pairs(self, first: AxisSplit, second: AxisSplit) -> list[tuple[int, int]] | None:
        """Pairs of classes that must be joined for two splits of the same axis to be cut alike; None if that is
        impossible."""
        is_alike = [part.length for part in first.period] == [part.length for part in second.period]
        if not is_alike or first.repeats != second.repeats:
            self._align(first, second)
            return None
        return [(a.split_class, b.split_class) for a, b in zip(first.period, second.period, strict=True)]

    def _align(self, first: AxisSplit, second: AxisSplit) -> None:
        for one, other in ((first, second), (second, first)):
            if one.repeats.fixed is not None:
                self.need_segments(other, [part.length for part in one.period] * one.repeats.fixed)

    def operand(self, name: str, axis: int, split: AxisSplit, pairs: list[tuple[int, int]]) -> Operand | None:
        """How a value must be read so that its axis is split as `split`. None: it cannot be.

        Mutates: `pairs` gains the classes that must be joined.
        """
        layout = self.layout(name)
        if layout is not None and layout.axis == axis:
            more = self.pairs(split, layout)
            if more is None:
                return None
            pairs.extend(more)
            return Local()
        shape = self.shape(name)
        if split.repeats.fixed is None or shape is None or shape[axis] != split.size:
            return None
        return Cut(split.at(axis))

    def aligned_operand(
        self, name: str, from_end: int, split: AxisSplit, pairs: list[tuple[int, int]]
    ) -> Operand | None:
        """As `operand`, for an input that is broadcast: it is read whole if its axis is 1 or absent.

        Args:
            from_end: the axis, 1 for the last.
        """
        shape = self.shape(name)
        if shape is None:
            return None
        if from_end > len(shape) or shape[-from_end] == ONE:
            return Whole()
        return self.operand(name, len(shape) - from_end, split, pairs)
