"""What makes two graphs the same to a plan."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import numpy_helper

from shoal.model.graph.file.graph_file import open_graph
from shoal.model.graph.identity import graph_digest, graph_shape
from tests.executor.graphs import skip_chain, strict_reshape


def retrained(path: Path, source: Path, name: str) -> Path:
    """The graph with other numbers in one weight."""
    model = onnx.load(source)
    for index, tensor in enumerate(model.graph.initializer):
        if tensor.name == name:
            array = numpy_helper.to_array(tensor)
            model.graph.initializer[index].CopyFrom(numpy_helper.from_array(array[::-1].copy(), name))
    onnx.save(model, path)
    return path


def test_a_copy_is_the_same_and_another_depth_is_not(tmp_path: Path) -> None:
    chain = graph_digest(open_graph(skip_chain(tmp_path / "a.onnx")))
    assert graph_digest(open_graph(skip_chain(tmp_path / "b.onnx"))) == chain
    assert graph_digest(open_graph(skip_chain(tmp_path / "c.onnx", depth=5))) != chain


def test_numbers_in_large_weights_do_not_matter_those_that_may_be_sizes_do(tmp_path: Path) -> None:
    chain = skip_chain(tmp_path / "a.onnx", width=32)
    reshape = strict_reshape(tmp_path / "b.onnx")
    digests = [graph_digest(open_graph(path)) for path in (chain, reshape)]
    changed = [retrained(tmp_path / "c.onnx", chain, "w1"), retrained(tmp_path / "d.onnx", reshape, "shape")]
    assert graph_digest(open_graph(changed[0])) == digests[0]
    assert graph_digest(open_graph(changed[1])) != digests[1]


def test_the_shape_is_a_line_for_a_person(tmp_path: Path) -> None:
    graph = open_graph(skip_chain(tmp_path / "a.onnx", width=512))
    assert graph_shape(graph).startswith("9 nodes on x, 4.2 MB of weights, ")
