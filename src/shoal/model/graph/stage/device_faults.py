"""Operators that a provider is known to compute wrongly; they are assigned to the processor.

WebGPU (ONNX Runtime 1.27, with every driver that was tried): a convolution with 4 n output channels, whose number of
input channels is above 3 and divisible by 3 but not by 4, and with kernels wider than 1, is wrong in the first digit.
Source: github.com/microsoft/onnxruntime/issues/29651, and tests/launch/graph/test_devices.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod

import onnx
import onnxruntime as ort

from shoal.core.plan.devices.providers import PROVIDERS
from shoal.errors import ConfigError
from shoal.model.graph.file.dataflow import bodies
from shoal.protocol.device_config import DeviceConfig

_FORCE_CPU = "forceCpuNodeNames"
"""WebGPU's option for nodes that the processor computes: their names, one on each line."""
Dims = Mapping[str, tuple[int, ...]]


def avoid_faults(options: ort.SessionOptions, model: onnx.ModelProto, device: DeviceConfig) -> None:
    """Set in a session's options which nodes its device must not compute.

    Args:
        options: of a session on the device.
        model: the graph, or one that contains all of its nodes.
        device: to compute on.

    Raises:
        ConfigError: such a node has no name by which it could be assigned to the processor.
    """
    prefix = PROVIDERS[device.provider].config_prefix
    if device.provider != "webgpu" or prefix is None:
        return
    given = dict(device.options).get(_FORCE_CPU)
    names = [] if given is None else given.split("\n")
    for node in _wrong_convolutions(model.graph, {}):
        if not node.name:
            raise ConfigError(
                f"{device.name} would compute a convolution of this graph wrongly "
                "(microsoft/onnxruntime#29651), and the node has no name by which to assign it to the "
                "processor; name the graph's nodes, or use another device"
            )
        names.append(node.name)
    if names:
        options.add_session_config_entry(prefix + _FORCE_CPU, "\n".join(dict.fromkeys(names)))


def _wrong_convolutions(graph: onnx.GraphProto, outer: Dims) -> Iterator[onnx.NodeProto]:
    """Wrong convolutions of a graph and of the graphs inside its nodes."""
    dims = {**outer, **{tensor.name: tuple(tensor.dims) for tensor in graph.initializer}, **_constants(graph.node)}
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) > 1 and _is_wrong(dims.get(node.input[1], ())):
            yield node
        for inner in bodies(node):
            yield from _wrong_convolutions(inner, dims)


def _constants(nodes: Iterable[onnx.NodeProto]) -> Dims:
    return {
        node.output[0]: tuple(attribute.t.dims)
        for node in nodes
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }


def _is_wrong(kernel: tuple[int, ...]) -> bool:
    """`kernel`: output channels, input channels of a group, and the extent; empty: not known before it is computed."""
    if len(kernel) < 3:
        return False
    num_out, num_in, *extent = kernel
    return num_out % 4 == 0 and num_in % 3 == 0 and num_in > 3 and num_in % 4 != 0 and prod(extent) > 1
