"""An opened ONNX file: its graph without the weights' content, checked for errors that would otherwise show later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from shoal.arrays import Array
from shoal.config import near_file
from shoal.errors import ModelLoadError, while_reading
from shoal.model.file_states import file_states, state_of
from shoal.model.graph.file.dataflow import Dataflow, nested_nodes, sort_nodes, trace, weight_names
from shoal.model.graph.file.default_inputs import take_defaults
from shoal.model.graph.file.external_data import settle_external_data
from shoal.model.graph.file.functions import check_functions
from shoal.model.graph.file.operators import check_operators
from shoal.model.graph.file.value_types import infer_specs, tensor_spec, value_info
from shoal.model.graph.file.weight_tensors import check_tensors
from shoal.protocol.stage_interface import TensorSpec
from shoal.protocol.worker_messages import FileState

MAX_FILE_BYTES = 1 << 31
"""Largest message in the protobuf format. Source: protobuf's encoding guide."""
ONNX_FIRST_BYTE = b"\x08"
"""Every exporter writes `ModelProto.ir_version`, field 1 (a varint), first. Source: onnx.proto, protobuf encoding."""


@dataclass(frozen=True, eq=False, kw_only=True)
class GraphFile:
    """One ONNX model. Derived values are computed when first asked for and kept (hence no slots)."""

    path: Path
    model: onnx.ModelProto
    """The model: nodes in topological order, external data not loaded. Must not be changed."""
    inputs: tuple[TensorSpec, ...]
    """Inputs of a run, without weights that the file also lists as inputs."""
    outputs: tuple[TensorSpec, ...]
    folder: Path
    """Folder that the names of external data are relative to."""
    defaults: Mapping[str, Array] = field(default_factory=dict[str, Array])
    """Values of inputs that may be left out."""
    files: tuple[FileState, ...] = ()
    """States of the file and of its external data when they were read."""

    @property
    def num_nodes(self) -> int:
        return len(self.model.graph.node)

    @cached_property
    def weights(self) -> frozenset[str]:
        """Names of the initializers."""
        return frozenset(weight_names(self.model.graph))

    @cached_property
    def has_loops(self) -> bool:
        """Whether a run's time may depend on its data, or even be infinite."""
        nodes = [*self.model.graph.node, *(node for function in self.model.functions for node in function.node)]
        return any(node.op_type == "Loop" for node in nested_nodes(nodes))

    @cached_property
    def dataflow(self) -> Dataflow:
        """The graph's edges."""
        return trace(self.model)

    @cached_property
    def value_specs(self) -> Mapping[str, TensorSpec]:
        """Types of inputs, computed values and outputs; without values that are not tensors or have no known type."""
        with while_reading(self.path):
            return infer_specs(self.model, self.folder)


def open_graph(path: Path) -> GraphFile:
    """Read an ONNX file and check it. External data must be there, but are not read.

    Raises:
        ModelLoadError: one line that says what is wrong with the file and what to do.
    """
    with while_reading(path):
        model, own = _parse(path)
        try:
            check_tensors(model)
            check_functions(model)
            check_operators(model)
            data = settle_external_data(model, path)
            external = file_states(path.parent, data.names)
            sort_nodes(model.graph)
            defaults = take_defaults(model, data.folder)
            weights = weight_names(model.graph)
            inputs = _specs("input", (value for value in model.graph.input if value.name not in weights))
            inputs = tuple(replace(spec, is_optional=spec.name in defaults) for spec in inputs)
            outputs = _specs("output", _typed_outputs(model, data.folder))
            if not outputs:
                raise ModelLoadError("the graph has no outputs, so there is nothing to compute")
        except ModelLoadError as error:
            raise ModelLoadError(f"{path}: {error}") from None
    return GraphFile(
        path=path,
        model=model,
        inputs=inputs,
        outputs=outputs,
        folder=data.folder,
        defaults=defaults,
        files=tuple(sorted((own, *external), key=lambda file: file.name)),
    )


def _parse(path: Path) -> tuple[onnx.ModelProto, FileState]:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # reading a pipe would wait forever
            raise ModelLoadError(f"{str(path)!r} is not a regular file; give the path of an ONNX file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelLoadError(
                f"{str(path)!r} is larger than the 2 GiB that an ONNX file can have: it is damaged, or not an "
                "ONNX file; large weights belong in files beside it"
            )
        with path.open("rb") as file:
            state, content = state_of(file, path.name), file.read()
    except OSError as error:
        raise ModelLoadError(
            f"cannot read {str(path)!r}: {error.strerror}{near_file(path)}; give the path of an ONNX file"
        ) from None
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        model = onnx.ModelProto()
    if model.ir_version and (model.graph.node or model.graph.output):
        return model, state
    if content.startswith(ONNX_FIRST_BYTE):
        reason = f"is truncated or damaged ({len(content):,} bytes); copy or export it again"
    else:
        reason = "is not an ONNX file; export the model to ONNX first"
    raise ModelLoadError(f"{str(path)!r} {reason}")


def _specs(kind: str, values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(kind, value) for value in values)


def _spec(kind: str, value: onnx.ValueInfoProto) -> TensorSpec:
    spec = tensor_spec(value)
    if spec is not None:
        return spec
    name = value.type.WhichOneof("value")
    what = {"sequence_type": "a sequence", "map_type": "a map", "optional_type": "optional", None: "of unknown type"}
    raise ModelLoadError(f"{kind} {value.name!r} is {what.get(name, name)}, not a tensor: {_WAY_OUT[kind]}")


_WAY_OUT = {
    "input": "export the model with plain tensors as inputs",
    "output": "export the model with plain tensors as outputs (skl2onnx: options={'zipmap': False})",
}


def _typed_outputs(model: onnx.ModelProto, folder: Path) -> list[onnx.ValueInfoProto]:
    """The graph's outputs, with inferred types for those that have none in the file."""
    outputs = list(model.graph.output)
    untyped = [index for index, output in enumerate(outputs) if output.type.WhichOneof("value") is None]
    specs = infer_specs(model, folder) if untyped else {}
    for index in untyped:
        spec = specs.get(outputs[index].name)
        if spec is not None:
            outputs[index] = value_info(spec)
    return outputs
