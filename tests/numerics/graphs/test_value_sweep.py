"""Every element type that ONNX Runtime has, in ranks 0 to 4 and with empty dimensions, on every way a tensor travels.

One graph takes them all and gives them back unchanged, so that what is right is known without anybody's arithmetic. Its
inputs go from the head to the first stage (and to every shard), from segment to segment, from stage to stage, and back.

Where every split is a few processes, a sample gives each type every third shape.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import shoal
from shoal.launch.graph import planning as graph_planning
from shoal.verify.graphs import PlainRuntime, compare_outputs

COPIED = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.FLOAT8E4M3FN: "float8_e4m3fn",
    TensorProto.FLOAT8E4M3FNUZ: "float8_e4m3fnuz",
    TensorProto.FLOAT8E5M2: "float8_e5m2",
    TensorProto.FLOAT8E5M2FNUZ: "float8_e5m2fnuz",
    TensorProto.BOOL: "bool",
    TensorProto.STRING: "object",
    TensorProto.INT8: "int8",
    TensorProto.INT16: "int16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.UINT8: "uint8",
    TensorProto.UINT16: "uint16",
    TensorProto.UINT32: "uint32",
    TensorProto.UINT64: "uint64",
}
"""Types that `Identity` takes."""
CAST = {
    TensorProto.FLOAT8E8M0: "float8_e8m0fnu",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "uint4",
    TensorProto.INT2: "int2",
    TensorProto.UINT2: "uint2",
}
"""Types that only `Cast` takes, to and from float32."""
SHAPES = ((), (3,), (0,), (1, 3), (2, 0), (1, 3, 1), (0, 2, 0), (1, 2, 1, 3), (2, 0, 1, 3))
ROW_SHAPES = ((6,), (6, 3), (6, 0), (6, 1, 3), (6, 2, 1, 3))
SPLITS = ("1", "pp=2", "tp=2", "pp=2,tp=2")
TEXTS = ("", "naïve", "a\0b", "日本", "x" * 300)
WIDTH = 8


def make_array(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    if dtype == "object":
        texts = np.empty(count, object)
        texts[:] = [TEXTS[index % len(TEXTS)] for index in range(count)]
        return texts.reshape(shape)
    first = 2.0 if dtype == "float8_e8m0fnu" else 0.0  # it has no zero
    return np.asarray([first, 1.0, 1.0])[np.arange(count) % 3].astype(dtype).reshape(shape)


def make_model(path: Path, arrays: dict[str, tuple[int, np.ndarray]], *, has_rows: bool) -> None:
    """Each array is copied before two products that shards share, and again under a condition that depends on them.

    With rows nothing may depend on a condition of all of them, so there the second copy is a plain one.
    """
    rows = "N" if has_rows else 2
    floats = np.eye(WIDTH, dtype=np.float32)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, WIDTH])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, WIDTH])]
    first, last = [], []
    for name, (element, array) in arrays.items():
        shape = ["N", *array.shape[1:]] if has_rows else list(array.shape)
        inputs.append(helper.make_tensor_value_info(name, element, shape))
        outputs.append(helper.make_tensor_value_info(f"{name}_out", element, shape))
        first += copy_nodes(name, f"{name}_mid", element)
        last += (copy_nodes if has_rows else conditional_nodes)(f"{name}_mid", f"{name}_out", element)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        *first,
        helper.make_node("MatMul", ["h", "w"], ["y"]),
        helper.make_node("ReduceMax", ["y"], ["top"], keepdims=0),
        helper.make_node("IsNaN", ["top"], ["is_nan"]),
        *last,
    ]
    graph = helper.make_graph(nodes, "sweep", inputs, outputs, [numpy_helper.from_array(floats, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=11), path)


def copy_nodes(source: str, result: str, element: int) -> list[onnx.NodeProto]:
    if element in COPIED:
        return [helper.make_node("Identity", [source], [result])]
    middle = f"{result}_float"
    return [
        helper.make_node("Cast", [source], [middle], to=TensorProto.FLOAT),
        helper.make_node("Cast", [middle], [result], to=element),
    ]


def conditional_nodes(source: str, result: str, element: int) -> list[onnx.NodeProto]:
    """A copy that waits for the condition; what `Identity` does not take waits as float32."""
    if element in COPIED:
        return [conditional_copy(source, result, element)]
    to_float, from_float = copy_nodes(source, result, element)
    waiting = conditional_copy(to_float.output[0], f"{result}_late", TensorProto.FLOAT)
    from_float.input[:] = waiting.output
    return [to_float, waiting, from_float]


def conditional_copy(source: str, result: str, element: int) -> onnx.NodeProto:
    branches = {}
    for branch in ("then_branch", "else_branch"):
        copy = helper.make_node("Identity", [source], [f"{result}_{branch}"])
        output = helper.make_tensor_value_info(copy.output[0], element, None)
        branches[branch] = helper.make_graph([copy], branch, [], [output])
    return helper.make_node("If", ["is_nan"], [result], **branches)


def make_arrays(shapes: tuple[tuple[int, ...], ...], *, every: int = 1) -> dict[str, tuple[int, np.ndarray]]:
    """Element type and array by name; `every`: each type has one shape of so many, other types have others."""
    return {
        f"{TensorProto.DataType.Name(element).lower()}_{number}": (element, make_array(dtype, shape))
        for place, (element, dtype) in enumerate((COPIED | CAST).items())
        for number, shape in enumerate(shapes)
        if (place + number) % every == 0
    }


def check(found: dict[str, np.ndarray], arrays: dict[str, tuple[int, np.ndarray]]) -> None:
    for name, (_, array) in arrays.items():
        copy = found[f"{name}_out"]
        assert (copy.shape, copy.dtype) == (array.shape, array.dtype), name
        assert copy.tolist() == array.tolist(), name


def test_the_sweep_holds_every_type_that_onnx_runtime_computes_with() -> None:
    """What is left out: complex numbers and 6-bit floats, which it lacks, and 4-bit floats, which nothing copies."""
    names = {TensorProto.DataType.Name(element) for element in (*COPIED, *CAST)}
    left_out = set(TensorProto.DataType.keys()) - names
    assert left_out == {"UNDEFINED", "COMPLEX64", "COMPLEX128", "FLOAT6E2M3", "FLOAT6E3M2", "FLOAT4E2M1"}


@pytest.mark.parametrize("split", SPLITS)
def test_every_type_and_rank_comes_back_as_it_went(
    tmp_path: Path, split: str, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    arrays = make_arrays(SHAPES, every=1 if split == "1" or pytestconfig.getoption("whole") else 3)
    make_model(tmp_path / "sweep.onnx", arrays, has_rows=False)
    products = [index for index, node in enumerate(onnx.load(tmp_path / "sweep.onnx").graph.node) if "w" in node.input]
    monkeypatch.setattr(graph_planning, "cut_stages", lambda *_, **__: (products[1],))  # so that every copy crosses
    x = np.ones((2, WIDTH), np.float32)
    with shoal.load(tmp_path / "sweep.onnx", split=split, threads=1) as model:
        if "pp" in split:
            crossing = {one.spec.name for one in model.plan.replicas[0].stages[0].outputs}
            assert {f"{name}_mid" for name in arrays} <= crossing
        found = model({"x": x, **{name: array for name, (_, array) in arrays.items()}})
    check(found, arrays)
    np.testing.assert_array_equal(found["y"], x)


def test_every_type_comes_back_in_rows(tmp_path: Path) -> None:
    arrays = make_arrays(ROW_SHAPES)
    make_model(tmp_path / "sweep.onnx", arrays, has_rows=True)
    given = {"x": np.ones((6, WIDTH), np.float32), **{name: array for name, (_, array) in arrays.items()}}
    with shoal.load(tmp_path / "sweep.onnx", split="dp=2", threads=1, micro_batch=2) as model:
        assert model.plan.batch.is_batched
        found = model(given)
    check(found, arrays)
    plain = PlainRuntime(tmp_path / "sweep.onnx", threads=1).run(given)
    assert all(one.is_equal for one in compare_outputs(plain, found))


def test_small_floats_agree_up_to_their_last_unit() -> None:
    whole = {"y": np.array([1.0, 448.0], ml_dtypes.float8_e4m3fn)}
    near = {"y": np.array([1.125, 448.0], ml_dtypes.float8_e4m3fn)}
    far = {"y": np.array([1.0, 320.0], ml_dtypes.float8_e4m3fn)}
    assert [one.agrees for one in compare_outputs(whole, near)] == [True]
    assert [one.agrees for one in compare_outputs(whole, far)] == [False]


def test_whole_numbers_of_four_bits_must_be_equal() -> None:
    seven, six = ({"y": np.array([number], ml_dtypes.int4)} for number in (7, 6))
    assert compare_outputs(seven, seven)[0].is_equal
    assert not compare_outputs(seven, six)[0].agrees
