"""Roofline for a described machine: every node takes the longer one of its arithmetic and its memory traffic.

Source: Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009; see `planner.speeds.roofline`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from shoal.planner.speeds.roofline import RooflineRates

NODE_START_S = 5e-6
"""Seconds to start a node's kernel, which no description states. Source: bound runs of ONNX Runtime, 2 to 6 us
(docs/design.md)."""

Arithmetic = Literal["fp32", "int8", "int4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSize:
    """The work of one node of a graph for a micro-batch."""

    flops: float
    """Floating-point operations, 2 per multiply-add; 0 for everything but products and convolutions."""
    num_bytes: float
    """Bytes of weights and values that it reads and of values that it writes."""
    arithmetic: Arithmetic = "fp32"
    """The kind of arithmetic, which selects the rate of its products."""


def roofline_nodes(sizes: Iterable[NodeSize], rates: dict[Arithmetic, RooflineRates]) -> tuple[float, ...]:
    """Seconds of each node; 0 for nodes without work (constants and unused ones).

    Args:
        sizes: the sizes of the nodes, in the file's order.
        rates: the worker's rates by arithmetic.
    """
    return tuple(_node_s(size, rates[size.arithmetic]) for size in sizes)


def _node_s(size: NodeSize, rates: RooflineRates) -> float:
    if not size.flops and not size.num_bytes:
        return 0.0
    return NODE_START_S + max(size.flops / rates.flops_per_s, size.num_bytes / rates.memory_bytes_per_s)
