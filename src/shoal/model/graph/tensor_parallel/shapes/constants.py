"""The numbers of a stage's weights, read in place and only as far as they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes  # noqa: F401  teaches NumPy the names of bfloat16 and the smaller floats
import numpy as np
import onnx
from onnx import numpy_helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from onnx.helper import tensor_dtype_to_np_dtype

from shoal.arrays import Array
from shoal.model.graph.file.dataflow import Dataflow
from shoal.model.graph.file.weight_tensors import BITS, SMALL_WEIGHT_BYTES, named_weights, num_bytes
from shoal.model.runtime_sessions import session_options, start_session


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayKind:
    """Type and shape of an array, without its numbers."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class ConstantValues(Protocol):
    """Values that no input changes: whether a value is one, its type and shape, and its numbers if they are known."""

    def __contains__(self, name: str) -> bool: ...

    def kind(self, name: str) -> ArrayKind | None: ...

    def array(self, name: str) -> Array | None: ...


class Constants:
    """All values of a stage that depend on weights only, as arrays. Large ones are views of the mapped file."""

    def __init__(self, model: onnx.ModelProto, flow: Dataflow, folder: Path) -> None:
        """Reads nothing yet.

        Args:
            model: a stage; its nodes in topological order.
            flow: its edges.
            folder: of external data.
        """
        self._model = model
        self._flow = flow
        self._folder = folder
        self._tensors = named_weights(model.graph)
        self._arrays: dict[str, Array | None] = {}

    def __contains__(self, name: str) -> bool:
        return self._flow.is_constant(name, self._tensors)

    def kind(self, name: str) -> ArrayKind | None:
        """Element type and shape; numbers are read only if they must be computed. None in the same cases as `array`."""
        if name in self._tensors:
            return _tensor_kind(self._tensors[name])
        node = self._view_node(name)
        if node is None:
            array = self.array(name)
            return None if array is None else ArrayKind(dtype=array.dtype, shape=array.shape)
        source = self.kind(node.input[0])
        if source is None or node.op_type == "Identity":
            return source
        order = _order(node) or range(len(source.shape))[::-1]
        return ArrayKind(dtype=source.dtype, shape=tuple(source.shape[axis] for axis in order))

    def array(self, name: str) -> Array | None:
        """The value, which must not be written to. None if it is not one dense array."""
        if name in self._arrays:
            return self._arrays[name]
        if name in self._tensors:
            return _tensor_array(self._tensors[name], self._folder)
        if name not in self:
            return None
        node = self._view_node(name)
        if node is None:
            self._arrays[name] = self._compute(name)
            return self._arrays[name]
        source = self.array(node.input[0])
        return source if source is None or node.op_type == "Identity" else source.transpose(_order(node))

    def sources(self, name: str) -> set[str]:
        """The weights that a constant is, or is computed from."""
        if name in self._tensors:
            return {name}
        return self._flow.nodes_for([name], 0, len(self._model.graph.node))[1] & self._tensors.keys()

    def source_bytes(self, sources: Iterable[str]) -> int:
        """Total bytes of these weights."""
        return sum(num_bytes(self._tensors[name]) for name in sources)

    def _view_node(self, name: str) -> onnx.NodeProto | None:
        """The node that only presents a weight in another order; exporters put such nodes between a weight and its
        reader."""
        index = self._flow.producer.get(name)
        node = None if index is None else self._model.graph.node[index]
        is_view = node is not None and node.op_type in ("Identity", "Transpose") and node.domain in ("", "ai.onnx")
        return node if is_view and name in self else None

    def _is_packed(self, name: str) -> bool:
        tensor = self._tensors[name]
        return tensor.data_type != onnx.TensorProto.FLOAT and num_bytes(tensor) > SMALL_WEIGHT_BYTES

    def _compute(self, name: str) -> Array | None:
        """The value that ONNX Runtime computes, for constants that depend on floats.

        Packed weights are not unpacked: a part of the floats would take more memory than all of the integers.
        """
        nodes, values = self._flow.nodes_for([name], 0, len(self._model.graph.node))
        if any(self._is_packed(source) for source in values & self._tensors.keys()):
            return None
        model = onnx.ModelProto(
            ir_version=self._model.ir_version,
            opset_import=self._model.opset_import,
            functions=self._model.functions,
        )
        model.graph.name = "constant"
        model.graph.node.extend(self._model.graph.node[node] for node in nodes)
        model.graph.initializer.extend(w for w in self._model.graph.initializer if w.name in values)
        model.graph.sparse_initializer.extend(
            w for w in self._model.graph.sparse_initializer if w.values.name in values
        )
        model.graph.output.append(onnx.ValueInfoProto(name=name))
        options = session_options(1)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self._folder))
        try:
            found = start_session(model.SerializeToString(), options).run([name], {})[0]
        except Exception:  # ONNX Runtime has a class for each status code; whoever needs the value gets the reason
            return None
        return found if isinstance(found, np.ndarray) and found.dtype != object else None


def take_ranges(array: Array, axis: int, ranges: Sequence[tuple[int, int]]) -> Array:
    """These [first, last) ranges along an axis, copied to a new array."""
    before = (slice(None),) * axis
    return np.concatenate([array[(*before, slice(first, last))] for first, last in ranges], axis=axis)


def _tensor_kind(tensor: onnx.TensorProto) -> ArrayKind | None:
    if BITS.get(onnx.TensorProto.DataType.Name(tensor.data_type), 0) < 8:
        return None
    return ArrayKind(dtype=tensor_dtype_to_np_dtype(tensor.data_type), shape=tuple(tensor.dims))


def _tensor_array(tensor: onnx.TensorProto, folder: Path) -> Array | None:
    kind = _tensor_kind(tensor)
    if kind is None:
        return None
    if not uses_external_data(tensor):
        return numpy_helper.to_array(tensor)
    if 0 in kind.shape:
        return np.zeros(kind.shape, kind.dtype)
    info = ExternalDataInfo(tensor)
    mapped = np.memmap(folder / info.location, np.uint8, "r", offset=info.offset or 0, shape=num_bytes(tensor))
    return mapped.view(kind.dtype.newbyteorder("<")).reshape(kind.shape)


def _order(node: onnx.NodeProto) -> list[int] | None:
    return next((list(found.ints) for found in node.attribute if found.name == "perm"), None)
