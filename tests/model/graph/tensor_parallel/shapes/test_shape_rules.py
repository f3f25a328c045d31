"""Shapes that exporters compute, followed through a graph with an open batch."""

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shoal.model.graph.file.dataflow import trace
from shoal.model.graph.stage.stage_model import extract_stage
from shoal.model.graph.tensor_parallel.shapes.constants import Constants
from shoal.model.graph.tensor_parallel.shapes.shape_rules import follow
from shoal.model.graph.tensor_parallel.shapes.sizes import ONE, Size, product
from shoal.model.graph.tensor_parallel.shapes.symbolic_shapes import SymbolicShapes
from tests.model.graph.tensor_parallel.rank_runs import whole_stage
from tests.model.graph.tensor_parallel.test_shard_model import make

BATCH, TOKENS = Size(1, ("batch",)), Size(1, ("tokens",))
sizes = st.builds(
    Size, st.integers(1, 50), st.lists(st.sampled_from("abc"), max_size=3).map(lambda n: tuple(sorted(n)))
)


def followed(folder: Path, body: str, **weights: np.ndarray) -> SymbolicShapes:
    graph = make(folder, f"g (float[batch, tokens, 24] x) => (float[a] y) {{ {body} }}", **weights)
    stage = whole_stage(graph)
    model = extract_stage(graph, stage.first_node, stage.last_node, stage.inputs, stage.outputs)
    shapes = SymbolicShapes(graph.value_specs, Constants(model, trace(model), graph.folder))
    for node in model.graph.node:
        follow(shapes, node)
    return shapes


@given(sizes, sizes)
def test_a_product_divides_back(first: Size, second: Size) -> None:
    assert product([first, second]).over(second) == first
    assert first.over(first) == ONE


def test_what_is_not_certain_to_divide_has_no_quotient() -> None:
    assert BATCH.over(TOKENS) is None
    assert Size(10).over(Size(4)) is None
    assert Size(10).over(Size(0)) is None


def test_a_reshape_to_computed_sizes(tmp_path: Path) -> None:
    body = """s = Shape(x)  n = Gather(s, zero)  t = Gather(s, one)  v = Concat<axis = 0>(n, t, minus, heads)
              r = Reshape(x, v)  p = Transpose<perm = [0, 2, 1, 3]>(r)  y = Reshape(p, flat)"""
    weights = {"zero": [0], "one": [1], "minus": [-1], "heads": [8], "flat": [-1]}
    shapes = followed(tmp_path, body, **{name: np.array(value) for name, value in weights.items()})
    assert shapes.shape("r") == (BATCH, TOKENS, Size(3), Size(8))
    assert shapes.shape("p") == (BATCH, Size(3), TOKENS, Size(8))
    assert shapes.shape("y") == (Size(24, ("batch", "tokens")),)


def test_arithmetic_on_sizes(tmp_path: Path) -> None:
    body = """s = Shape(x)  w = Slice(s, two, three)  a = Add(w, w)  d = Div(a, seven)  m = Mul(s, s)
              q = Div(m, s)  c = Concat<axis = 0>(d, q)  y = Cast<to = 1>(c)"""
    shapes = followed(tmp_path, body, two=np.array([2]), three=np.array([3]), seven=np.array([7]))
    assert shapes.content("a") == (Size(48),)
    assert shapes.content("d") == (Size(6),)
    assert shapes.content("c") == (Size(6), BATCH, TOKENS, Size(24))
    assert shapes.content("q") == (BATCH, TOKENS, Size(24))


def test_positions_up_to_the_number_of_tokens_have_that_number_beside_them(tmp_path: Path) -> None:
    body = """s = Shape(x)  t = Slice(s, one, two)  p = Slice(table, zero, t, one)  y = Add(x, p)"""
    weights = {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2])}
    shapes = followed(tmp_path, body, table=np.zeros((1, 64, 24), np.float32), **weights)
    assert shapes.shape("y") == (BATCH, TOKENS, Size(24))
    assert shapes.shape("p") != (ONE, TOKENS, Size(24))  # there may be more tokens than positions


def test_a_sum_of_sizes_with_names_is_not_known(tmp_path: Path) -> None:
    body = "s = Shape(x)  b = Slice(s, zero, one)  c = Add(b, one)  y = ConstantOfShape(c)"
    shapes = followed(tmp_path, body, zero=np.array([0]), one=np.array([1]))
    assert shapes.content("c") == (None,)
    assert shapes.shape("y") not in (None, (BATCH,))
