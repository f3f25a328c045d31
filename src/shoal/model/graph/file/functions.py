"""Checks a model's own functions: whether they end, and how large the graph is with all calls expanded.

ONNX Runtime expands every call before it optimizes a graph. If each function calls the next one twice, the graph
doubles with every level, so that a file of a few kilobytes would keep it busy for hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx

from shoal.errors import ModelLoadError
from shoal.model.graph.file.dataflow import nested_nodes

MAX_CALLED_NODES = 1 << 15
"""Nodes that calls may add. Source: ONNX Runtime 1.32 takes 8 s to expand 2^14 nodes and four minutes for 2^16."""
MAX_CALLED_BYTES = 1 << 31
"""Bytes that calls may add: the largest graph in the protobuf format."""

_Key = tuple[str, str, str]
_Size = tuple[int, int]
"""Number of nodes, and bytes."""


def check_functions(model: onnx.ModelProto) -> None:
    """Check that no function calls itself, and that the calls can be expanded.

    Raises:
        ModelLoadError: names the function, or the size.
    """
    functions = {(one.domain, one.name, one.overload): one for one in model.functions}
    if not functions:
        return
    calls = {key: _calls(one.node, functions) for key, one in functions.items()}
    sizes: dict[_Key, _Size] = {}
    for key in _callees_first(calls):
        nodes = functions[key].node
        own = sum(1 for _ in nested_nodes(nodes)), sum(node.ByteSize() for node in nodes)
        sizes[key] = _total([own, *(sizes[callee] for callee in calls[key])])
    num_nodes, num_bytes = _total(sizes[key] for key in _calls(model.graph.node, functions))
    if num_nodes > MAX_CALLED_NODES or num_bytes > MAX_CALLED_BYTES:
        raise ModelLoadError(
            f"written out, the calls of its functions make more than {MAX_CALLED_NODES:,} nodes or "
            f"{MAX_CALLED_BYTES / 1e6:,.0f} MB: if that is meant, write them out with "
            "onnx.inliner.inline_local_functions"
        )


def _calls(nodes: Iterable[onnx.NodeProto], functions: Mapping[_Key, onnx.FunctionProto]) -> list[_Key]:
    keys = ((node.domain, node.op_type, node.overload) for node in nested_nodes(nodes))
    return [key for key in keys if key in functions]


def _total(sizes: Iterable[_Size]) -> _Size:
    num_nodes = num_bytes = 0
    for nodes, size_bytes in sizes:
        num_nodes += nodes
        num_bytes += size_bytes
    return num_nodes, num_bytes


def _callees_first(calls: Mapping[_Key, list[_Key]]) -> list[_Key]:
    """Functions ordered so that each comes after those that it calls. Raises ModelLoadError for a cycle."""
    waiting = {key: len(set(callees)) for key, callees in calls.items()}
    callers: dict[_Key, list[_Key]] = {key: [] for key in calls}
    for key, callees in calls.items():
        for callee in set(callees):
            callers[callee].append(key)
    order = [key for key, count in waiting.items() if not count]
    for key in order:  # the list grows during the loop
        for caller in callers[key]:
            waiting[caller] -= 1
            if not waiting[caller]:
                order.append(caller)
    if len(order) < len(calls):
        domain, name, _ = min(set(calls).difference(order))
        raise ModelLoadError(f"function {name!r} of domain {domain!r} calls itself, directly or through others")
    return order
