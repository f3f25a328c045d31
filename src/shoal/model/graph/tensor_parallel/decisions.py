"""A graph that is to be split, and the decisions of the symbolic phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx

from shoal.model.graph.file.dataflow import RANDOM_OPERATORS, Dataflow, nested_nodes
from shoal.model.graph.tensor_parallel.layouts import AxisSplit, SplitClasses
from shoal.model.graph.tensor_parallel.shapes.constants import Constants
from shoal.model.graph.tensor_parallel.shapes.nodes import DEFAULT_DOMAINS, input_name
from shoal.model.graph.tensor_parallel.shapes.symbolic_shapes import SymbolicShapes
from shoal.model.graph.tensor_parallel.steps import NodeStep
from shoal.protocol.stage_interface import TensorSpec


@dataclass(frozen=True, kw_only=True)
class SplitGraph:
    """The graph that is split."""

    model: onnx.ModelProto
    flow: Dataflow
    constants: Constants
    specs: Mapping[str, TensorSpec]

    @property
    def opset(self) -> int:
        """Version of the default domain."""
        versions = [found.version for found in self.model.opset_import if found.domain in DEFAULT_DOMAINS]
        return max(versions, default=0)

    @property
    def must_be_whole(self) -> bool:
        """Whether the graph draws random numbers, which would differ between ranks, or contains a `Scan`.

        ONNX Runtime must infer every shape in the body of a `Scan`, and markers hide shapes.
        """
        nodes = [*self.model.graph.node, *(node for function in self.model.functions for node in function.node)]
        return any(node.op_type == "Scan" or _is_random(node) for node in nested_nodes(nodes))

    def active_nodes(self) -> Iterator[tuple[int, onnx.NodeProto]]:
        """Nodes that depend on inputs, in order."""
        return ((index, node) for index, node in enumerate(self.model.graph.node) if index in self.flow.active)


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """Result of the symbolic phase."""

    steps: Mapping[int, NodeStep]
    """Steps by node; nodes without one are computed whole."""
    layouts: Mapping[str, AxisSplit]
    """Layouts of the values that are split."""
    classes: SplitClasses
    shapes: SymbolicShapes


def _is_random(node: onnx.NodeProto) -> bool:
    """Whether a node draws random numbers. `Dropout` does not, unless it may be told to train at run time."""
    may_draw = node.op_type != "Dropout" or bool(input_name(node, 2))
    return node.op_type in RANDOM_OPERATORS and may_draw
