"""Builds a rank's graph: new nodes and weights, and each value in the forms in which it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.helper import make_node, np_dtype_to_tensor_dtype

from shoal.arrays import Array
from shoal.model.graph.tensor_parallel.layouts import AxisSplit, RankRanges
from shoal.model.graph.tensor_parallel.markers import all_gather
from shoal.model.graph.tensor_parallel.shapes.constants import ArrayKind, Constants, take_ranges
from shoal.model.graph.tensor_parallel.shapes.sizes import ONE

_TO_END = np.iinfo(np.int64).max


class RankGraph:
    """Nodes and weights of one rank. Whole values keep their names; parts of values get new ones."""

    def __init__(self, constants: Constants, ranges: RankRanges, rank: int, *, reads_weights: bool) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.cut_constants: set[str] = set()
        """Constants of the stage of which this rank holds a part somewhere."""
        self.layouts: dict[str, AxisSplit] = {}
        """Values that exist in part; the whole value exists only if it was asked for."""
        self.num_sums = 0
        self.num_gathers = 0
        self._constants = constants
        self._reads_weights = reads_weights
        self._ranges = ranges
        self._rank = rank
        self._wholes: set[str] = set()
        self._cuts: dict[tuple[str, int, tuple[tuple[int, int], ...]], str] = {}
        self._num_names = 0

    def add(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node of the default domain with one output. Returns the output's name."""
        output = output or self.fresh(operator)
        self.nodes.append(make_node(operator, list(inputs), [output], **attributes))
        return output

    def fresh(self, hint: str) -> str:
        """A name that does not occur in the graph."""
        self._num_names += 1
        return f"{hint}::shard{self._num_names}"

    def weight(self, array: Array, hint: str = "weight") -> str:
        """Add a weight. Returns its name."""
        name = self.fresh(hint)
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def numbers(self, values: Sequence[int]) -> str:
        """Add a vector of int64. Returns its name."""
        return self.weight(np.array(values, np.int64), "numbers")

    def local(self, name: str) -> str:
        """The name of a value on this rank."""
        return local_name(name) if name in self.layouts else name

    def whole(self, name: str) -> str:
        """The name of a whole value, which is gathered when it is first asked for."""
        if name in self.layouts and name not in self._wholes:
            self._gather(name, self.layouts[name])
            self._wholes.add(name)
        return name

    def cut(self, name: str, split: AxisSplit) -> str:
        """The name of this rank's part of a whole value: a smaller weight, or a slice."""
        ranges = self._ranges.all_ranges(split, self._rank)
        key = (name, split.axis, tuple(ranges))
        if key not in self._cuts:
            kind = self._constants.kind(name) if name in self._constants else None
            if kind is None:
                self._cuts[key] = self._slices(self.whole(name), split.axis, ranges)
            else:
                self.cut_constants.add(name)
                self._cuts[key] = self._part(name, kind, split.axis, ranges)
        return self._cuts[key]

    def _part(self, name: str, kind: ArrayKind, axis: int, ranges: Sequence[tuple[int, int]]) -> str:
        array = self._constants.array(name) if self._reads_weights else None
        if array is not None:
            return self.weight(take_ranges(array, axis, ranges), name)
        shape = [*kind.shape[:axis], sum(last - first for first, last in ranges), *kind.shape[axis + 1 :]]
        element = np_dtype_to_tensor_dtype(kind.dtype)
        self.weights.append(onnx.TensorProto(name=self.fresh(name), data_type=element, dims=shape))
        return self.weights[-1].name

    def period_sizes(self, split: AxisSplit) -> list[int]:
        """For every rank, the number of indices of one period that it holds."""
        return [self._ranges.period_size(split, rank) for rank in range(self._ranges.num_ranks)]

    def own_size(self, split: AxisSplit) -> int:
        """The number of indices of one period that this rank holds."""
        return self._ranges.period_size(split, self._rank)

    def _slices(self, name: str, axis: int, ranges: Sequence[tuple[int, int]]) -> str:
        axes = self.numbers([axis])
        parts = [self.add("Slice", [name, self.numbers([a]), self.numbers([b]), axes]) for a, b in ranges]
        return parts[0] if len(parts) == 1 else self.add("Concat", parts, axis=axis)

    def _gather(self, name: str, split: AxisSplit) -> None:
        self.num_gathers += 1
        if split.repeats == ONE:
            self._gather_period(local_name(name), name, split, split.axis)
            return
        before, after, turns = self._sizes_around(local_name(name), split)
        own = self.numbers([self.own_size(split)])
        unfolded = self.add("Reshape", [local_name(name), self.add("Concat", [before, turns, own, after], axis=0)])
        gathered = self.fresh(name)
        self._gather_period(unfolded, gathered, split, split.axis + 1)
        size = self.add("Mul", [turns, self.numbers([split.period_length])])
        self.add("Reshape", [gathered, self.add("Concat", [before, size, after], axis=0)], name)

    def _sizes_around(self, name: str, split: AxisSplit) -> tuple[str, str, str]:
        """Vectors of the sizes before and after the split axis, and of its repeats."""
        shape = self.add("Shape", [name])
        axis, behind = self.numbers([split.axis]), self.numbers([split.axis + 1])
        before = self.add("Slice", [shape, self.numbers([0]), axis])
        after = self.add("Slice", [shape, behind, self.numbers([_TO_END])])
        own = self.add("Slice", [shape, axis, behind])
        return before, after, self.add("Div", [own, self.numbers([self.own_size(split)])])

    def _gather_period(self, part: str, whole: str, split: AxisSplit, axis: int) -> None:
        """Gather one period from all ranks; several segments arrive interleaved and are put in order."""
        sizes = self.period_sizes(split)
        if len(split.period) == 1:
            self.nodes.append(all_gather(part, whole, axis, sizes))
            return
        joined = self.fresh(whole)
        self.nodes.append(all_gather(part, joined, axis, sizes))
        pieces: list[list[tuple[int, int]]] = [[] for _ in split.period]
        first = 0
        for rank in range(len(sizes)):
            for segment, (start, stop) in enumerate(self._ranges.ranges(split, rank)):
                pieces[segment].append((first, first + stop - start))
                first += stop - start
        ordered = [piece for segment in pieces for piece in segment]
        self.add("Identity", [self._slices(joined, axis, ordered)], whole)


def local_name(name: str) -> str:
    """The name of a rank's part of a value."""
    return f"{name}::shard"
