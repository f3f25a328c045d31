"""The symbolic phase: every node in order gets a step, or is computed whole on every rank.

The walk is repeated while a node asks for other segments or a split does not pay. It ends because constraints are only
ever added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import onnx

from shoal.model.graph.tensor_parallel.costs import useless_origins
from shoal.model.graph.tensor_parallel.decisions import Decisions, SplitGraph
from shoal.model.graph.tensor_parallel.rules.convolutions import convolution, transposed_convolution
from shoal.model.graph.tensor_parallel.rules.joining import concat, gather, slice_out, split_apart
from shoal.model.graph.tensor_parallel.rules.pointwise import broadcasting, dropout, unary
from shoal.model.graph.tensor_parallel.rules.products import gemm, matmul
from shoal.model.graph.tensor_parallel.rules.reshaping import (
    expand,
    flatten,
    reshape,
    shape_of,
    squeeze,
    transpose,
    unsqueeze,
)
from shoal.model.graph.tensor_parallel.rules.windows import (
    channel_norm,
    layer_norm,
    pad,
    pooling,
    reduction,
    resize,
    softmax,
)
from shoal.model.graph.tensor_parallel.shapes.nodes import DEFAULT_DOMAINS
from shoal.model.graph.tensor_parallel.shapes.operator_kinds import BROADCASTING, UNARY
from shoal.model.graph.tensor_parallel.shapes.shape_rules import follow
from shoal.model.graph.tensor_parallel.shapes.symbolic_shapes import SymbolicShapes
from shoal.model.graph.tensor_parallel.steps import NodeStep
from shoal.model.graph.tensor_parallel.tracer import SPLIT_DTYPES, Choices, SegmentsNeeded, Tracer

Rule = Callable[[Tracer, onnx.NodeProto], NodeStep | None]
MIN_OPSET = 11
"""In older operator sets, lists of numbers that the rewritten graph computes are attributes, so such graphs stay
whole."""
_MAX_WALKS = 200
"""Far more walks than any network needs; what is not settled by then stays whole."""

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(UNARY, unary),
    **dict.fromkeys(BROADCASTING, broadcasting),
    **dict.fromkeys((f"Reduce{name}" for name in _REDUCTIONS), reduction),
    **dict.fromkeys(
        ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"), pooling
    ),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), channel_norm),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), layer_norm),
    **dict.fromkeys(("Resize", "Upsample"), resize),
    "Concat": concat,
    "Dropout": dropout,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "Gemm": gemm,
    "MatMul": matmul,
    "Pad": pad,
    "Reshape": reshape,
    "Shape": shape_of,
    "Slice": slice_out,
    "Split": split_apart,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
"""Rules for operators of ai.onnx. All other operators read whole values."""


def decide(stage: SplitGraph, num_ranks: int) -> Decisions:
    """Split whatever can be split and pays."""
    choices = Choices(segments={})
    if stage.opset < MIN_OPSET or stage.must_be_whole:
        choices = replace(choices, whole=frozenset(range(len(stage.model.graph.node))))
    for _ in range(_MAX_WALKS):
        try:
            found = _walk(stage, choices, num_ranks)
        except SegmentsNeeded as needed:
            choices = replace(choices, segments=needed.segments)
            continue
        useless = useless_origins(stage, found) - choices.whole
        if not useless:
            return found
        choices = replace(choices, whole=choices.whole | useless)
    return _walk(stage, Choices(whole=frozenset(stage.flow.active), segments={}), num_ranks)


def _walk(stage: SplitGraph, choices: Choices, num_ranks: int) -> Decisions:
    shapes = SymbolicShapes(stage.specs, stage.constants)
    trace = Tracer(shapes, stage.constants, choices, num_ranks)
    rules = dict(RULES) | dict.fromkeys(("Hardmax", "LogSoftmax", "Softmax"), partial(softmax, opset=stage.opset))
    steps: dict[int, NodeStep] = {}
    for index, node in stage.active_nodes():
        follow(shapes, node)
        trace.node = index
        rule = rules.get(node.op_type) if node.domain in DEFAULT_DOMAINS else None
        step = rule(trace, node) if rule is not None and _may_split(trace, node) else None
        if step is not None:
            steps[index] = step
            trace.layouts.update(
                (name, split) for name, split in zip(node.output, step.outputs, strict=False) if split is not None
            )
    return Decisions(steps=steps, layouts=trace.layouts, classes=trace.classes, shapes=shapes)


def _may_split(trace: Tracer, node: onnx.NodeProto) -> bool:
    """Whether the results have a type that may be split, or are only the sizes of a value with such a type."""
    names = [name for name in node.output if name]
    return node.op_type == "Shape" or all(trace.shapes.dtype(name) in SPLIT_DTYPES for name in names)
