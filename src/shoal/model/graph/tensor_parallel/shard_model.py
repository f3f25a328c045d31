"""A stage's graph for one rank of a group that computes the stage together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from shoal.core.plan.graph import SplitReport
from shoal.model.graph.file.dataflow import trace
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.file.weight_tensors import named_weights
from shoal.model.graph.stage.segments import MARKER_DOMAIN
from shoal.model.graph.stage.stage_model import extract_stage, model_bytes
from shoal.model.graph.tensor_parallel.analysis import decide
from shoal.model.graph.tensor_parallel.costs import step_flops
from shoal.model.graph.tensor_parallel.decisions import Decisions, SplitGraph
from shoal.model.graph.tensor_parallel.layouts import RankRanges
from shoal.model.graph.tensor_parallel.rank_graph import RankGraph
from shoal.model.graph.tensor_parallel.rewrite import write_rank
from shoal.model.graph.tensor_parallel.shapes.constants import Constants
from shoal.protocol.stage_interface import StageInterface


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardModel:
    """One rank's graph, and what the split saves."""

    model: onnx.ModelProto
    """The model: inputs and outputs are those of the stage, and nodes are in order, with markers (see `markers`) for
    collectives. Weights that are not cut stay external if they are so in the file."""
    report: SplitReport


def shard_model(graph: GraphFile, interface: StageInterface, shares: Sequence[int], rank: int) -> ShardModel:
    """Rewrite a stage for one rank. Only the rank's own part of a weight that is cut is copied from the file.

    What is not recognized is computed whole by every rank. So outputs always equal those of the whole stage, except for
    rounding, since sums are added in another order.

    Args:
        graph: the file.
        interface: the stage; its outputs are whole on every rank.
        shares: of the ranks, in any unit.
        rank: 0 <= rank < len(shares).
    """
    stage = _open_stage(graph, interface)
    found = decide(stage, len(shares))
    rewritten = write_rank(stage, found, RankRanges(found.classes, shares), rank)
    model = _assemble(stage, rewritten)
    return ShardModel(model=model, report=_report(stage, found, rewritten, model))


def split_figures(
    graph: GraphFile, interface: StageInterface, shares: Sequence[int]
) -> tuple[SplitReport, tuple[int, ...]]:
    """The report of `shard_model`, and the weight bytes that every rank would hold.

    Args: as `shard_model`.
    """
    stage = _open_stage(graph, interface)
    found = decide(stage, len(shares))
    ranges = RankRanges(found.classes, shares)
    ranks = [write_rank(stage, found, ranges, rank, reads_weights=False) for rank in range(len(shares))]
    models = [_assemble(stage, rewritten) for rewritten in ranks]
    return _report(stage, found, ranks[0], models[0]), tuple(map(model_bytes, models))


def _open_stage(graph: GraphFile, interface: StageInterface) -> SplitGraph:
    model = extract_stage(graph, interface.first_node, interface.last_node, interface.inputs, interface.outputs)
    flow = trace(model)
    return SplitGraph(model=model, flow=flow, constants=Constants(model, flow, graph.folder), specs=graph.value_specs)


def _assemble(stage: SplitGraph, rewritten: RankGraph) -> onnx.ModelProto:
    """The rank's model: its nodes, and the constants of the stage that they still read."""
    source, read = stage.model.graph, {name for node in rewritten.nodes for name in node.input}
    read |= {name for index in stage.flow.active for name in _captured(stage, index)}
    read |= {output.name for output in source.output}
    constant: list[onnx.NodeProto] = []
    for index in sorted(stage.flow.constant, reverse=True):
        if not read.isdisjoint(stage.flow.writes[index]):
            constant.append(source.node[index])
            read.update(stage.flow.reads[index])
    model = onnx.ModelProto(
        ir_version=stage.model.ir_version,
        producer_name=stage.model.producer_name,
        opset_import=stage.model.opset_import,
        functions=stage.model.functions,
        metadata_props=stage.model.metadata_props,
    )
    model.opset_import.append(onnx.helper.make_opsetid(MARKER_DOMAIN, 1))
    model.graph.name = source.name
    model.graph.node.extend([*constant[::-1], *rewritten.nodes])
    model.graph.initializer.extend(weight for weight in source.initializer if weight.name in read)
    model.graph.initializer.extend(rewritten.weights)
    model.graph.sparse_initializer.extend(w for w in source.sparse_initializer if w.values.name in read)
    weights = {weight.name for weight in source.initializer}
    model.graph.input.extend(value for value in source.input if value.name not in weights or value.name in read)
    model.graph.output.extend(source.output)
    return model


def _captured(stage: SplitGraph, index: int) -> list[str]:
    """Values that the bodies of a node read from the graph around it."""
    direct = set(stage.model.graph.node[index].input)
    return [name for name in stage.flow.reads[index] if name not in direct]


def _report(stage: SplitGraph, found: Decisions, rewritten: RankGraph, model: onnx.ModelProto) -> SplitReport:
    flops = {index: step_flops(stage, found, index) for index in stage.flow.active}
    split = [index for index, step in found.steps.items() if step.is_split]
    cut = {source for name in rewritten.cut_constants for source in stage.constants.sources(name)}
    return SplitReport(
        weight_bytes=model_bytes(stage.model),
        split_weight_bytes=stage.constants.source_bytes(cut - named_weights(model.graph).keys()),
        flops=float(sum(flops.values())),
        split_flops=float(sum(flops[index] for index in split)),
        num_sums=rewritten.num_sums,
        num_gathers=rewritten.num_gathers,
    )
