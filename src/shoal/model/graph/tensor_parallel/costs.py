"""Whether a split pays: the multiply-adds that ranks save against what they must send each other for it."""

from __future__ import annotations

from collections import Counter

import onnx

from shoal.model.graph.file.flops import node_flops
from shoal.model.graph.tensor_parallel.decisions import Decisions, SplitGraph
from shoal.model.graph.tensor_parallel.shapes.sizes import Shape, Size, product
from shoal.model.graph.tensor_parallel.steps import Whole
from shoal.protocol.stage_interface import TensorSpec

FLOPS_PER_SENT_ELEMENT = 64
"""Fewest operations of a split for each element that is gathered or summed because of it.

Source: a core computes about 80 GFLOP/s in fp32 (docs/design.md) and moves 4-byte elements between two processes at
about 5 GB/s, so one element costs the time of 64 operations.
"""
_OPEN_SIZE = 16
"""Assumed for an unknown size; it stands on both sides of nearly every comparison."""


def useless_origins(stage: SplitGraph, found: Decisions) -> frozenset[int]:
    """Nodes that start splits which cost more than they save."""
    flops, sent = Counter[int](), Counter[int]()
    whole_reads: set[str] = set()
    for index, node in stage.active_nodes():
        step = found.steps.get(index)
        whole_reads.update(_whole_reads(stage, found, index))
        if step is None or not step.is_split:
            continue
        roots = _roots(found, index, stage)
        for root in roots:
            flops[root] += step_flops(stage, found, index)
            if step.is_sum:
                sent[root] += num_elements(found.shapes.shape(node.output[0]))
    whole_reads.update(output.name for output in stage.model.graph.output)
    for name in whole_reads & found.layouts.keys():
        for segment in found.layouts[name].period:
            sent[found.classes.root(segment.split_class)] += num_elements(found.shapes.shape(name))
    useless = [root for root, count in sent.items() if flops[root] < FLOPS_PER_SENT_ELEMENT * count]
    return frozenset(origin for root in useless for origin in found.classes.origins(root))


def step_flops(stage: SplitGraph, found: Decisions, index: int) -> int:
    """Operations of a product or convolution over all ranks, with a small number for unknown sizes; 0 for other
    nodes."""
    node = stage.model.graph.node[index]
    shapes = {name: found.shapes.shape(name) for name in (*node.input, *node.output) if name}
    specs = {
        name: TensorSpec(name=name, dtype="float32", shape=tuple(map(number_of, shape)))
        for name, shape in shapes.items()
        if shape is not None
    }
    return node_flops(node, specs, {}) or 0


def num_elements(shape: Shape | None) -> int:
    """Elements of a tensor, with a small number for unknown sizes."""
    return 1 if shape is None else number_of(product(shape))


def number_of(size: Size) -> int:
    """The size, with a small number for every symbol in it."""
    return size.number * _OPEN_SIZE ** len(size.names)


def _whole_reads(stage: SplitGraph, found: Decisions, index: int) -> set[str]:
    """Values that a node reads whole."""
    step = found.steps.get(index)
    if step is None:
        return set(stage.flow.reads[index])
    node = stage.model.graph.node[index]
    pairs = zip(node.input, step.operands, strict=False)
    return {name for name, operand in pairs if isinstance(operand, Whole)}


def _roots(found: Decisions, index: int, stage: SplitGraph) -> set[int]:
    """Classes by which a step's inputs and outputs are split."""
    node: onnx.NodeProto = stage.model.graph.node[index]
    step = found.steps[index]
    splits = [split for split in step.outputs if split is not None]
    if step.is_sum:
        splits = [found.layouts[name] for name in node.input if name in found.layouts]
    return {found.classes.root(segment.split_class) for split in splits for segment in split.period}
