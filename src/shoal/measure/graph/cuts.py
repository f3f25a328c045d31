"""The planner's choices for cutting a graph, from its cut points and a sample run."""

from __future__ import annotations

from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.sample.node_times import NodeTimes
from shoal.model.graph.stage.cuts import cut_points, spec_bytes
from shoal.planner.graph_choice.fleet import HeadBytes
from shoal.planner.graph_cut import CutPlace
from shoal.protocol.stage_interface import TensorSpec
from shoal.router.graph_executor import Tensors


def cut_places(graph: GraphFile, times: NodeTimes | None) -> tuple[CutPlace, ...]:
    """Every place where the graph can be cut, with the bytes that crossed it in the sample run.

    Args:
        graph: the file.
        times: the times of the sample run; None: no run, so bytes come from the file, with 1 for open dimensions.
    """
    inside = _inside_quantized_groups(graph)
    return tuple(
        CutPlace(
            node=cut.node,
            num_bytes=sum(_bytes(graph, spec, times) for spec in cut.tensors),
            breaks_fusion=not (inside.isdisjoint(names) if times is None else times.kept_values.issuperset(names)),
            is_quantized=bool(inside),
        )
        for cut in cut_points(graph)
        for names in [{spec.name for spec in cut.tensors}]
    )


def _bytes(graph: GraphFile, spec: TensorSpec, times: NodeTimes | None) -> int:
    """The bytes of a tensor; for a node with several outputs, the bytes of all of them."""
    seen = 0 if times is None else times.output_bytes[graph.dataflow.producer[spec.name]]
    return seen or spec_bytes(spec)


def head_bytes(graph: GraphFile, sample: Tensors, times: NodeTimes | None) -> HeadBytes:
    """The bytes of a micro-batch's inputs and outputs. `times`: see `cut_places`."""
    outputs = (spec for spec in graph.outputs if spec.name in graph.dataflow.producer)
    return HeadBytes(
        taken=sum(array.nbytes for array in sample.values()),
        given=sum(_bytes(graph, spec, times) for spec in outputs),
    )


def _inside_quantized_groups(graph: GraphFile) -> set[str]:
    """The values that a `DequantizeLinear` writes or a `QuantizeLinear` reads, at which no cut is made."""
    inside: set[str] = set()
    for node in graph.dataflow.active:
        match graph.model.graph.node[node].op_type:
            case "DequantizeLinear":
                inside.update(graph.dataflow.writes[node])
            case "QuantizeLinear":
                inside.update(graph.dataflow.reads[node])
            case _:
                pass
    return inside & graph.dataflow.producer.keys()
