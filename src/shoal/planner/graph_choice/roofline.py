"""The speed of a machine that is only described: every node as slow as the slower of its arithmetic and its memory.

Source: Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009; see `planner.speeds.roofline`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from shoal.planner.speeds.roofline import RooflineRates

NODE_START_S = 5e-6
"""Of one node's kernel, which no description tells. Source: ONNX Runtime's bound runs, 2 to 6 us (docs/design.md)."""

Arithmetic = Literal["fp32", "int8", "int4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSize:
    """What one node of a graph does for a micro-batch."""

    flops: float
    """2 per multiply-add; 0 for everything but products and convolutions"""
    num_bytes: float
    """of weights and values that it reads, and values that it writes"""
    arithmetic: Arithmetic = "fp32"
    """by which rate its products go"""


def roofline_nodes(sizes: Iterable[NodeSize], rates: dict[Arithmetic, RooflineRates]) -> tuple[float, ...]:
    """Seconds of each node. Nodes that do nothing (constants, what nobody reads) take none.

    Args:
        sizes: of the nodes, in the file's order.
        rates: of the worker, by arithmetic.
    """
    return tuple(_node_s(size, rates[size.arithmetic]) for size in sizes)


def _node_s(size: NodeSize, rates: RooflineRates) -> float:
    if not size.flops and not size.num_bytes:
        return 0.0
    return NODE_START_S + max(size.flops / rates.flops_per_s, size.num_bytes / rates.memory_bytes_per_s)
