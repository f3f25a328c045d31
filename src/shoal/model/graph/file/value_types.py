"""The types of a graph's values: from the file, from ONNX's inference, and from ONNX Runtime's where ONNX's fails.

Inference runs on a skeleton of the model: large weights become inputs of the same type, so nothing large is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  teaches NumPy the names of bfloat16 and the smaller floats
import numpy as np
import onnx
import onnxruntime as ort
from onnx.helper import (
    make_optional_type_proto,
    make_sequence_type_proto,
    make_tensor_type_proto,
    make_tensor_value_info,
    tensor_dtype_to_np_dtype,
)

from shoal.model.graph.file.weight_tensors import SMALL_WEIGHT_BYTES, num_bytes, read_if_small
from shoal.model.runtime_sessions import session_options, start_session
from shoal.protocol.stage_interface import Dim, TensorSpec

UNNAMED_DIMS = ("", "?")
"""Names that some exporters give to every dimension they do not know, so that equal names do not mean equal sizes."""

ELEMENT_TYPES = {
    "string" if number == onnx.TensorProto.STRING else tensor_dtype_to_np_dtype(number).name: number
    for number in onnx.TensorProto.DataType.values()
    if number != onnx.TensorProto.UNDEFINED
}
"""ONNX's element types by the dtype names that Shoal uses."""
_DTYPES = {number: dtype for dtype, number in ELEMENT_TYPES.items()}
_RUNTIME_DTYPES = {"float": "float32", "double": "float64"} | {
    onnx.TensorProto.DataType.Name(number).lower(): dtype
    for dtype, number in ELEMENT_TYPES.items()
    if number not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
}


def tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec | None:
    """The type of a value in the file; None if it is not a (dense) tensor, or has no type."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type not in _DTYPES:
        return None
    shape = tuple(map(_dim, kind.shape.dim)) if kind.HasField("shape") else None
    return TensorSpec(name=value.name, dtype=_DTYPES[kind.elem_type], shape=shape)


def value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    """The inverse of `tensor_spec`."""
    return make_tensor_value_info(spec.name, ELEMENT_TYPES[spec.dtype], spec.shape)


def dtype_of_element(element_type: int) -> str:
    """The dtype name that Shoal uses for one of ONNX's element types."""
    return _DTYPES[element_type]


def infer_with_onnx(skeleton: onnx.ModelProto) -> dict[str, TensorSpec]:
    """The result of ONNX's own inference on a skeleton from `skeleton_of`; empty if it fails at one node."""
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return {}
    found = filter(None, map(tensor_spec, (*inferred.graph.value_info, *inferred.graph.output)))
    return {spec.name: spec for spec in found}


def infer_specs(model: onnx.ModelProto, folder: Path) -> dict[str, TensorSpec]:
    """Types of the inputs, the computed values and the outputs of a graph, by name.

    Inferred types take precedence over the file's: files whose batch was edited by hand often keep old shapes inside,
    which ONNX Runtime would enforce for a stage's inputs. Values that are not tensors are absent.

    Args:
        folder: of external data.
    """
    skeleton = skeleton_of(model, folder)
    specs = infer_with_onnx(skeleton)  # empty if one node is beyond it; ONNX Runtime is then asked for all
    names = [name for node in skeleton.graph.node for name in node.output if name]
    unclear = [name for name in names if name not in specs or specs[name].shape is None]
    specs |= _infer_with_runtime(skeleton, unclear, folder)
    for spec in filter(None, map(tensor_spec, (*model.graph.value_info, *model.graph.output))):
        if spec.name not in specs or specs[spec.name].shape is None:
            specs[spec.name] = _without_sizes(spec)
    return specs | {spec.name: spec for spec in filter(None, map(tensor_spec, model.graph.input))}


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return None if dim.dim_param in UNNAMED_DIMS else dim.dim_param


def _without_sizes(spec: TensorSpec) -> TensorSpec:
    """Only what cannot be out of date: type and rank."""
    shape = None if spec.shape is None else (None,) * len(spec.shape)
    return TensorSpec(name=spec.name, dtype=spec.dtype, shape=shape)


def skeleton_of(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The model without large weights, without types of inner values, and with each input's unnamed dims unset."""
    graph = model.graph
    skeleton = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    skeleton.functions.extend(model.functions)
    skeleton.graph.name = graph.name
    skeleton.graph.sparse_initializer.extend(graph.sparse_initializer)
    weights = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in weights:
            spec = tensor_spec(value)
            skeleton.graph.input.append(value if spec is None else value_info(spec))
    skeleton.graph.output.extend(onnx.ValueInfoProto(name=output.name) for output in graph.output)
    for tensor in graph.initializer:
        _add_weight(skeleton.graph, tensor, tensor.name, folder)
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is None:
            skeleton.graph.node.append(node)
        else:
            _add_weight(skeleton.graph, value, node.output[0], folder)
    return skeleton


def _add_weight(graph: onnx.GraphProto, tensor: onnx.TensorProto, name: str, folder: Path) -> None:
    if num_bytes(tensor) > SMALL_WEIGHT_BYTES:
        graph.input.append(make_tensor_value_info(name, tensor.data_type, tensor.dims))
        return
    graph.initializer.append(read_if_small(tensor, folder))
    graph.initializer[-1].name = name


def _infer_with_runtime(skeleton: onnx.ModelProto, names: Iterable[str], folder: Path) -> dict[str, TensorSpec]:
    """Ask ONNX Runtime for these values by making them outputs of a session that never runs."""
    asked = onnx.ModelProto()
    asked.CopyFrom(skeleton)
    known = {output.name for output in asked.graph.output}
    asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    wanted = set(names)
    if not wanted:
        return {}
    options = session_options(1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    try:
        session = start_session(asked.SerializeToString(), options)
    except Exception:  # ONNX Runtime raises a class of its own per status code
        return {}  # whoever builds the real session gets the reason
    specs = (runtime_spec(output) for output in session.get_outputs() if output.name in wanted)
    return {spec.name: spec for spec in specs if spec is not None}


def runtime_spec(output: ort.NodeArg) -> TensorSpec | None:
    """The type of a session's input or output; None if it is not a (dense) tensor."""
    kind, _, element = output.type.rstrip(")").partition("(")
    if kind != "tensor" or element not in _RUNTIME_DTYPES:
        return None
    # ONNX Runtime shows an unknown rank in the same way as a scalar
    shape = tuple(dim if isinstance(dim, int) else dim or None for dim in output.shape) or None
    return TensorSpec(name=output.name, dtype=_RUNTIME_DTYPES[element], shape=shape)


def output_type(output: ort.NodeArg) -> onnx.TypeProto:
    """The type of a session's output in ONNX's form."""
    wrappers = output.type.split("(")
    if wrappers[0] == "tensor":
        spec = runtime_spec(output)
        assert spec is not None, f"ONNX Runtime calls a type {output.type!r}"
        return value_info(spec).type
    inner = make_tensor_type_proto(ELEMENT_TYPES[_RUNTIME_DTYPES[wrappers[-1].rstrip(")")]], None)
    for wrapper in reversed(wrappers[:-2]):
        inner = make_sequence_type_proto(inner) if wrapper == "seq" else make_optional_type_proto(inner)
    return inner


def element_bytes(dtype: str) -> int:
    """Bytes of one element in an array; 1 for text, whose size is unknown."""
    return 1 if dtype == "string" else np.dtype(dtype).itemsize


def is_exact(dtype: np.dtype[Any]) -> bool:
    """Whether values are compared for equality: whole numbers (also of fewer bits than NumPy's types) and texts."""
    return dtype.kind in "iubOUS" or dtype.name in ("int4", "uint4", "int2", "uint2")
