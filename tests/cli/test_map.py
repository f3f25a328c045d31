"""`shoal map` from the command line to the files, with ONNX Runtime as the reference."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from tests.cli.conftest import Shoal
from tests.plain_runtime import plain_session

WIDTH = 8


@pytest.fixture(scope="module")
def perceptron(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers; `labels` picks a row of a table, so that ONNX Runtime refuses values beyond it."""
    random = np.random.default_rng(3)
    weights = {
        "w1": random.normal(size=(WIDTH, 16)).astype(np.float32),
        "w2": random.normal(size=(16, 4)).astype(np.float32),
        "table": random.normal(size=(5, 4)).astype(np.float32),
    }
    nodes = [
        oh.make_node("MatMul", ["x", "w1"], ["h1"]),
        oh.make_node("Relu", ["h1"], ["h2"]),
        oh.make_node("MatMul", ["h2", "w2"], ["h3"]),
        oh.make_node("Gather", ["table", "labels"], ["rows"]),
        oh.make_node("Add", ["h3", "rows"], ["y"]),
    ]
    graph = oh.make_graph(
        nodes,
        "perceptron",
        [
            oh.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", WIDTH]),
            oh.make_tensor_value_info("labels", onnx.TensorProto.INT64, ["N"]),
        ],
        [oh.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 4])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    path = tmp_path_factory.mktemp("perceptron") / "perceptron.onnx"
    onnx.save(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8), path)
    return path


def make_inputs(count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    return {"x": random.normal(size=(count, WIDTH)).astype(np.float32), "labels": random.integers(0, 5, count)}


def reference(model: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(plain_session(model).run(["y"], inputs)[0])


@pytest.mark.parametrize("split", ["1", "dp=2", "pp=2"])
def test_rows_are_those_of_the_reference(shoal: Shoal, perceptron: Path, tmp_path: Path, split: str) -> None:
    inputs = make_inputs(200)
    np.savez(tmp_path / "rows.npz", **inputs)
    command = ["map", perceptron, "--inputs", tmp_path / "rows.npz", "-o", tmp_path / "out", "--split", split]
    summary = shoal(*command, "--threads", 1, "--json").json
    assert (summary["unit"], summary["total"], summary["done"], summary["failed"]) == ("rows", 200, 200, 0)
    assert summary["outputs"] == [str(tmp_path / "out" / "y.npy")]
    np.testing.assert_allclose(np.load(tmp_path / "out" / "y.npy"), reference(perceptron, inputs), rtol=1e-5, atol=1e-6)


def test_a_person_sees_the_plan_and_the_rate(shoal: Shoal, perceptron: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", **make_inputs(20))
    command = ("map", perceptron, "--inputs", tmp_path / "rows.npz", "-o", tmp_path / "out", "--split", "1")
    first = shoal(*command)
    assert (first.status, first.stdout) == (0, "")
    assert "replica 0 stage 0" in first.stderr
    assert "20 rows in " in first.stderr
    assert " rows/s) -> " in first.stderr
    assert "continue it with --resume" in shoal(*command).complaint
    assert "0 rows in " in shoal(*command, "--resume").stderr


def test_a_folder_with_broken_files(shoal: Shoal, perceptron: Path, tmp_path: Path) -> None:
    inputs = make_inputs(6)
    (tmp_path / "in").mkdir()
    for row in range(6):
        np.savez(tmp_path / "in" / f"item{row}.npz", x=inputs["x"][row], labels=inputs["labels"][row])
    np.savez(tmp_path / "in" / "refused.npz", x=inputs["x"][0], labels=np.int64(99))
    np.savez(tmp_path / "in" / "narrow.npz", x=inputs["x"][0][:3], labels=np.int64(0))
    (tmp_path / "in" / "noise.npz").write_text("noise")
    result = shoal("map", perceptron, "--inputs", tmp_path / "in", "-o", tmp_path / "out", "--split", "1")
    assert result.status == 1
    failed = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert sorted(line.split(":")[1].strip() for line in failed) == ["narrow.npz", "noise.npz", "refused.npz"]
    assert "6 files in " in result.stderr
    assert ", 3 failed" in result.stderr
    expected = reference(perceptron, inputs)
    for row in range(6):
        np.testing.assert_allclose(np.load(tmp_path / "out" / f"item{row}.npy"), expected[row], rtol=1e-5, atol=1e-6)


def test_parquet_to_parquet(shoal: Shoal, perceptron: Path, tmp_path: Path) -> None:
    inputs = make_inputs(30)
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {name: pa.array(values.tolist()) for name, values in inputs.items()}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    out = tmp_path / "y.parquet"
    command = ("map", perceptron, "--inputs", tmp_path / "rows.parquet", "-o", out, "--split", "1")
    assert shoal(*command, "--json").json["done"] == 30
    y = np.array(pq.read_table(out)["y"].to_pylist())
    np.testing.assert_allclose(y, reference(perceptron, inputs), rtol=1e-5, atol=1e-6)


def test_a_file_without_rows_gives_outputs_without_rows(shoal: Shoal, perceptron: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "none.npz", **make_inputs(0))
    command = ("map", perceptron, "--inputs", tmp_path / "none.npz", "-o", tmp_path / "out")
    assert "0 rows in " in shoal(*command).stderr
    assert np.load(tmp_path / "out" / "y.npy").shape == reference(perceptron, make_inputs(0)).shape
    assert "0 rows in " in shoal(*command, "--resume").stderr


def test_what_cannot_be_done_is_one_line(shoal: Shoal, perceptron: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", **make_inputs(20))
    np.savez(tmp_path / "wide.npz", **{**make_inputs(20), "x": np.zeros((20, WIDTH + 1), np.float32)})
    (tmp_path / "file").write_text("")
    out = ("-o", tmp_path / "out")
    command = ("map", perceptron, "--inputs")
    assert "'x'" in shoal(*command, tmp_path / "wide.npz", *out).complaint
    assert "does not exist" in shoal(*command, tmp_path / "missing.npz", *out).complaint
    assert "neither a folder nor" in shoal(*command, tmp_path / "file", *out).complaint
    assert "cannot be written" in shoal(*command, tmp_path / "rows.npz", "-o", tmp_path / "file" / "out").complaint
    assert "NAME=AXIS" in shoal(*command, tmp_path / "rows.npz", *out, "--batch-dim", "x").complaint
    assert "is not an ONNX file" in shoal("map", tmp_path / "file", "--inputs", tmp_path / "rows.npz", *out).complaint


def test_a_worker_that_is_killed_costs_nothing_but_time(perceptron: Path, tmp_path: Path) -> None:
    """Both replicas run; one is killed from outside before the first chunk is read, and the other does all rows."""
    inputs = make_inputs(100)
    np.savez(tmp_path / "rows.npz", **inputs)
    arguments = [perceptron, tmp_path / "rows.npz", tmp_path / "out"]
    command = [sys.executable, "-m", "tests.cli.map_with_killed_worker", *map(str, arguments)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "out" / "y.npy"), reference(perceptron, inputs), rtol=1e-5, atol=1e-6)
