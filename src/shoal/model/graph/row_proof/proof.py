"""Whether rows of a batch are independent: proved from the graph, for any number of rows and any values in them.

For every value, the walk finds whether all rows share it, or whether its entries each depend on one row, and along
which axis. Whatever removes the batch axis (a reduction, a condition, a bound of a slice, the number of rows itself),
and every unknown operator, gives a value that is neither, and an output made from such a value is not proved. Shapes
are followed with a symbol for the number of rows, so that a reshape that merges rows is detected whatever the sizes
are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
import onnx.inliner

from shoal.core.plan.graph import BatchAxes
from shoal.model.graph.file.dataflow import nested_nodes, trace
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.file.value_types import infer_with_onnx, skeleton_of, tensor_spec
from shoal.model.graph.row_proof.follow import follow_nodes
from shoal.model.graph.row_proof.kinds import SHARED, Mixed, Rows, Shared
from shoal.model.graph.row_proof.walk import BATCH, Walk
from shoal.model.graph.tensor_parallel.shapes.constants import Constants
from shoal.model.graph.tensor_parallel.shapes.sizes import ONE, Size
from shoal.model.graph.tensor_parallel.shapes.symbolic_shapes import SymbolicShapes
from shoal.protocol.stage_interface import Dim, TensorSpec

_MAX_NODES = 100_000
"""Most nodes of a graph with all functions expanded: far more than any network has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProof:
    """Result of the proof."""

    outputs: Mapping[str, int]
    """Axis of each output whose rows are proved to be independent."""
    reason: str | None
    """Why the rows of other outputs may depend on each other; None: there are none."""


def prove_rows(graph: GraphFile, axes: BatchAxes) -> RowProof:
    """Which outputs have independent rows, if the inputs have theirs along these axes.

    Args:
        graph: the file.
        axes: of the inputs' rows, and whether the graph fixes their number; those of outputs are ignored.
    """
    model = skeleton_of(graph.model, graph.folder)
    if model.functions:
        if _num_nodes_inlined(model) > _MAX_NODES:
            return RowProof(outputs={}, reason="the functions in it become too many nodes")
        model = onnx.inliner.inline_local_functions(model)
    specs = dict(infer_with_onnx(model) if graph.model.functions else graph.value_specs)
    specs |= {spec.name: spec for spec in map(tensor_spec, model.graph.input) if spec is not None}
    batch = Size(1, (BATCH,)) if axes.rows is None else Size(axes.rows)
    constants = Constants(model, trace(model), graph.folder)
    known = SymbolicShapes(_renamed(specs, graph.inputs, axes), constants)
    walk = Walk(known, constants, batch, model, graph.folder)
    for value in model.graph.input:
        walk.learn(value.name, SHARED)
    for spec in graph.inputs:
        walk.learn(spec.name, _given(spec, axes))
    follow_nodes(walk, model.graph.node)
    return _outcome(walk, graph.outputs)


def _given(spec: TensorSpec, axes: BatchAxes) -> Shared | Rows | Mixed:
    axis = axes.inputs.get(spec.name)
    if axis is None:
        return SHARED
    if spec.shape is None:
        return Mixed(reason=f"the file does not say how many dimensions {spec.name!r} has")
    if axes.rows is None and isinstance(spec.shape[axis], int):
        return Mixed(reason=f"the number of rows of {spec.name!r} is fixed, that of other inputs is not")
    return Rows(rank=len(spec.shape), axis=axis)


def _renamed(specs: Mapping[str, TensorSpec], inputs: Sequence[TensorSpec], axes: BatchAxes) -> dict[str, TensorSpec]:
    """Types in which computed values have only fixed sizes, and inputs have names that no value and no batch has."""
    renamed = {name: replace(spec, shape=_fixed(spec.shape)) for name, spec in specs.items()}
    symbols = {spec.shape[axis] for spec in inputs if spec.shape and (axis := axes.inputs.get(spec.name)) is not None}
    for spec in inputs:
        axis = axes.inputs.get(spec.name)
        if spec.shape is not None:
            dims = [_input_dim(dim, dim in symbols) for dim in spec.shape]
            if axis is not None and axes.rows is None:
                dims[axis] = BATCH
            renamed[spec.name] = replace(spec, shape=tuple(dims))
    return renamed


def _fixed(shape: tuple[Dim, ...] | None) -> tuple[Dim, ...] | None:
    return None if shape is None else tuple(dim if isinstance(dim, int) else None for dim in shape)


def _input_dim(dim: Dim, is_ambiguous: bool) -> Dim:
    """A name that is also the batch's says nothing about another axis, because rows of several requests are joined."""
    if isinstance(dim, int):
        return dim
    return None if dim is None or is_ambiguous else f"{dim}|dim"


def _outcome(walk: Walk, outputs: Sequence[TensorSpec]) -> RowProof:
    found: dict[str, int] = {}
    reason: str | None = None
    for spec in outputs:
        match walk.kind(spec.name):
            case Rows(index=None, axis=axis, before=before, after=after) if before == ONE and walk.is_steady(after):
                found[spec.name] = axis
            case Rows():
                reason = reason or f"output {spec.name!r} has its rows in several parts, or counts them"
            case Shared():
                reason = reason or f"output {spec.name!r} has no rows"
            case Mixed(reason=why):
                reason = reason or f"output {spec.name!r}: {why}"
    return RowProof(outputs=found, reason=reason)


def _num_nodes_inlined(model: onnx.ModelProto) -> int:
    """Number of nodes with every function expanded. Functions must not call themselves."""
    functions = {(function.domain, function.name): function for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Sequence[onnx.NodeProto]) -> int:
        return sum(called(node) for node in nested_nodes(nodes))

    def called(node: onnx.NodeProto) -> int:
        key = (node.domain, node.op_type)
        if key not in functions:
            return 1
        if key not in sizes:
            sizes[key] = _MAX_NODES + 1  # while it is counted: a function that calls itself is infinite
            sizes[key] = size(functions[key].node)
        return sizes[key]

    return size(model.graph.node)
