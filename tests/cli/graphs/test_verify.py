"""`shoal verify`, `run` and `inspect` of ONNX graphs that are split over shards."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from examples.perceptron import make_layers, to_onnx
from shoal.verify.graphs import PlainRuntime
from tests.cli.conftest import Shoal
from tests.executor.graphs import floats, save_graph
from tests.plain_runtime import plain_session

RANDOM = np.random.default_rng(0)
SPLITS = ("tp=2", "tp=3", "tp=2:1", "pp=2,tp=2")


def random(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[1:]) or 1))


@pytest.fixture(scope="module")
def perceptron(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("perceptron") / "perceptron.onnx"
    save(to_onnx(make_layers((16, 96, 96, 96, 10))), path)
    return path


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convolutions, one of them depthwise, with a skip connection, pooling and a classifier."""
    nodes = [
        helper.make_node("Conv", ["x", "stem", "b0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "wide", "b1"], ["c1"]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "depthwise", "b1"], ["c2"], group=48, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("Conv", ["r2", "narrow", "b0"], ["c3"]),
        helper.make_node("Add", ["c3", "r0"], ["skip"]),
        helper.make_node("GlobalAveragePool", ["skip"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "classes", "b2"], ["y"], transB=1),
    ]
    weights = {
        "stem": random(24, 3, 3, 3),
        "wide": random(48, 24, 1, 1),
        "depthwise": random(48, 1, 3, 3),
        "narrow": random(24, 48, 1, 1),
        "classes": random(10, 24),
        **{f"b{index}": random(count) for index, count in enumerate((24, 48, 10))},
    }
    path = tmp_path_factory.mktemp("cnn") / "cnn.onnx"
    return save_graph(path, nodes, [floats("x", "N", 3, 12, 12)], [floats("y", "N", 10)], weights)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer of a transformer encoder, with 6 heads."""
    width, heads, inner = 48, 6, 96

    def head_rows(kind: str) -> list:
        return [
            helper.make_node("MatMul", ["x", f"w{kind}"], [f"p{kind}"]),
            helper.make_node("Add", [f"p{kind}", f"b{kind}"], [f"s{kind}"]),
            helper.make_node("Reshape", [f"s{kind}", "heads"], [f"h{kind}"]),
            helper.make_node("Transpose", [f"h{kind}"], [kind], perm=[0, 2, 3, 1] if kind == "k" else [0, 2, 1, 3]),
        ]

    nodes = [
        *(node for kind in "qkv" for node in head_rows(kind)),
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "v"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["together"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["together", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "wo"], ["po"]),
        helper.make_node("Add", ["po", "bo"], ["attended"]),
        helper.make_node("Add", ["attended", "x"], ["a"]),
        helper.make_node("LayerNormalization", ["a", "gain", "bo"], ["n"], axis=-1),
        helper.make_node("MatMul", ["n", "w1"], ["p1"]),
        helper.make_node("Add", ["p1", "b1"], ["s1"]),
        helper.make_node("Tanh", ["s1"], ["t1"]),
        helper.make_node("MatMul", ["t1", "w2"], ["p2"]),
        helper.make_node("Add", ["p2", "bo"], ["s2"]),
        helper.make_node("Add", ["s2", "n"], ["y"]),
    ]
    weights = {
        **{f"w{kind}": random(width, width) for kind in "qkvo"},
        **{f"b{kind}": random(width) for kind in "qkvo"},
        "gain": random(width),
        "w1": random(width, inner),
        "b1": random(inner),
        "w2": random(inner, width),
        "heads": np.array([0, 0, heads, width // heads]),
        "flat": np.array([0, 0, width]),
    }
    path = tmp_path_factory.mktemp("encoder") / "encoder.onnx"
    return save_graph(path, nodes, [floats("x", "N", "T", width)], [floats("y", "N", "T", width)], weights)


@pytest.fixture
def models(perceptron: Path, cnn: Path, encoder: Path) -> Mapping[str, Path]:
    return {"perceptron": perceptron, "cnn": cnn, "encoder": encoder}


@pytest.mark.sample(every=2)
@pytest.mark.parametrize(("split", "name"), list(product(SPLITS, ("perceptron", "cnn", "encoder"))))
def test_shards_agree_with_the_whole(shoal: Shoal, models: Mapping[str, Path], name: str, split: str) -> None:
    value = shoal("verify", models[name], "--split", split, "--threads", 1, "--json").json
    assert value["agrees"] is True
    assert all(one["relative_difference"] <= 1e-5 for one in value["outputs"])
    plan = value["plan"]
    num_shards = 3 if split == "tp=3" else 2
    assert [worker["shard"] for worker in plan["workers"]] == list(range(num_shards)) * split.count("=")
    if "pp" not in split:  # a cut may leave a layer without its partner
        assert plan["shards"]["split_flops_share"] > 0.9
        assert plan["shards"]["split_weight_share"] > 0.9


def test_a_mismatch_is_told(shoal: Shoal, perceptron: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = PlainRuntime.run

    def tampered(self: PlainRuntime, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array + np.float32(1e-2) for name, array in honest(self, tensors).items()}

    monkeypatch.setattr(PlainRuntime, "run", tampered)
    result = shoal("verify", perceptron, "--split", "tp=2", "--threads", 1)
    assert result.status == 1
    assert "MISMATCH" in result.stderr


def test_the_person_is_told_what_is_split(shoal: Shoal, perceptron: Path) -> None:
    result = shoal("verify", perceptron, "--split", "tp=2", "--threads", 1)
    assert (result.status, result.stdout) == (0, "")
    assert "replica 0 stage 0 shard 1" in result.stderr
    assert "tp=2 splits 9" in result.stderr
    assert "agrees" in result.stderr


def test_inspect_says_what_two_shards_would_share(shoal: Shoal, perceptron: Path) -> None:
    assert "tp=2 splits 9" in " ".join(shoal("inspect", perceptron).stdout.split())


def test_run_with_shards(shoal: Shoal, perceptron: Path, tmp_path: Path) -> None:
    x = RANDOM.standard_normal((5, 16), np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    value = shoal(
        "run", perceptron, "--inputs", tmp_path / "in.npz", "--output", tmp_path / "out.npz", "--split", "dp=2,tp=2",
        "--threads", 1, "--json",
    ).json  # fmt: skip
    assert [(one["replica"], one["shard"]) for one in value["plan"]["workers"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    (expected,) = plain_session(perceptron).run(None, {"x": x})
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["y"], expected, rtol=1e-4, atol=1e-5)


def test_types_that_numpy_lacks_are_verified_and_written(shoal: Shoal, tmp_path: Path) -> None:
    """`bfloat16` goes in, over the cut and comes out."""
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["wide", "w"], ["h"]),
        helper.make_node("Cast", ["h"], ["narrow"], to=TensorProto.BFLOAT16),
        helper.make_node("Identity", ["narrow"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, ["N", 4]) for name in "xy"]
    path = save_graph(tmp_path / "half.onnx", nodes, ends[:1], ends[1:], {"w": np.eye(4, dtype=np.float32)})
    value = shoal("verify", path, "--split", "pp=2", "--threads", 1, "--json").json
    assert (value["agrees"], value["outputs"][0]["is_equal"]) == (True, True)
    x = np.array([[0.5, 1.5, -2, 96]], np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    shoal("run", path, "--inputs", tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--split", "pp=2", "--threads", 1)
    with np.load(tmp_path / "out.npz") as outputs:
        assert outputs["y"].tolist() == x.tolist()
