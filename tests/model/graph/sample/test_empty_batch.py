"""Inputs without rows are answered without a worker."""

from pathlib import Path

import numpy as np

import shoal
from shoal.core.plan.graph import BatchAxes
from shoal.model.graph.sample.empty_batch import empty_outputs, is_empty
from shoal.protocol.stage_interface import TensorSpec
from tests.model.graph.graph_cases import save_graph
from tests.plain_runtime import plain_session

BATCH = BatchAxes(inputs={"x": 0, "state": 1, "sr": None}, outputs={"y": 0, "texts": 1}, rows=None)
INPUTS = (
    TensorSpec(name="x", dtype="float32", shape=("N", "S", 3)),
    TensorSpec(name="state", dtype="float32", shape=(2, "N")),
    TensorSpec(name="sr", dtype="int64", shape=()),
)
OUTPUTS = (
    TensorSpec(name="y", dtype="float16", shape=("M", "S", 7, "K")),
    TensorSpec(name="texts", dtype="string", shape=None),
)


def make(num_rows: int) -> dict[str, np.ndarray]:
    return {
        "x": np.zeros((num_rows, 5, 3), np.float32),
        "state": np.zeros((2, num_rows), np.float32),
        "sr": np.array(8),
    }


def test_empty_is_what_has_no_row_anywhere() -> None:
    assert is_empty(make(0), BATCH)
    assert not is_empty(make(1), BATCH)
    assert not is_empty(make(1) | {"x": make(0)["x"]}, BATCH), "inputs that disagree are refused elsewhere"
    no_batch = BatchAxes(inputs=dict.fromkeys(BATCH.inputs), outputs=dict.fromkeys(BATCH.outputs), rows=None)
    assert not is_empty(make(0), no_batch)


def test_sizes_come_from_the_file_and_from_inputs_of_the_same_name() -> None:
    found = empty_outputs(INPUTS, OUTPUTS, BATCH, make(0))
    assert (found["y"].shape, found["y"].dtype) == ((0, 5, 7, 0), np.float16)
    assert (found["texts"].shape, found["texts"].dtype) == ((0, 0), object)


def test_the_answer_is_that_of_plain_onnx_runtime(tmp_path: Path) -> None:
    outputs = "float[N, S, 4] y, int64[N, S] z"
    text = f"g (float[N, S, 4] x) => ({outputs}) {{ y = Relu(x) z = ArgMax<axis = 2, keepdims = 0>(y) }}"
    path = save_graph(tmp_path, text)
    x = np.zeros((0, 3, 4), np.float32)
    expected = dict(zip(["y", "z"], plain_session(path).run(None, {"x": x}), strict=True))
    with shoal.load(path, threads=1) as model:
        found = model(x)
        assert model(x + 1)["y"].shape == (0, 3, 4)
    for name, array in expected.items():
        wanted = np.asarray(array)
        assert (found[name].shape, found[name].dtype) == (wanted.shape, wanted.dtype)
