"""Edges of a graph: captures in bodies, constants, chance, and the order of nodes."""

from pathlib import Path

import onnx
import pytest

from shoal.errors import ModelLoadError
from shoal.model.graph.file.dataflow import sort_nodes
from tests.model.graph.graph_cases import make_graph

CAPTURES = """
g (float[N] x, bool c) => (float[N] y) <float[1] w = {2}> {
    a = Relu(x)
    b = Neg(x)
    y = If(c) <
        then_branch = inner () => (float[N] t) { k = Mul(a, w)  t = Abs(k) },
        else_branch = other () => (float[N] b) { }
    >
}
"""


def test_a_node_reads_what_its_bodies_capture(tmp_path: Path) -> None:
    flow = make_graph(tmp_path, CAPTURES).dataflow
    assert set(flow.reads[2]) == {"c", "a", "w", "b"}, "a branch's output may be an outer value itself"
    assert flow.writes[2] == ("y",)
    assert flow.active == {0, 1, 2}


def test_captures_reach_through_two_levels_of_bodies(tmp_path: Path) -> None:
    text = """
    g (float[N] x, bool c) => (float[N] y) {
        a = Relu(x)
        y = If(c) <
            then_branch = outer () => (float[N] t) {
                l = Neg(a)
                t = If(c) <
                    then_branch = deep () => (float[N] u) { u = Add(a, l) },
                    else_branch = flat () => (float[N] v) { v = Abs(l) }
                >
            },
            else_branch = plain () => (float[N] z) { z = Identity(x) }
        >
    }
    """
    assert set(make_graph(tmp_path, text).dataflow.reads[1]) == {"c", "a", "x"}


def test_constants_unused_nodes_and_chance(tmp_path: Path) -> None:
    text = """
    g (float[4] x) => (float[4] y) <float[4] w = {1,2,3,4}, int64[1] s = {4}> {
        v = Neg(w)
        r = RandomNormal <shape = [4]> ()
        unused = Abs(x)
        k = Add(x, v)
        y = Add(k, r)
    }
    """
    flow = make_graph(tmp_path, text).dataflow
    assert flow.constant == {0}, "random numbers must be drawn once, not in every stage"
    assert flow.active == {1, 3, 4}
    assert flow.nodes_for(["k"], 3, 4) == ([0, 3], {"k", "x", "v", "w"})


def test_a_random_operator_inside_a_function_is_no_constant(tmp_path: Path) -> None:
    header = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'
    text = """
    g (float[4] x) => (float[4] y) { r = own.outer()  y = Add(x, r) }
    <domain: "own", opset_import: ["" : 17, "own" : 1]> outer () => (o) { o = own.draw() }
    <domain: "own", opset_import: ["" : 17]> draw () => (o) { o = RandomNormal <shape = [4]> () }
    """
    assert make_graph(tmp_path, text, header).dataflow.constant == set()


def test_nodes_out_of_order_are_sorted() -> None:
    nodes = [onnx.helper.make_node("Neg", ["a"], ["y"]), onnx.helper.make_node("Abs", ["x"], ["a"])]
    graph = onnx.GraphProto(node=nodes, input=[onnx.ValueInfoProto(name="x")])
    sort_nodes(graph)
    assert [node.op_type for node in graph.node] == ["Abs", "Neg"]


@pytest.mark.parametrize("source", ["missing", "y"])
def test_a_value_that_nothing_can_compute_is_named(source: str) -> None:
    graph = onnx.GraphProto(node=[onnx.helper.make_node("Neg", [source], ["y"], name="last")])
    with pytest.raises(ModelLoadError, match=f"'last' .Neg. reads '{source}'"):
        sort_nodes(graph)
