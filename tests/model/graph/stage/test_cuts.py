"""Cut points and what crosses them; the stages between any of them give the file's own numbers."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from shoal.errors import ConfigError
from shoal.model.graph.file.graph_file import GraphFile
from shoal.model.graph.stage.cuts import cut_points, stage_interfaces
from shoal.protocol.stage_interface import HEAD, StageInput, StageInterface, StageOutput
from tests.model.graph.graph_cases import assert_same, make_graph, run_stages, run_whole

X = {"x": np.array([[-1.5, 2, 3, -4], [0.5, -6, 7, 8]], np.float32)}
SKIP = """
g (float[N,4] x) => (float[N,4] y) <float[4] w = {1,2,3,4}> {
    a = Add(x, w)
    b = Relu(a)
    c = Neg(b)
    d = Mul(c, w)
    y = Add(d, a)
}
"""


def edges(stage: StageInterface) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    taken = {value.spec.name: value.source for value in stage.inputs}
    return taken, {value.spec.name: value.consumers for value in stage.outputs}


def check_every_split(graph: GraphFile, inputs: dict[str, np.ndarray], max_cuts: int = 2) -> int:
    """All ways to cut into up to three stages give what the whole file gives, bit for bit."""
    whole = run_whole(graph, inputs)
    nodes = [cut.node for cut in cut_points(graph)]
    splits = [list(chosen) for count in range(max_cuts + 1) for chosen in combinations(nodes, count)]
    for boundaries in splits:
        assert_same(run_stages(graph, boundaries, inputs), whole)
    return len(splits)


def test_a_skip_connection_goes_straight_to_its_reader(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, SKIP)
    assert [[spec.name for spec in cut.tensors] for cut in cut_points(graph)] == [
        ["a"],
        ["a", "b"],
        ["a", "c"],
        ["a", "d"],
    ]
    assert [cut.bytes_per_run for cut in cut_points(graph)] == [16, 32, 32, 32]
    first, middle, last = map(edges, stage_interfaces(graph, [2, 4]))
    assert first == ({"x": HEAD}, {"a": (2,), "b": (1,)})
    assert middle == ({"b": 0}, {"d": (2,)})
    assert last == ({"d": 1, "a": 0}, {"y": (HEAD,)})
    assert check_every_split(graph, X) == 11


def test_one_stage_is_the_whole_graph(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, SKIP)
    [stage] = stage_interfaces(graph, [])
    assert (stage.first_node, stage.last_node) == (0, 5)
    assert stage.inputs == (StageInput(spec=graph.inputs[0], source=HEAD),)
    assert stage.outputs == (StageOutput(spec=graph.outputs[0], consumers=(HEAD,)),)


@pytest.mark.parametrize("boundaries", [[0], [5], [2, 2], [3, 1], [-1]])
def test_boundaries_that_are_no_cut_points_are_refused(tmp_path: Path, boundaries: list[int]) -> None:
    with pytest.raises(ConfigError, match="cannot be cut before node"):
        stage_interfaces(make_graph(tmp_path, SKIP), boundaries)


def test_inputs_are_read_by_any_stage_and_may_be_unused(tmp_path: Path) -> None:
    text = """g (float[N,4] x, float[N,4] late, float[N,4] unused) => (float[N,4] y) {
        a = Abs(x)  b = Neg(a)  c = Add(b, late)  y = Add(c, x)
    }"""
    graph = make_graph(tmp_path, text)
    assert [len(cut.tensors) for cut in cut_points(graph)] == [1, 1, 1], "inputs do not cross cuts"
    first, last = map(edges, stage_interfaces(graph, [2]))
    assert first == ({"x": HEAD}, {"b": (1,)})
    assert last == ({"b": 0, "late": HEAD, "x": HEAD}, {"y": (HEAD,)})
    check_every_split(graph, X | {"late": X["x"] + 1, "unused": X["x"]})


def test_outputs_from_everywhere(tmp_path: Path) -> None:
    """An output that is read on, an input, a weight, a constant and a value of the first stage."""
    text = """g (float[N,4] x) => (float[N,4] y, float[N,4] a, float[N,4] x, float[4] w, float[4] k)
    <float[4] w = {1,2,3,4}> {
        k = Neg(w)
        a = Add(x, w)
        b = Abs(a)
        y = Add(b, k)
    }"""
    graph = make_graph(tmp_path, text)
    assert [cut.node for cut in cut_points(graph)] == [2, 3]
    first, last = map(edges, stage_interfaces(graph, [2]))
    assert first == ({"x": HEAD}, {"a": (HEAD, 1)})
    assert last == ({"a": 0, "x": HEAD}, {"y": (HEAD,), "x": (HEAD,), "w": (HEAD,), "k": (HEAD,)})
    assert check_every_split(graph, X) == 4


def test_constants_are_repeated_and_do_not_cross(tmp_path: Path) -> None:
    text = """g (float[N,4] x) => (float[N,4] y) <float[4] w = {1,2,3,4}, int64[1] shape = {4}> {
        two = Constant <value = float[1] {2}> ()
        ones = ConstantOfShape <value = float[1] {1}> (shape)
        v = Mul(w, two)
        k = Add(v, ones)
        a = Add(x, k)
        three = Constant <value = float[1] {3}> ()
        b = Mul(a, three)
        y = Sub(b, k)
    }"""
    graph = make_graph(tmp_path, text)
    assert [(cut.node, len(cut.tensors)) for cut in cut_points(graph)] == [(5, 1), (7, 1)]
    check_every_split(graph, X)


def test_unused_nodes_neither_cross_nor_make_cut_points(tmp_path: Path) -> None:
    text = "g (float[N,4] x) => (float[N,4] y) { a = Abs(x)  u = Neg(a)  v = Exp(u)  y = Relu(a)  w = Exp(y) }"
    graph = make_graph(tmp_path, text)
    assert [(cut.node, [spec.name for spec in cut.tensors]) for cut in cut_points(graph)] == [(1, ["a"])]
    check_every_split(graph, X)


def test_branches_that_do_not_meet_before_the_cut_need_nothing_to_cross(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, "g (float[N,4] x) => (float[N,4] y, float[N,4] z) { y = Abs(x)  z = Neg(x) }")
    assert [cut.tensors for cut in cut_points(graph)] == [()]
    check_every_split(graph, X)


def test_sequences_and_optionals_stay_inside_a_stage_and_texts_cross(tmp_path: Path) -> None:
    text = """g (float[N,4] x, string[2] s) => (float[N,4] y, bool[2] e) <int64 zero = {0}> {
        a = Abs(x)
        q = SequenceConstruct(a, x)
        o = Optional(a)
        b = SequenceAt(q, zero)
        c = OptionalGetElement(o)
        t = Identity(s)
        d = Add(b, c)
        e = Equal(s, t)
        y = Neg(d)
    }"""
    text = text.replace("e = Equal(s, t)", "e = own.same(t)")
    header = '<ir_version: 8, opset_import: ["" : 19, "own" : 1]>'
    text += '<domain: "own", opset_import: ["" : 19]> same (t) => (e) { e = Equal(t, t) }'
    graph = make_graph(tmp_path, text, header)
    assert [cut.node for cut in cut_points(graph)] == [1, 5, 6, 7, 8], "q and o are never cut"
    check_every_split(graph, X | {"s": np.array(["p", "q"], object)})


def test_a_value_of_unknown_type_is_never_cut(tmp_path: Path) -> None:
    """Neither inference knows the type when one operator cannot be built at all (MatMulFpQ4 on strings, say)."""
    text = "g (string[N] x) => (float[N] y) { a = com.microsoft.Gelu(x)  b = Neg(a)  y = Cast <to = 1> (b) }"
    graph = make_graph(tmp_path, text, '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>')
    assert cut_points(graph) == []


def test_integers_and_booleans_cross(tmp_path: Path) -> None:
    text = """g (float[N,4] x) => (float[N,4] y) <float zero = {0}, int64 axis = {1}> {
        m = Greater(x, zero)
        i = Cast <to = 7> (m)
        s = CumSum(i, axis)
        f = Cast <to = 1> (s)
        y = Where(m, f, x)
    }"""
    graph = make_graph(tmp_path, text)
    kinds = [{spec.dtype for spec in cut.tensors} for cut in cut_points(graph)]
    assert kinds == [{"bool"}, {"bool", "int64"}, {"bool", "int64"}, {"bool", "float32"}]
    check_every_split(graph, X)


def test_empty_names_of_optional_inputs_and_outputs_are_no_values(tmp_path: Path) -> None:
    text = """g (float[N,4] x) => (float[A,B] y) <float top = {2}> {
        a = Clip(x, , top)
        , b = Dropout(a)
        k, i = TopK(a, one)
        y = Concat <axis = 1> (k, a)
    }""".replace("        , b = Dropout(a)\n", "").replace("<float top", "<int64[1] one = {1}, float top")
    graph = make_graph(tmp_path, text)
    check_every_split(graph, X)
    assert [[spec.name for spec in cut.tensors] for cut in cut_points(graph)] == [["a"], ["a", "k"]]


def test_bodies_are_never_cut_and_their_captures_cross(tmp_path: Path) -> None:
    text = """g (float[N,4] x, bool c) => (float[N,4] y) <int64 three = {3}, bool yes = {1}, float[4] w = {1,2,3,4}> {
        a = Abs(x)
        b = Neg(a)
        l = Loop(three, yes, b) <body = inner (int64 i, bool go, float[N,4] v) => (bool on, float[N,4] n) {
            on = Identity(go)
            n0 = Add(v, a)
            n = Mul(n0, w)
        }>
        y = If(c) <
            then_branch = p () => (float[N,4] t) { t = Sub(l, b) },
            else_branch = q () => (float[N,4] e) { e = Identity(a) }
        >
    }"""
    graph = make_graph(tmp_path, text)
    assert [{spec.name for spec in cut.tensors} for cut in cut_points(graph)] == [{"a"}, {"a", "b"}, {"a", "b", "l"}]
    for condition in (True, False):
        assert check_every_split(graph, X | {"c": np.array(condition)}) == 7


def test_functions_are_kept(tmp_path: Path) -> None:
    header = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'
    text = """
    g (float[N,4] x) => (float[N,4] y) <float[4] w = {1,2,3,4}> { a = own.plus(x, w)  b = Abs(a)  y = own.plus(b, w) }
    <domain: "own", opset_import: ["" : 17, "own" : 1]> plus (p, q) => (r) { s = own.twice(p)  r = Add(s, q) }
    <domain: "own", opset_import: ["" : 17]> twice (p) => (r) { r = Add(p, p) }
    """
    assert check_every_split(make_graph(tmp_path, text, header), X) == 4


def test_weights_that_are_inputs_too_keep_their_values(tmp_path: Path) -> None:
    text = "g (float[N,4] x, float[4] w) => (float[N,4] y) <float[4] w = {1,2,3,4}> { a = Add(x, w)  y = Mul(a, w) }"
    for version, given in ((3, {}), (8, {"w": HEAD})):
        graph = make_graph(tmp_path, text, f'<ir_version: {version}, opset_import: ["" : 17]>')
        assert [edges(stage)[0] for stage in stage_interfaces(graph, [1])] == [{"x": HEAD, **given}, {"a": 0, **given}]
        assert check_every_split(graph, {**X, **graph.defaults}) == 2


def test_graphs_without_anything_to_cut(tmp_path: Path) -> None:
    for text in (
        "g (float[N,4] x) => (float[N,4] x) { }",
        "g () => (float[4] k) <float[4] w = {1,2,3,4}> { k = Neg(w) }",
        "g (float[N,4] x) => (float[N,4] y) { y = Neg(x) }",
    ):
        graph = make_graph(tmp_path, text)
        assert cut_points(graph) == []
        check_every_split(graph, {name: X[name] for name in (spec.name for spec in graph.inputs)})
