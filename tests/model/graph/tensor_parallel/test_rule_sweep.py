"""Every operator case of the ONNX standard behind a split: the same numbers on two ranks as on one.

Each input axis in turn is split by a product with a unit matrix in front of it, exact in every bit; the other inputs
become weights, or are split as well where they have that axis too. Whether a split pays is not asked here.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.backend.test.case.test_case import TestCase
from onnx.helper import make_node
from onnx.numpy_helper import from_array

import shoal.model.graph.tensor_parallel.analysis as analysis
from shoal.errors import ModelLoadError, ShoalError
from shoal.model.graph.file.graph_file import GraphFile, open_graph
from shoal.model.runtime_sessions import session_options
from tests.model.graph.graph_cases import run_session, to_numpy, to_runtime
from tests.model.graph.tensor_parallel.rank_runs import run_ranks
from tests.plain_runtime import plain_session

ROUNDING = 1e-5
"""Sums in another order, of small cases."""
NUM_PARTS = 4
MIN_RAN, MIN_SPLIT = 1700 // NUM_PARTS, 1650 // NUM_PARTS
"""In a part. Of 1739 variants that ONNX Runtime 1.32 runs in all, 1709 are split; the others have too few numbers on an
axis."""
MAX_ELEMENTS = 20_000
WITH_WEIGHTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
RANDOM = ("test_bernoulli", "test_dropout", "test_random", "test_multinomial")
SKIPPED = (*RANDOM, "test_affine_grid")
"""Affine grids give `Range` vectors of one number, which ONNX Runtime allows only while it does not see their shape."""
Arrays = dict[str, np.ndarray]


@pytest.mark.timeout(300)
@pytest.mark.sample(every=NUM_PARTS)
@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_every_operator_case_is_right_behind_a_split(
    part: int, node_cases: Sequence[TestCase], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analysis, "useless_origins", lambda stage, found: frozenset())
    made = [(f"{case.name} {variant}", *model) for case in chosen(node_cases) for variant, model in variants(case)]
    fates = {name: fate(model, arrays, tmp_path / "model.onnx") for name, model, arrays in made[part::NUM_PARTS]}
    counts = Counter(text.partition(":")[0] for text in fates.values())
    print(dict(counts))
    assert {name: text for name, text in fates.items() if text.startswith(("differs", "fails"))} == {}
    assert counts["split"] >= MIN_SPLIT
    assert counts["split"] + counts["whole"] >= MIN_RAN


def chosen(cases: Sequence[TestCase]) -> list[TestCase]:
    """All cases of one operator, and of those that are written out in many every third."""
    fit = [case for case in cases if not case.name.startswith(SKIPPED)]
    expanded = [case for case in fit if "_expanded" in case.name]
    return [case for case in fit if case not in expanded] + expanded[::3]


def variants(case: TestCase) -> Iterator[tuple[str, tuple[onnx.ModelProto, Arrays]]]:
    """The case as it is but for weights, and with each axis of its first input split."""
    assert case.model is not None
    assert case.data_sets is not None
    values = dict(zip([value.name for value in case.model.graph.input], case.data_sets[0][0], strict=True))
    arrays = {name: as_array(value) for name, value in values.items()}
    if not arrays or not all(isinstance(array, np.ndarray) for array in arrays.values()):
        return
    first = next(iter(arrays))
    is_fit = arrays[first].dtype == np.float32 and 0 < arrays[first].size <= MAX_ELEMENTS
    if not is_fit or not np.isfinite(arrays[first]).all():
        return
    if case.model.graph.node[0].op_type in WITH_WEIGHTS:
        yield "plain", with_weights(case.model, arrays, [first])
    axes = [axis for axis, size in enumerate(arrays[first].shape) if size > 1]
    for axis in axes if has_rules(case.model) else axes[-1:]:
        yield f"axis {axis}", split_in_front(with_weights(case.model, arrays, [first]), first, axis)
        alike = [name for name, array in arrays.items() if array.shape == arrays[first].shape]
        alike = [name for name in alike if arrays[name].dtype == np.float32 and np.isfinite(arrays[name]).all()]
        if len(alike) > 1:
            both = with_weights(case.model, arrays, alike)
            for name in alike:
                both = split_in_front(both, name, axis)
            yield f"both axis {axis}", both


def has_rules(model: onnx.ModelProto) -> bool:
    """Whether the case is about one operator that a split may go through; then every axis is tried."""
    return len(model.graph.node) == 1 and model.graph.node[0].op_type in {*analysis.RULES, "Softmax", "LogSoftmax"}


def with_weights(model: onnx.ModelProto, arrays: Arrays, kept: list[str]) -> tuple[onnx.ModelProto, Arrays]:
    """All inputs but `kept` become weights of the file."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    inputs = [value for value in copy.graph.input if value.name in kept]
    weights = [from_array(np.ascontiguousarray(array), name) for name, array in arrays.items() if name not in kept]
    del copy.graph.input[:]
    copy.graph.input.extend(inputs)
    copy.graph.initializer.extend(weights)
    return copy, {name: arrays[name] for name in kept}


def split_in_front(made: tuple[onnx.ModelProto, Arrays], name: str, axis: int) -> tuple[onnx.ModelProto, Arrays]:
    """The axis moved to the end, multiplied with a unit matrix and moved back: what a column-split product gives."""
    model, arrays = made
    shape = arrays[name].shape
    order = [*(other for other in range(len(shape)) if other != axis), axis]
    names = [f"{name}__{step}" for step in ("moved", "rows", "product", "split")]
    nodes = [
        make_node("Transpose", [name], [names[0]], perm=order),
        make_node("Unsqueeze", [names[0], "front"], [names[1]]) if len(shape) == 1 else None,
        make_node("MatMul", [names[1] if len(shape) == 1 else names[0], f"{name}__unit"], [names[2]]),
        make_node("Squeeze", [names[2], "front"], [f"{name}__flat"]) if len(shape) == 1 else None,
        make_node(
            "Transpose", [f"{name}__flat" if len(shape) == 1 else names[2]], [names[3]], perm=np.argsort(order).tolist()
        ),
    ]
    for node in model.graph.node:
        node.input[:] = [names[3] if given == name else given for given in node.input]
    behind = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*(node for node in nodes if node is not None), *behind])
    model.graph.initializer.append(from_array(np.eye(shape[axis], dtype=np.float32), f"{name}__unit"))
    if len(shape) == 1 and all(weight.name != "front" for weight in model.graph.initializer):
        model.graph.initializer.append(from_array(np.array([0]), "front"))
    return model, arrays


def fate(model: onnx.ModelProto, arrays: Arrays, path: Path) -> str:
    path.write_bytes(model.SerializeToString())
    try:
        graph = open_graph(path)
        expected = reference(graph, arrays)
    except ModelLoadError as error:
        return f"refused: {error}"
    except Exception as error:
        return f"not run by ONNX Runtime: {error}"
    if any(values.dtype.isbuiltin != 1 for values in expected.values()):
        return "not compared: NumPy has no such type"
    return compare(graph, arrays, expected)


def reference(graph: GraphFile, arrays: Arrays) -> Arrays:
    """Without ONNX Runtime's fusions: the one of `Transpose` and `MatMul` with a vector gives wrong numbers."""
    options = session_options(1)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return to_numpy(run_session(plain_session(str(graph.path), options), to_runtime(graph.inputs, arrays)))


def compare(graph: GraphFile, arrays: Arrays, expected: Arrays) -> str:
    try:
        found, report = run_ranks(graph, (1, 1), arrays)
    except (ShoalError, ValueError, AssertionError, KeyError, IndexError, TypeError) as error:
        return f"fails: {type(error).__name__} {error}"
    if all(is_same(outputs[name], values) for outputs in found for name, values in expected.items()):
        return "split" if report.split_flops or report.num_gathers else "whole"
    return "differs"


def is_same(found: np.ndarray, expected: np.ndarray) -> bool:
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return False
    if expected.dtype.kind != "f":
        return np.array_equal(found, expected)
    return np.allclose(found, expected, rtol=ROUNDING, atol=ROUNDING, equal_nan=True)


def as_array(value: object) -> object:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
