"""The report: counts worked out by hand."""

from pathlib import Path

import pytest

from shoal.model.graph.inspect import describe_graph
from tests.model.graph.graph_cases import make_graph

HEADER = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'


def flops(folder: Path, node: str, inputs: str = "float[N,8] x, float[8,5] w") -> tuple[int, int]:
    report = describe_graph(make_graph(folder, f"g ({inputs}) => (float[A,B] y) {{ {node} }}", HEADER))
    return report.flops, report.num_unsized


@pytest.mark.parametrize(
    ("node", "inputs", "multiply_adds"),
    [
        ("y = MatMul(x, w)", "float[N,8] x, float[8,5] w", 8 * 5),
        ("y = MatMul(x, w)", "float[3,N,8] x, float[8,5] w", 3 * 8 * 5),
        ("y = Gemm <transA = 1> (x, w)", "float[8,7] x, float[8,5] w", 7 * 8 * 5),
        ("y = Gemm <transB = 1> (x, w)", "float[7,8] x, float[5,8] w", 7 * 8 * 5),
        ("y = Conv <group = 2, pads = [1,1,1,1]> (x, w)", "float[N,4,6,6] x, float[6,2,3,3] w", 6 * 36 * 2 * 9),
        ("y = ConvTranspose (x, w)", "float[N,4,6,6] x, float[4,5,2,2] w", 4 * 36 * 5 * 4),
        (
            "y = com.microsoft.MatMulNBits <K = 64, N = 32, block_size = 32, bits = 4> (x, w, s)",
            "float[3,64] x, uint8[32,2,16] w, float[64] s",
            3 * 64 * 32,
        ),
    ],
)
def test_flops_of_one_operator(tmp_path: Path, node: str, inputs: str, multiply_adds: int) -> None:
    assert flops(tmp_path, node, inputs) == (2 * multiply_adds, 0)


def test_products_of_unknown_shape_or_inside_bodies_are_said_to_be_left_out(tmp_path: Path) -> None:
    assert flops(tmp_path, "y = MatMul(x, w)", "float[] x, float[8,5] w") == (0, 1)
    body = "y = If(c) <then_branch = p () => (t) { t = MatMul(x, w) }, else_branch = q () => (e) { e = Identity(x) }>"
    assert flops(tmp_path, body, "float[N,8] x, float[8,8] w, bool c") == (0, 1)


def test_the_whole_report(tmp_path: Path) -> None:
    text = """
    g (float[N,4] x) => (float[N,2] y) <
        float[4,2] w = {1,2,3,4,5,6,7,8}, float[2] bias = {1,2}, int64[1] i = {0}, int64[1] j = {2}, int64[1] k = {1}
    > {
        v = Constant <value = float[2,2] {1,2,3,4}> ()
        a = Gemm(x, w, bias)
        b = Relu(a)
        wide = Concat <axis = 1> (b, b, b)
        narrow = Slice(wide, i, j, k)
        y = MatMul(narrow, v)
    }
    """.replace(
        "float[2] bias = {1,2}>", "float[2] bias = {1,2}, int64[1] i = {0}, int64[1] j = {2}, int64[1] k = {1}>"
    )
    report = describe_graph(make_graph(tmp_path, text))
    assert report.opsets == {"ai.onnx": 17}
    assert report.operators == {"Constant": 1, "Gemm": 1, "Relu": 1, "Concat": 1, "Slice": 1, "MatMul": 1}
    assert report.num_nodes == 6
    assert report.num_parameters == 8 + 2 + 4 + 3
    assert report.weight_bytes == 4 * (8 + 2 + 4) + 8 * 3
    assert report.two_shards.weight_bytes == report.weight_bytes
    assert report.flops == 2 * (4 * 2 + 2 * 2)
    assert [spec.name for spec in (*report.inputs, *report.outputs)] == ["x", "y"]
    assert report.num_cuts == 4
    assert [cut.bytes_per_run for cut in report.narrowest_cuts] == [8, 8, 8, 24]
