"""A model's own functions: those that never end, or that end too late."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.helper import make_function, make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from shoal.errors import ModelLoadError
from shoal.model.graph.file.functions import MAX_CALLED_NODES
from shoal.model.graph.file.graph_file import open_graph
from tests.model.graph.graph_cases import assert_same, run_whole
from tests.model.graph.tensor_parallel.rank_runs import run_split

OPSETS = [make_opsetid("", 17), make_opsetid("own", 1)]


def save_tower(path: Path, depth: int, *, last: str = "") -> Path:
    """Functions of which each calls the next one twice; the last one calls `last`, or negates twice."""
    functions = []
    for level in range(depth):
        callee = f"f{level + 1}" if level + 1 < depth else last
        domain = "own" if callee else ""
        nodes = [make_node(callee or "Neg", [a], [b], domain=domain) for a, b in (("a", "b"), ("b", "c"))]
        functions.append(make_function("own", f"f{level}", ["a"], ["c"], nodes, OPSETS))
    x, y = (make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4]) for name in "xy")
    nodes = [make_node("f0", ["x"], ["h"], domain="own"), make_node("Neg", ["h"], ["y"])]
    model = make_model(make_graph(nodes, "tower", [x], [y]), functions=functions, opset_imports=OPSETS, ir_version=8)
    onnx.save(model, path)
    return path


def test_calls_of_calls_are_cut_like_any_node(tmp_path: Path) -> None:
    graph = open_graph(save_tower(tmp_path / "tower.onnx", 4))
    x = {"x": np.ones((2, 4), np.float32)}
    assert_same(run_split(graph, [1], (1,), x), run_whole(graph, x))


@pytest.mark.parametrize("depth", [20, 64, 2000])
def test_a_tower_that_would_take_hours_is_refused_at_once(tmp_path: Path, depth: int) -> None:
    with pytest.raises(ModelLoadError, match=f"more than {MAX_CALLED_NODES:,}"):
        open_graph(save_tower(tmp_path / "tower.onnx", depth))


@pytest.mark.parametrize(("depth", "last"), [(1, "f0"), (3, "f0"), (3, "f2"), (2000, "f1999")])
def test_functions_that_call_themselves_are_named(tmp_path: Path, depth: int, last: str) -> None:
    with pytest.raises(ModelLoadError, match=r"function 'f\d+' of domain 'own' calls itself"):
        open_graph(save_tower(tmp_path / "ring.onnx", depth, last=last))
