"""Reads a node's attributes, and lists of numbers that newer operator sets have as inputs instead."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx.helper import get_attribute_value

from shoal.model.graph.tensor_parallel.shapes.constants import ConstantValues

DEFAULT_DOMAINS = ("", "ai.onnx")


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute."""
    return next((found.i for found in node.attribute if found.name == name), default)


def number(node: onnx.NodeProto, name: str, default: float) -> float:
    """A float attribute."""
    return next((found.f for found in node.attribute if found.name == name), default)


def text(node: onnx.NodeProto, name: str, default: str) -> str:
    """A string attribute."""
    return next((found.s.decode() for found in node.attribute if found.name == name), default)


def integers(node: onnx.NodeProto, name: str) -> list[int] | None:
    """A list attribute; None where it is absent."""
    return next((list(get_attribute_value(found)) for found in node.attribute if found.name == name), None)


def input_name(node: onnx.NodeProto, index: int) -> str:
    """Name of an input that may be left out; then empty."""
    return node.input[index] if index < len(node.input) else ""


def listed(node: onnx.NodeProto, name: str, index: int, constants: ConstantValues) -> list[int] | None:
    """A list of integers, which is an attribute in old operator sets and an input in new ones.

    Returns:
        None if it is left out or known only in a run; `is_open` tells which.
    """
    source = input_name(node, index)
    if not source:
        return integers(node, name)
    array = constants.array(source)
    return None if array is None else [int(value) for value in array.reshape(-1)]


def is_open(node: onnx.NodeProto, index: int, constants: ConstantValues) -> bool:
    """Whether an input exists whose value is known only in a run."""
    source = input_name(node, index)
    return bool(source) and constants.array(source) is None


def from_front(axis: int, rank: int) -> int:
    """An axis counted from the front, given one that may count from the end."""
    return axis + rank if axis < 0 else axis


def moved_axis(axis: int, removed: Sequence[int]) -> int:
    """The number of an axis after others, counted from the front, are removed."""
    return axis - sum(other < axis for other in removed)
