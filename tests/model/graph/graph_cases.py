"""Small graphs in ONNX's text form, and stages run one after the other with plain ONNX Runtime."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from shoal.model.graph.file.graph_file import GraphFile, open_graph
from shoal.model.graph.file.value_types import ELEMENT_TYPES
from shoal.model.graph.stage.cuts import stage_interfaces
from shoal.model.graph.stage.stage_model import extract_stage
from shoal.model.runtime_sessions import session_options
from shoal.protocol.stage_interface import TensorSpec
from tests.plain_runtime import plain_session

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
Values = dict[str, Any]
"""NumPy arrays, or OrtValues where NumPy cannot hold what ONNX Runtime gives (bfloat16)."""


def save_graph(folder: Path, text: str, header: str = HEADER) -> Path:
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(header + text), path)
    return path


def make_graph(folder: Path, text: str, header: str = HEADER) -> GraphFile:
    return open_graph(save_graph(folder, text, header))


def make_session(model: Path | onnx.ModelProto, folder: Path) -> ort.InferenceSession:
    options = session_options(1)
    if isinstance(model, Path):
        return plain_session(str(model), options)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    return plain_session(model.SerializeToString(), options)


def run_session(session: ort.InferenceSession, values: Mapping[str, Any]) -> Values:
    names = [output.name for output in session.get_outputs()]
    takes_strings = "tensor(string)" in {value.type for value in (*session.get_inputs(), *session.get_outputs())}
    if takes_strings:
        return dict(zip(names, session.run(names, to_numpy(values)), strict=True))
    plain = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    found = session.run_with_ort_values(names, {**values, **_ort_values(plain)})
    return dict(zip(names, found, strict=True))


def _ort_values(arrays: Mapping[str, np.ndarray]) -> Values:
    return {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}


def to_runtime(specs: Sequence[TensorSpec], arrays: Mapping[str, np.ndarray]) -> Values:
    """Arrays as OrtValues, except that strings stay as they are."""
    make = ort.OrtValue.ortvalue_from_numpy_with_onnx_type
    return {
        spec.name: arrays[spec.name]
        if spec.dtype == "string"
        else make(np.asarray(arrays[spec.name], order="C"), ELEMENT_TYPES[spec.dtype])
        for spec in specs
    }


def to_numpy(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: value.numpy() if isinstance(value, ort.OrtValue) else value for name, value in values.items()}


def run_whole(graph: GraphFile, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The reference: the file itself, in plain ONNX Runtime."""
    return to_numpy(run_session(make_session(graph.path, graph.folder), to_runtime(graph.inputs, arrays)))


def run_stages(graph: GraphFile, boundaries: Sequence[int], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every stage in a session of its own, each given nothing but what its interface names."""
    values = to_runtime(graph.inputs, arrays)
    for stage in stage_interfaces(graph, boundaries):
        model = extract_stage(graph, stage.first_node, stage.last_node, stage.inputs, stage.outputs)
        needed = {taken.spec.name: values[taken.spec.name] for taken in stage.inputs}
        found = run_session(make_session(model, graph.folder), needed)
        assert set(found) == {given.spec.name for given in stage.outputs}
        values |= found
    return to_numpy({spec.name: values[spec.name] for spec in graph.outputs})


def assert_same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], rtol: float = 0) -> None:
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        if rtol and values.dtype.kind == "f":
            np.testing.assert_allclose(found[name], values, rtol=rtol, atol=rtol, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], values, err_msg=name)
