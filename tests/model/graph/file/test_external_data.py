"""Weights in files of their own: found, measured, cut over stages, and never read whole."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import set_external_data
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from shoal.errors import ModelLoadError
from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.stage.cuts import cut_points
from shoal.model.graph.stage.stage_model import weight_bytes
from tests.model.graph.graph_cases import HEADER, assert_same, run_stages, run_whole, save_graph
from tests.model.graph.tensor_parallel.rank_runs import run_split

TWO_LAYERS = """
g (float[N,4] x) => (float[M,2] y) {
    a = MatMul(x, v)
    b = Relu(a)
    c = MatMul(b, w)
    y = Reshape(c, shape)
}
"""


def save_external(folder: Path, min_bytes: int = 64) -> Path:
    """The two layers with their weights in `weights.bin`, and the shape too for `min_bytes` 0."""
    model = onnx.parser.parse_model(HEADER + TWO_LAYERS)
    rng = np.random.default_rng(0)
    arrays = {"v": rng.standard_normal((4, 8), np.float32), "w": rng.standard_normal((8, 2), np.float32)}
    arrays["shape"] = np.array([-1, 2])
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=min_bytes)
    return path


def test_stages_use_their_share_of_the_external_file(tmp_path: Path) -> None:
    graph = open_graph(save_external(tmp_path))
    assert [len(tensor.raw_data) for tensor in graph.model.graph.initializer] == [0, 0, 16]
    assert [cut.node for cut in cut_points(graph)] == [1, 2, 3]
    assert weight_bytes(graph, 0, 2) == 4 * 32
    assert weight_bytes(graph, 2, 4) == 4 * 16 + 2 * 8
    x = {"x": np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)}
    assert_same(run_stages(graph, [2], x), run_whole(graph, x))


def test_a_small_external_shape_still_decides_shapes(tmp_path: Path) -> None:
    """ONNX Runtime itself refuses such a file; its stages run, because they hold the shape."""
    graph = open_graph(save_external(tmp_path, min_bytes=0))
    assert not any(tensor.raw_data for tensor in graph.model.graph.initializer)
    assert (graph.value_specs["y"].shape or ())[1:] == (2,)
    x = {"x": np.ones((3, 4), np.float32)}
    inline = open_graph(save_external(tmp_path))
    assert_same(run_stages(graph, [2], x), run_whole(inline, x))


def test_a_missing_external_file_is_named(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelLoadError, match=r"weights in 'weights\.bin', which is missing"):
        open_graph(path)


def test_an_external_file_that_is_too_short_is_named(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    size = (tmp_path / "weights.bin").stat().st_size
    os.truncate(tmp_path / "weights.bin", size - 1)
    with pytest.raises(ModelLoadError, match=r"weights\.bin' has .* bytes, but weight 'w' ends at byte"):
        open_graph(path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "a/../../secret.bin"])
def test_external_files_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    path = save_external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelLoadError, match="outside the model's folder"):
        open_graph(path)


def test_external_weights_inside_bodies_are_looked_for(tmp_path: Path) -> None:
    text = """g (float[4] x, bool c) => (float[4] y) { y = If(c) <
        then_branch = a () => (float[4] t) <float[4] k = {1,2,3,4}> { t = Add(x, k) },
        else_branch = b () => (float[4] e) { e = Abs(x) }
    > }"""
    path = save_graph(tmp_path, text)
    model = onnx.load(path)
    inner = model.graph.node[0].attribute[0].g.initializer[0]
    inner.ClearField("float_data")
    inner.raw_data = bytes(16)
    set_external_data(inner, "inner.bin")
    inner.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelLoadError, match=r"inner\.bin"):
        open_graph(path)


def test_more_weights_than_memory_cost_nothing_to_open(tmp_path: Path) -> None:
    """A sparse file: 1.4 TB by its dimensions, no block of it on disk."""
    side = 600_000
    weight = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[side, side])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="huge.bin")
    with open(tmp_path / "huge.bin", "wb") as file:
        file.truncate(4 * side * side)
    value = make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", side])
    out = make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["N", side])
    nodes = [make_node("MatMul", ["x", "w"], ["y"]), make_node("Relu", ["y"], ["z"])]
    model = make_model(make_graph(nodes, "g", [value], [out], [weight]), opset_imports=[make_opsetid("", 17)])
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    graph = open_graph(tmp_path / "model.onnx")
    assert weight_bytes(graph, 0, 1) == 4 * side * side
    assert weight_bytes(graph, 1, 2) == 0
    [cut] = cut_points(graph)
    assert cut.tensors[0].shape == ("N", side)


def as_a_cache_has_it(folder: Path) -> Path:
    """The files under other names in one folder and links to them in another, as huggingface_hub keeps them."""
    source = folder / "source"
    source.mkdir()
    path = save_external(source)
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for name, blob in ((path.name, "aaa"), ("weights.bin", "bbb")):
        (source / name).rename(blobs / blob)
        (snapshot / name).symlink_to(Path("../../blobs") / blob)
    return snapshot / path.name


@pytest.mark.parametrize("shares", [(1,), (1, 1)])
def test_links_as_a_cache_has_them_are_followed(tmp_path: Path, shares: tuple[int, ...]) -> None:
    graph = open_graph(as_a_cache_has_it(tmp_path))
    x = {"x": np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)}
    expected = run_whole(graph, x)
    for boundaries in ([], [1], [2], [1, 3]):
        assert_same(run_split(graph, boundaries, shares, x), expected, rtol=1e-5)
    assert {Path(file.name).name for file in graph.files} == {"model.onnx", "weights.bin"}


def test_a_link_beside_the_file_to_another_name_there(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    (tmp_path / "weights.bin").rename(tmp_path / "shared.bin")
    (tmp_path / "weights.bin").symlink_to("shared.bin")
    graph, x = open_graph(path), {"x": np.ones((3, 4), np.float32)}
    assert_same(run_split(graph, [2], (1,), x), run_whole(graph, x))


def test_a_link_that_leads_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = save_external(tmp_path / "model")
    (tmp_path / "model" / "weights.bin").rename(tmp_path / "weights.bin")
    (tmp_path / "model" / "weights.bin").symlink_to("../weights.bin")
    with pytest.raises(ModelLoadError, match=r"outside the model's folder.*it is a link to"):
        open_graph(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    os.mkfifo(tmp_path / "weights.bin")
    with pytest.raises(ModelLoadError, match="not a regular file"):
        open_graph(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("offset", "abc"),
        ("offset", "-1"),
        ("length", "-5"),
        ("length", "1e9"),
        ("offset", "9" * 30),
        ("offset", "9" * 5000),
        ("location", ""),
        ("location", "a\0b"),
        ("location", "w" * 5000),
        ("location", "."),
    ],
)
def test_numbers_and_names_that_make_no_sense_are_one_line(tmp_path: Path, key: str, value: str) -> None:
    path = save_external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    entries = {entry.key: entry for entry in model.graph.initializer[0].external_data}
    entries[key].value = value
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelLoadError) as caught:
        open_graph(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
