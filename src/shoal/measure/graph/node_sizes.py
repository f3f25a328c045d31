"""The work of a graph's nodes for a micro-batch, and of its shards, to estimate machines from a cluster file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import onnx

from shoal.errors import ShoalError
from shoal.model.graph.file.flops import node_flops
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.file.weight_tensors import named_weights, num_bytes
from shoal.model.graph.sample.node_times import NodeTimes
from shoal.model.graph.stage.cuts import spec_bytes, stage_interfaces
from shoal.model.graph.tensor_parallel.shard_model import split_figures
from shoal.planner.graph_choice.fleet import ShardWork
from shoal.planner.graph_choice.roofline import Arithmetic, NodeSize

_INT8 = {"MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "DynamicQuantizeMatMul"} | {
    "MatMulIntegerToFloat",
    "QGemm",
}
_INT4 = {"MatMulNBits", "MatMulBnb4"}


def node_sizes(graph: GraphFile, times: NodeTimes, *, rows: int) -> list[NodeSize]:
    """The sizes of all nodes of the file, in order.

    The file gives the sizes for one row. They are scaled by the bytes that a node wrote in the sample run, or, if these
    are unknown, by the rows of the sample.

    Args:
        graph: the file.
        times: the times of the sample run.
        rows: the number of rows of the sample.
    """
    return list(_sizes(graph, times, rows))


def shard_works(graph: GraphFile, times: NodeTimes, *, rows: int) -> Callable[[int], ShardWork | None]:
    """A function that returns the work of a given number of shards. It is slow, so results should be kept."""
    sizes = node_sizes(graph, times, rows=rows)
    written = [_written(graph, times, index, rows) for index, size in enumerate(sizes) if size.flops]
    exchange_bytes = sum(written) / len(written) if written else 0.0

    @cache
    def shard_work(num_shards: int) -> ShardWork | None:
        (whole,) = stage_interfaces(graph, ())
        try:
            report, _ = split_figures(graph, whole, (1,) * num_shards)
        except ShoalError:
            return None
        if not report.split_weight_bytes:
            return None
        return ShardWork(
            flops_share=report.split_flops / (report.flops or 1.0),
            weight_share=report.split_weight_bytes / (report.weight_bytes or 1),
            num_exchanges=report.num_sums + report.num_gathers,
            exchange_bytes=exchange_bytes,
        )

    return shard_work


def _sizes(graph: GraphFile, times: NodeTimes, rows: int) -> Iterator[NodeSize]:
    tensors = named_weights(graph.model.graph)
    shapes = {name: tuple(tensor.dims) for name, tensor in tensors.items()}
    weights = {name: num_bytes(tensor) for name, tensor in tensors.items()}
    producer, active = graph.dataflow.producer, graph.dataflow.active
    for index, node in enumerate(graph.model.graph.node):
        if index not in active:
            yield NodeSize(flops=0.0, num_bytes=0.0)
            continue
        written = _written(graph, times, index, rows)
        read = sum(
            weights[name] if name in weights else _written(graph, times, producer[name], rows)
            for name in graph.dataflow.reads[index]
            if name in weights or name in producer
        )
        flops = float(node_flops(node, graph.value_specs, shapes) or 0)
        of_one = _one_row_bytes(graph, index)
        yield NodeSize(
            flops=flops * (written / of_one if of_one else rows),
            num_bytes=read + written,
            arithmetic=_arithmetic(node),
        )


def _written(graph: GraphFile, times: NodeTimes, index: int, rows: int) -> float:
    """The bytes that a node writes in a sample run."""
    return times.output_bytes[index] or rows * _one_row_bytes(graph, index)


def _one_row_bytes(graph: GraphFile, index: int) -> int:
    """The bytes that a node writes, with 1 for every open dimension."""
    specs = graph.value_specs
    return sum(spec_bytes(specs[name]) for name in graph.dataflow.writes[index] if name in specs)


def _arithmetic(node: onnx.NodeProto) -> Arithmetic:
    if node.op_type in _INT4:
        return "int4"
    return "int8" if node.op_type in _INT8 else "fp32"
