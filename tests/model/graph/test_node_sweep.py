"""Every operator case of the ONNX standard that ONNX Runtime runs, split: the same numbers, or a clear refusal.

A case of one node gets `Identity` nodes behind it, so that there is something to cut. Each runs as one stage, as two,
and as two of two shards. The numbers are also the standard's own, which were computed without ONNX Runtime, wherever
ONNX Runtime's are.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.backend.test.case.test_case import TestCase
from onnx.helper import make_node, make_tensor_value_info, tensor_dtype_to_np_dtype

from shoal.errors import ModelLoadError
from shoal.model.graph.file.graph_file import GraphFile, open_graph
from shoal.model.graph.stage.cuts import cut_points
from tests.model.graph.graph_cases import make_session, run_whole
from tests.model.graph.tensor_parallel.rank_runs import run_split

NUM_PARTS = 4
MIN_SHARE = 0.9
"""Of the 1884 cases in onnx 1.23, 1726 give the standard's numbers in every split and 9 ONNX Runtime's own; 98 are not
run by ONNX Runtime 1.32, 50 are refused (sequences or optionals at their border, operator set 1), one cannot be cut."""
SPLITS = {"1": (0, (1,)), "pp=2": (1, (1,)), "pp=2,tp=2": (1, (1, 1))}
"""Number of cuts, and shares of the shards."""
ROUNDING = 1e-5
"""Where the cut prevents a fusion, the last bits differ."""
STANDARD_ROUNDING = 1e-3
"""What the standard's own tests allow."""
Arrays = dict[str, np.ndarray]
REFUSALS = ("is a sequence", "is optional", "operator set 1;")
"""The only reasons for which a case that ONNX Runtime can build is refused."""


@pytest.mark.timeout(300)
@pytest.mark.sample(every=NUM_PARTS)
@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_every_operator_case_gives_the_same_numbers_in_two_stages(
    part: int, node_cases: Sequence[TestCase], tmp_path: Path
) -> None:
    cases = node_cases[part::NUM_PARTS]
    fates = {case.name: fate(case, tmp_path / "model.onnx") for case in cases}
    counts = Counter(text.partition(":")[0] for text in fates.values())
    print(dict(counts))
    assert {name: text for name, text in fates.items() if text.startswith(("differs", "fails"))} == {}
    same = counts["same numbers"] + counts["the standard's numbers"]
    assert same >= MIN_SHARE * len(cases)
    assert counts["the standard's numbers"] >= MIN_SHARE * len(cases)
    assert same + counts["refused"] + counts["nothing to cut"] + counts["not run by ONNX Runtime"] == len(cases)


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
    given, standard = ([as_array(value) for value in values] for values in case.data_sets[0])
    arrays = dict(zip([value.name for value in case.model.graph.input], given, strict=True))
    return compare(graph, arrays, dict(zip([value.name for value in case.model.graph.output], standard, strict=True)))


def can_build(path: Path) -> bool:
    try:
        make_session(path, path.parent)
    except Exception:
        return False
    return True


def compare(graph: GraphFile, arrays: Arrays, standard: Arrays) -> str:
    try:
        expected = run_whole(graph, arrays)
    except Exception as error:
        return f"not run by ONNX Runtime: {error}"
    cuts = cut_points(graph)
    if not cuts:
        return "nothing to cut"
    middle = [cuts[len(cuts) // 2].node]
    fates: set[str] = set()
    for split, (num_cuts, shares) in SPLITS.items():
        try:
            found = run_split(graph, middle[:num_cuts], shares, arrays)
        except Exception as error:
            return f"fails: {split}: {error}"
        if all(is_near(found[name], standard[name]) for name in standard):
            fates.add("the standard's numbers")
        elif all(is_same(found[name], expected[name]) for name in expected):
            fates.add("same numbers")
        else:
            return f"differs: {split}"
    return min(fates)


def is_near(found: np.ndarray, standard: Any) -> bool:
    """Whether it is what the standard says; the type may be the wider one that the test asks for."""
    if not isinstance(standard, np.ndarray) or found.shape != standard.shape:
        return False
    if found.dtype == object or standard.dtype == object:
        return found.tolist() == standard.tolist()
    wide = [np.asarray(array).astype(np.complex128) for array in (found, standard)]
    return np.allclose(*wide, rtol=STANDARD_ROUNDING, atol=STANDARD_ROUNDING, equal_nan=True)


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
    value = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
    return np.asarray(value) if isinstance(value, np.generic) else value
