"""Every operator case of the ONNX standard that ONNX Runtime runs, cut in two: the same numbers, or a clear refusal.

A case of one node gets `Identity` nodes behind it, so that there is something to cut.
"""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx.helper import make_node, make_tensor_value_info, tensor_dtype_to_np_dtype

from shoal.errors import ModelLoadError
from shoal.model.graph.cuts import cut_points
from shoal.model.graph.graph_file import GraphFile, open_graph
from tests.model.graph.graph_cases import make_session, run_stages, run_whole

MIN_RAN = 1650
"""Of 1884 cases in onnx 1.23, ONNX Runtime 1.32 runs 1762; 1654 run in two stages, 26 have sequences or optionals at
their border or an operator set of 1, and 82 have strings or numbers of 8 bits and fewer where the cut would be."""
ROUNDING = 1e-5
"""Where the cut prevents a fusion, the last bits differ."""
REFUSALS = ("is a sequence", "is optional", "operator set 1;")
"""The only reasons for which a case that ONNX Runtime can build is refused."""


@pytest.mark.timeout(300)
def test_every_operator_case_gives_the_same_numbers_in_two_stages(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases are computed when they are loaded, overflows and all
        cases = load_model_tests(kind="node")
    fates = {case.name: fate(case, tmp_path / "model.onnx") for case in cases}
    counts = Counter(text.partition(":")[0] for text in fates.values())
    print(dict(counts))
    assert {name: text for name, text in fates.items() if text.startswith(("differs", "fails"))} == {}
    assert counts["same numbers"] >= MIN_RAN
    assert counts["same numbers"] + counts["refused"] + counts["nothing to cut"] + counts[
        "not run by ONNX Runtime"
    ] == len(cases)


def fate(case: TestCase, path: Path) -> str:
    assert case.model is not None
    assert case.data_sets is not None
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    if any(value.type.HasField("tensor_type") for value in model.graph.output):
        put_nodes_behind(model)
    path.write_bytes(model.SerializeToString())
    try:
        graph = open_graph(path)
    except ModelLoadError as error:
        is_expected = any(reason in str(error) for reason in REFUSALS) or not can_build(path)
        return f"refused: {error}" if is_expected else f"fails: {error}"
    names = [value.name for value in case.model.graph.input]
    return compare(graph, dict(zip(names, map(as_array, case.data_sets[0][0]), strict=True)))


def can_build(path: Path) -> bool:
    try:
        make_session(path, path.parent)
    except Exception:
        return False
    return True


def compare(graph: GraphFile, arrays: dict[str, np.ndarray]) -> str:
    try:
        expected = run_whole(graph, arrays)
    except Exception as error:
        return f"not run by ONNX Runtime: {error}"
    cuts = cut_points(graph)
    if not cuts:
        return "nothing to cut"
    try:
        found = run_stages(graph, [cuts[len(cuts) // 2].node], arrays)
    except Exception as error:
        return f"fails: {error}"
    return "same numbers" if all(is_same(found[name], expected[name]) for name in expected) else "differs"


def is_same(found: np.ndarray, expected: np.ndarray) -> bool:
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return False
    if expected.dtype.kind != "f":
        return np.array_equal(found, expected)
    wide = np.float64
    return np.allclose(found.astype(wide), expected.astype(wide), rtol=ROUNDING, atol=ROUNDING, equal_nan=True)


def put_nodes_behind(model: onnx.ModelProto) -> None:
    """Behind every output that NumPy cannot hold a `Cast` to float, and an `Identity` behind the others of one node."""
    is_single = len(model.graph.node) == 1
    for output in model.graph.output:
        element = output.type.tensor_type.elem_type
        is_foreign = element and tensor_dtype_to_np_dtype(element).isbuiltin != 1
        if not is_foreign and not is_single:
            continue
        inner = f"{output.name}__inner"
        for node in model.graph.node:
            node.output[:] = [inner if name == output.name else name for name in node.output]
            node.input[:] = [inner if name == output.name else name for name in node.input]
        if is_foreign:
            model.graph.node.append(make_node("Cast", [inner], [output.name], to=onnx.TensorProto.FLOAT))
            output.CopyFrom(make_tensor_value_info(output.name, onnx.TensorProto.FLOAT, None))
        else:
            model.graph.node.append(make_node("Identity", [inner], [output.name]))


def as_array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
