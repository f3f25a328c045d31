"""Matrix products: rows of the batch may be matrix rows, columns, or whole matrices, but must not be summed over."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from shoal.model.graph.row_proof.kinds import SHARED, Kind, Mixing, Rows
from shoal.model.graph.row_proof.walk import Walk, attribute_text, check_single
from shoal.model.graph.tensor_parallel.shapes.nodes import attribute, input_name
from shoal.model.graph.tensor_parallel.shapes.sizes import ONE

_SUMMED = "a product sums over the rows"


def matmul(walk: Walk, node: onnx.NodeProto) -> Kind:
    """As NumPy's `matmul`; further inputs, such as zero points, are shared numbers."""
    check_numbers(walk, node.input[2:])
    return product(walk, node.input[0], node.input[1], 0, 0)


def fused_matmul(walk: Walk, node: onnx.NodeProto) -> Kind:
    """As `matmul`, with either factor transposed."""
    if attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
        raise Mixing("FusedMatMul moves the batch")
    return product(walk, node.input[0], node.input[1], attribute(node, "transA", 0), attribute(node, "transB", 0))


def quantized_matmul(walk: Walk, node: onnx.NodeProto) -> Kind:
    """QLinearMatMul: each factor is followed by its scale and zero point."""
    names = node.input
    check_numbers(walk, [names[1], names[2], names[6], names[7]])
    walk.check_shared(names[4:6], "a scale")
    return product(walk, names[0], names[3], 0, 0)


def block_product(walk: Walk, node: onnx.NodeProto) -> Kind:
    """A product with packed blocks, which sums over the last axis."""
    rows = walk.plain_rows(node.input[0])
    walk.check_shared(node.input[1:], "a weight")
    if rows is None:
        return SHARED
    if rows.axis == rows.rank - 1:
        raise Mixing(_SUMMED)
    return rows


def gemm(walk: Walk, node: onnx.NodeProto) -> Kind:
    """A product of two matrices, plus a third term."""
    found = product(walk, node.input[0], node.input[1], attribute(node, "transA", 0), attribute(node, "transB", 0))
    term = input_name(node, 2)
    rows = walk.plain_rows(term) if term else None
    if rows is not None and not (isinstance(found, Rows) and rows.place == found.place):
        raise Mixing("rows meet along different axes")
    if term and rows is None and isinstance(found, Rows):
        check_single(walk, [term], found)
    return found


def check_numbers(walk: Walk, names: Iterable[str]) -> None:
    """Raises Mixing unless each value is one shared number."""
    names = list(names)
    walk.check_shared(names, "a scale")
    for name in names:
        if name and walk.shape(name) not in ((), (ONE,)):
            raise Mixing("there may be a scale for each place in the batch")


def product(walk: Walk, left: str, right: str, turns_left: int, turns_right: int) -> Kind:
    """Where the rows of a product are."""
    a, b = _turned(walk, left, turns_left), _turned(walk, right, turns_right)
    left_rank, right_rank = walk.rank(left), walk.rank(right)
    if a is None and b is None:
        return SHARED
    if (a is not None and a.axis == a.rank - 1) or (b is not None and b.axis == max(b.rank - 2, 0)):
        raise Mixing(_SUMMED)
    rank = max(left_rank, right_rank)
    if a is not None and a.from_end == 2 and b is None:
        return a.at(rank - 2, rank) if right_rank > 1 else a.at(a.axis, a.rank - 1)
    if b is not None and b.from_end == 1 and a is None:
        return b.at(rank - 1, rank) if left_rank > 1 else b.at(b.rank - 2, b.rank - 1)
    first = a or b
    assert first is not None
    if first.from_end < 3 or (a is not None and b is not None and a.place != b.place):
        raise Mixing("each row meets all rows")
    check_single(walk, [name for name, rows in ((left, a), (right, b)) if rows is None], first)
    lost = (left_rank == 1) + (right_rank == 1)
    return first.at(rank - first.from_end, rank - lost)


def _turned(walk: Walk, name: str, turns: int) -> Rows | None:
    """The rows of a factor whose last two axes may be exchanged."""
    rows = walk.plain_rows(name)
    if rows is None or not turns or rows.rank < 2 or rows.from_end > 2:
        return rows
    return rows.at(rows.rank - 3 + rows.from_end, rows.rank)


def einsum(walk: Walk, node: onnx.NodeProto) -> Kind:
    """The batch's letter must be in the result, and must stand for the same rows in every operand."""
    terms, _, result = attribute_text(node, "equation").replace(" ", "").partition("->")
    operands = terms.split(",")
    if "." in terms or not result or len(operands) != len(node.input):
        raise Mixing("an Einsum leaves open where its axes go")
    found = [walk.plain_rows(name) for name in node.input]
    letters = {operand[rows.axis] for operand, rows in zip(operands, found, strict=True) if rows is not None}
    if not letters:
        return SHARED
    if len(letters) > 1:
        raise Mixing("each row meets all rows")
    (letter,) = letters
    rows = [one for one in found if one is not None]
    if any((one.before, one.after) != (rows[0].before, rows[0].after) for one in rows):
        raise Mixing("rows meet along different axes")
    if any(operand.count(letter) != (one is not None) for operand, one in zip(operands, found, strict=True)):
        raise Mixing("there may be an entry for each place in the batch")
    if result.count(letter) != 1:
        raise Mixing(_SUMMED)
    return rows[0].at(result.index(letter), len(result))
