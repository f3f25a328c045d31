"""Small graphs: what is split, what the ranks hold, and that their numbers are those of the whole."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import from_array

from shoal.core.plan.graph import SplitReport
from shoal.model.graph.file.graph_file import GraphFile, open_graph
from shoal.model.graph.stage.cuts import cut_points
from shoal.model.graph.stage.segments import MARKER_DOMAIN
from shoal.model.graph.stage.stage_model import model_bytes
from shoal.model.graph.tensor_parallel.shard_model import split_figures
from tests.model.graph.graph_cases import HEADER, run_whole
from tests.model.graph.tensor_parallel.rank_runs import assert_close, run_ranks, run_split, shard_models, whole_stage

ROUNDING = 1e-5
"""Parts of sums are added in another order."""
CHANCE = np.random.default_rng(0)
SHARES = [(1, 1), (2, 1), (1, 2, 4), (1, 1, 1, 1, 1)]


def make(folder: Path, text: str, header: str = HEADER, **weights: np.ndarray) -> GraphFile:
    model = onnx.parser.parse_model(header + text)
    model.graph.initializer.extend(from_array(array, name) for name, array in weights.items())
    onnx.save(model, folder / "model.onnx")
    return open_graph(folder / "model.onnx")


def floats(*shape: int) -> np.ndarray:
    return CHANCE.standard_normal(shape, np.float32)


def check(graph: GraphFile, shares: Sequence[int], **arrays: np.ndarray) -> SplitReport:
    found, report = run_ranks(graph, shares, arrays)
    assert_close(found, run_whole(graph, arrays), ROUNDING)
    return report


def markers(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.domain == MARKER_DOMAIN]


PERCEPTRON = """
perceptron (float[rows, 40] x) => (float[rows, 24] y) {
    a = MatMul(x, w1)  b = Add(a, b1)  c = Relu(b)  d = MatMul(c, w2)  e = Add(b2, d)  y = Tanh(e)
}"""


def perceptron(folder: Path) -> GraphFile:
    weights = {"w1": floats(40, 60), "b1": floats(60), "w2": floats(60, 24), "b2": floats(24)}
    return make(folder, PERCEPTRON, **weights)


@pytest.mark.parametrize("shares", SHARES, ids=str)
def test_a_perceptron_is_split_by_columns_then_rows_and_summed_once(tmp_path: Path, shares: Sequence[int]) -> None:
    report = check(perceptron(tmp_path), shares, x=floats(3, 40))
    assert report.split_flops == report.flops > 0
    assert (report.num_sums, report.num_gathers) == (1, 0)
    assert report.split_weight_bytes == 4 * (40 * 60 + 60 + 60 * 24)
    assert report.weight_bytes == report.split_weight_bytes + 4 * 24


def test_shares_decide_what_a_rank_holds(tmp_path: Path) -> None:
    graph = perceptron(tmp_path)
    sizes = [[tuple(w.dims) for w in shard.model.graph.initializer] for shard in shard_models(graph, (2, 1))]
    assert sizes == [[(24,), (40, 40), (40,), (40, 24)], [(24,), (40, 20), (20,), (20, 24)]]


def test_figures_are_those_of_the_models_though_no_weight_is_read(tmp_path: Path) -> None:
    graph = perceptron(tmp_path)
    report, held = split_figures(graph, whole_stage(graph), (3, 2))
    shards = shard_models(graph, (3, 2))
    assert report == shards[0].report
    assert list(held) == [model_bytes(shard.model) for shard in shards]


def test_markers_come_in_the_same_order_on_every_rank(tmp_path: Path) -> None:
    first, *others = [markers(shard.model) for shard in shard_models(perceptron(tmp_path), (5, 1, 1))]
    assert first == ["AllReduce"]
    assert all(other == first for other in others)


GEMMS = ["", "transA = 1", "transB = 1", "transA = 1, transB = 1", "alpha = 0.5, beta = 2.0"]


@pytest.mark.parametrize("attributes", GEMMS)
@pytest.mark.parametrize("bias", [(), (1,), (12,), (5, 1), (1, 12), (5, 12)], ids=str)
def test_gemm_in_all_its_forms(tmp_path: Path, attributes: str, bias: tuple[int, ...]) -> None:
    """Twice: the first by columns, the second by rows, so that its bias belongs behind the sum."""
    clause = f"<{attributes}>" if attributes else ""
    order = (1, 0) if "transA" in attributes else (0, 1)
    text = f"""g (float[5, 16] x) => (float[a, b] y) {{
        t = Transpose<perm = [{order[0]}, {order[1]}]>(x)  h = Gemm {clause} (t, w1, c1)  r = Relu(h)
        s = Transpose<perm = [{order[0]}, {order[1]}]>(r)  y = Gemm {clause} (s, w2, c2)
    }}"""
    is_turned = "transB" in attributes
    w1, w2 = floats(16, 20), floats(20, 12)
    weights = {"w1": w1.T.copy() if is_turned else w1, "w2": w2.T.copy() if is_turned else w2}
    graph = make(tmp_path, text, c1=floats(20), c2=floats(*bias), **weights)
    report = check(graph, (2, 1), x=floats(5, 16))
    assert (report.num_sums, report.num_gathers) == (1, 0)
    assert report.split_flops == report.flops


def test_gemm_without_a_bias(tmp_path: Path) -> None:
    text = "g (float[5, 16] x) => (float[5, 12] y) { h = Gemm(x, w1)  y = Gemm(h, w2) }"
    assert check(make(tmp_path, text, w1=floats(16, 20), w2=floats(20, 12)), (1, 1), x=floats(5, 16)).num_sums == 1


def test_one_weight_cut_by_columns_and_by_rows(tmp_path: Path) -> None:
    text = "g (float[5, 32] x) => (float[5, 32] y) { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, w) }"
    shards = shard_models(make(tmp_path, text, w=floats(32, 32)), (1, 1))
    assert [tuple(w.dims) for w in shards[0].model.graph.initializer] == [(32, 16), (16, 32)]
    assert check(open_graph(tmp_path / "model.onnx"), (3, 1), x=floats(5, 32)).num_sums == 1


def test_a_product_that_is_not_followed_by_another_is_gathered(tmp_path: Path) -> None:
    text = "g (float[n, 64] x) => (float[n, 33] y) { h = MatMul(x, w)  y = Softmax(h) }"
    report = check(make(tmp_path, text, w=floats(64, 33)), (1, 1), x=floats(2, 64))
    assert (report.num_sums, report.num_gathers) == (0, 1)
    assert report.split_flops == report.flops


def test_a_product_that_saves_less_than_its_gathering_costs_stays_whole(tmp_path: Path) -> None:
    text = "g (float[n, 16] x) => (float[n, 33] y) { h = MatMul(x, w)  y = Softmax(h) }"
    report = check(make(tmp_path, text, w=floats(16, 33)), (1, 1), x=floats(2, 16))
    assert (report.num_sums, report.num_gathers, report.split_flops) == (0, 0, 0)


def test_fewer_columns_than_ranks_stay_whole(tmp_path: Path) -> None:
    text = "g (float[n, 64] x) => (float[n, 64] y) { h = MatMul(x, w1)  y = MatMul(h, w2) }"
    report = check(make(tmp_path, text, w1=floats(64, 2), w2=floats(2, 64)), (1, 1, 1), x=floats(2, 64))
    assert report.num_sums == 0


def test_an_unknown_operator_between_two_products_reads_the_whole(tmp_path: Path) -> None:
    text = "g (float[n, 64] x) => (float[n, 8] y) { h = MatMul(x, w1)  c = CumSum(h, axis)  y = MatMul(c, w2) }"
    graph = make(tmp_path, text, w1=floats(64, 20), w2=floats(20, 8), axis=np.array(1))
    assert check(graph, (1, 1), x=floats(2, 64)).num_gathers == 1


def test_a_body_sees_whole_values_of_the_graph_around_it(tmp_path: Path) -> None:
    text = """g (float[2, 64] x, bool yes) => (float[2, 16] y) {
        h = MatMul(x, w1)
        y = If (yes) <then_branch = a () => (float[2, 16] p) { p = Relu(h) },
                      else_branch = b () => (float[2, 16] q) { q = Neg(h) }>
    }"""
    graph = make(tmp_path, text, w1=floats(64, 16))
    for yes in (True, False):
        assert check(graph, (1, 1), x=floats(2, 64), yes=np.array(yes)).num_gathers == 1


def test_a_value_that_is_read_split_and_given_out_is_gathered_once(tmp_path: Path) -> None:
    text = """g (float[n, 64] x) => (float[n, 96] h, float[n, 96] r, float[n, 64] y) {
        h = MatMul(x, w1)  r = Relu(h)  y = MatMul(r, w2) }"""
    report = check(make(tmp_path, text, w1=floats(64, 96), w2=floats(96, 64)), (2, 1), x=floats(2, 64))
    assert (report.num_sums, report.num_gathers) == (1, 2)


def test_weights_behind_constants_identities_and_transposes_are_cut(tmp_path: Path) -> None:
    text = """g (float[n, 64] x) => (float[n, 64] y) {
        a = Identity(w1)  b = Transpose(a)  h = MatMul(x, b)  c = Mul(w2, two)  y = MatMul(h, c) }"""
    weights = {"w1": floats(48, 64), "w2": floats(48, 64), "two": np.array(2, np.float32)}
    graph = make(tmp_path, text, **weights)
    report = check(graph, (1, 1), x=floats(2, 64))
    assert report.split_flops == report.flops
    assert report.split_weight_bytes == 2 * 4 * 48 * 64 + 4
    assert model_bytes(shard_models(graph, (1, 1))[0].model) == 4 * 48 * 64


def test_external_weights_are_cut_from_their_file_and_others_stay_in_it(tmp_path: Path) -> None:
    weights = {"w1": floats(40, 60), "b1": floats(60), "w2": floats(60, 400), "b2": floats(400)}
    graph = make(tmp_path, PERCEPTRON.replace("24", "400"), **weights)
    onnx.save(graph.model, tmp_path / "other.onnx", save_as_external_data=True, location="data", size_threshold=100)
    graph = open_graph(tmp_path / "other.onnx")
    report = check(graph, (2, 1), x=floats(3, 40))
    assert report.split_flops == report.flops
    kept = [w.name for w in shard_models(graph, (2, 1))[0].model.graph.initializer if w.external_data]
    assert kept == ["b2"]


def test_a_scalar_weight_and_a_shared_operand_stay_whole(tmp_path: Path) -> None:
    text = """g (float[n, 64] x, float[n, 1] z) => (float[n, 32] y) {
        h = MatMul(x, w1)  a = Mul(h, half)  b = Add(a, z)  y = MatMul(b, w2) }"""
    graph = make(tmp_path, text, w1=floats(64, 48), w2=floats(48, 32), half=np.array([0.5], np.float32))
    assert check(graph, (2, 1), x=floats(3, 64), z=floats(3, 1)).num_gathers == 0


def test_a_whole_computed_operand_is_sliced(tmp_path: Path) -> None:
    text = """g (float[n, 64] x, float[n, 48] z) => (float[n, 32] y) {
        h = MatMul(x, w1)  b = Mul(h, z)  y = MatMul(b, w2) }"""
    graph = make(tmp_path, text, w1=floats(64, 48), w2=floats(48, 32))
    report = check(graph, (2, 1), x=floats(3, 64), z=floats(3, 48))
    assert (report.num_sums, report.num_gathers) == (1, 0)


def test_graphs_of_old_operator_sets_stay_whole(tmp_path: Path) -> None:
    text = "g (float[n, 64] x) => (float[n, 64] y) { h = MatMul(x, w)  y = MatMul(h, w) }"
    graph = make(tmp_path, text, '<ir_version: 4, opset_import: ["" : 9]>', w=floats(64, 64))
    assert check(graph, (1, 1), x=floats(2, 64)).num_sums == 0


def test_rows_that_are_merged_with_heads_can_be_gathered(tmp_path: Path) -> None:
    """[batch, tokens, 12 heads * 8] to [batch * 12, tokens, 8], which an operator without a rule reads."""
    text = """g (float[batch, 5, 64] x) => (float[c, d, e] y) {
        h = MatMul(x, w)  r = Reshape(h, heads)  t = Transpose<perm = [0, 2, 1, 3]>(r)
        m = Reshape(t, merged)  y = CumSum(m, axis) }"""
    shapes = {"heads": np.array([0, 0, 12, 8]), "axis": np.array(1)}
    graph = make(tmp_path, text, w=floats(64, 96), merged=np.array([-1, 5, 8]), **shapes)
    for shares in ((1, 1), (2, 1), (1, 1, 1)):
        report = check(graph, shares, x=floats(3, 5, 64))
        assert report.num_gathers == 1


def test_packed_weights_stay_packed_and_whole(tmp_path: Path) -> None:
    text = """g (float[n, 64] x) => (float[n, 64] y) {
        w = DequantizeLinear(q, scale, zero)  h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }"""
    scale, zero = np.array(0.1, np.float32), np.array(3, np.int8)
    packed = CHANCE.integers(-9, 9, (64, 64), np.int8)
    graph = make(tmp_path, text, q=packed, scale=scale, zero=zero, v=floats(64, 64))
    check(graph, (1, 1), x=floats(2, 64))
    held = {w.name: tuple(w.dims) for w in shard_models(graph, (1, 1))[0].model.graph.initializer}
    assert held["q"] == (64, 64)


def test_ranks_never_draw_random_numbers_for_one_sum(tmp_path: Path) -> None:
    text = """g (float[n, 64] x) => (float[n, 32] y) {
        h = MatMul(x, w1)  e = RandomNormalLike(h)  a = Add(h, e)  y = MatMul(a, w2) }"""
    graph = make(tmp_path, text, w1=floats(64, 48), w2=floats(48, 32))
    assert markers(shard_models(graph, (1, 1))[0].model) == []


def test_dropout_outside_training_lets_a_split_through(tmp_path: Path) -> None:
    text = "g (float[n, 64] x) => (float[n, 32] y) { h = MatMul(x, w1)  d = Dropout(h)  y = MatMul(d, w2) }"
    report = check(make(tmp_path, text, w1=floats(64, 48), w2=floats(48, 32)), (2, 1), x=floats(3, 64))
    assert (report.num_sums, report.num_gathers) == (1, 0)


def test_a_scalar_index_stays_a_scalar_on_shards(tmp_path: Path) -> None:
    text = """g (float[N,S,64] x, int64 i) => (float[N,64] y) {
        h = MatMul(x, a)  k = Relu(h)  o = MatMul(k, b)  y = Gather <axis = 1> (o, i)
    }"""
    graph = make(tmp_path, text, a=floats(64, 128), b=floats(128, 64))
    report = check(graph, (1, 1), x=floats(2, 3, 64), i=np.array(1))
    assert report.num_sums == 1


def test_a_scalar_size_crosses_a_cut_between_shards(tmp_path: Path) -> None:
    text = """g (float[N,S,64] x) => (float[N,S,64] y)
        <int64 i0 = {0}, int64[1] z = {0}, int64[1] m1 = {-1}, int64[1] k64 = {64}> {
        h = MatMul(x, a)  k = Relu(h)  o = MatMul(k, b)
        sh = Shape(o)  n = Gather(sh, i0)
        p = MatMul(o, a)  q = Relu(p)  c = MatMul(q, b)
        u = Unsqueeze(n, z)  t = Concat <axis = 0> (u, m1, k64)  y = Reshape(c, t)
    }"""
    graph = make(tmp_path, text, a=floats(64, 128) / 8, b=floats(128, 64) / 8)
    arrays = {"x": floats(2, 3, 64)}
    expected = run_whole(graph, arrays)
    places = [cut.node for cut in cut_points(graph)]
    assert any(spec.name == "n" for cut in cut_points(graph) for spec in cut.tensors)
    for node in places:
        found = run_split(graph, [node], (1, 1), arrays)
        np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-4, atol=1e-5)


def test_texts_go_through_shards(tmp_path: Path) -> None:
    text = """g (string[N,2] s, float[N,64] x) => (string[N,2] t, float[N,64] y) {
        t = Identity(s)  h = MatMul(x, a)  k = Relu(h)  y = MatMul(k, b)
    }"""
    graph = make(tmp_path, text, a=floats(64, 128), b=floats(128, 64))
    check(graph, (1, 1), s=np.array([["a", "日"]], object), x=floats(1, 64))
