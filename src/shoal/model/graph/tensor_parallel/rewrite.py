"""The second phase: writes the nodes of one rank, with its own sizes and smaller weights."""

from __future__ import annotations

from typing import assert_never

import numpy as np
import onnx

from shoal.model.graph.tensor_parallel.decisions import Decisions, SplitGraph
from shoal.model.graph.tensor_parallel.layouts import AxisSplit, RankRanges
from shoal.model.graph.tensor_parallel.markers import all_reduce
from shoal.model.graph.tensor_parallel.rank_graph import RankGraph, local_name
from shoal.model.graph.tensor_parallel.steps import (
    AddedOnce,
    Cut,
    Local,
    NodeStep,
    Operand,
    OwnSize,
    ScaledEntry,
    Whole,
)

_SPLIT_SIZES_ARE_INPUT = 13
"""From this operator set on, `Split` has its sizes as an input. Source: the operator's changelog."""


def write_rank(
    stage: SplitGraph, found: Decisions, ranges: RankRanges, rank: int, *, reads_weights: bool = True
) -> RankGraph:
    """Write all nodes of one rank that depend on inputs, in order, with markers between them.

    Args:
        stage: the graph.
        found: decisions of the symbolic phase.
        ranges: indices of each rank.
        rank: the one to write for.
        reads_weights: False: parts of weights get only their sizes, not their numbers.
    """
    graph = RankGraph(stage.constants, ranges, rank, reads_weights=reads_weights)
    for index, node in stage.active_nodes():
        step = found.steps.get(index)
        if step is None:
            for name in stage.flow.reads[index]:
                graph.whole(name)
            graph.nodes.append(node)
        else:
            _Writer(graph, stage, node, step).write()
    for output in stage.model.graph.output:
        graph.whole(output.name)
    return graph


class _Writer:
    """Writes one node of one rank."""

    def __init__(self, graph: RankGraph, stage: SplitGraph, node: onnx.NodeProto, step: NodeStep) -> None:
        self._graph = graph
        self._stage = stage
        self._node = node
        self._step = step

    def write(self) -> None:
        node = onnx.NodeProto()
        node.CopyFrom(self._node)
        del node.input[:]
        node.input.extend(self._inputs())
        while node.input and not node.input[-1]:
            node.input.pop()
        self._resize(node)
        for position, split in enumerate(self._step.outputs):
            if split is not None and node.output[position]:
                self._graph.layouts[node.output[position]] = split
                node.output[position] = local_name(node.output[position])
        self._finish(node)

    def _inputs(self) -> list[str]:
        pairs = zip(self._node.input, self._step.operands, strict=False)
        return [self._input(name, operand) if name else "" for name, operand in pairs]

    def _input(self, name: str, operand: Operand) -> str:
        match operand:
            case Whole():
                return self._graph.whole(name)
            case Local():
                return self._graph.local(name)
            case Cut(split):
                return self._graph.cut(name, split)
            case ScaledEntry(split, entry):
                return self._scaled(self._graph.whole(name), entry, self._graph.own_size(split), split.period_length)
            case OwnSize(split):
                return self._graph.numbers([self._graph.own_size(split)])
            case _:
                assert_never(operand)

    def _scaled(self, name: str, entry: int, numerator: int, denominator: int) -> str:
        """A vector of sizes in which one entry is multiplied by a fraction; the others may be -1 or 0 and stay so."""
        array = self._stage.constants.array(name) if name in self._stage.constants else None
        if array is not None:
            sizes = np.array(array)
            sizes[entry] = sizes[entry] * numerator // denominator
            return self._graph.weight(sizes, "sizes")
        return self._scale(name, entry, numerator, denominator)

    def _scale(self, name: str, entry: int, numerator: int, denominator: int, output: str = "") -> str:
        """Scale one entry. The vector may have any number of entries after it, so it is cut into three pieces."""
        graph = self._graph
        first, last, end = (graph.numbers([place]) for place in (entry, entry + 1, np.iinfo(np.int64).max))
        own = graph.add("Slice", [name, first, last])
        own = graph.add("Div", [graph.add("Mul", [own, graph.numbers([numerator])]), graph.numbers([denominator])])
        pieces = [graph.add("Slice", [name, graph.numbers([0]), first]), own, graph.add("Slice", [name, last, end])]
        return graph.add("Concat", pieces, output, axis=0)

    def _resize(self, node: onnx.NodeProto) -> None:
        """Adjust attributes that hold sizes."""
        for name, split in self._step.sizes.items():
            _set(node, name, self._graph.own_size(split))
        if self._step.is_parted:
            sizes = [self._graph.own_size(split) for split in self._step.outputs if split is not None]
            _remove(node, "split", "num_outputs")
            if self._stage.opset >= _SPLIT_SIZES_ARE_INPUT:
                node.input.append(self._graph.numbers(sizes))
            else:
                node.attribute.append(onnx.helper.make_attribute("split", sizes))

    def _finish(self, node: onnx.NodeProto) -> None:
        """Write the node itself, the sum that it is a part of, and what is added to that sum once."""
        if self._step.restored_entry is not None:
            self._restore(node, *self._step.restored_entry)
        elif self._step.is_sum:
            self._sum(node)
        else:
            self._graph.nodes.append(node)

    def _restore(self, node: onnx.NodeProto, entry: int, split: AxisSplit) -> None:
        output = node.output[0]
        node.output[0] = self._graph.fresh(output)
        self._graph.nodes.append(node)
        self._scale(node.output[0], entry, split.period_length, self._graph.own_size(split), output)

    def _sum(self, node: onnx.NodeProto) -> None:
        output, bias = node.output[0], self._step.bias
        node.output[0] = self._graph.fresh(output)
        self._graph.nodes.append(node)
        self._graph.num_sums += 1
        total = output if bias is None else self._graph.fresh(output)
        self._graph.nodes.append(all_reduce(node.output[0], total))
        if bias is not None:
            self._graph.add("Add", [total, self._bias(bias)], output)

    def _bias(self, bias: AddedOnce) -> str:
        graph = self._graph
        name = graph.whole(bias.name)
        if bias.num_spatial:
            name = graph.add("Reshape", [name, graph.numbers([-1] + [1] * bias.num_spatial)])
        if bias.factor != 1.0:
            name = graph.add("Mul", [name, graph.weight(np.array(bias.factor, np.float32), "factor")])
        return name


def _set(node: onnx.NodeProto, name: str, value: int) -> None:
    _remove(node, name)
    node.attribute.append(onnx.helper.make_attribute(name, value))


def _remove(node: onnx.NodeProto, *names: str) -> None:
    kept = [found for found in node.attribute if found.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)
