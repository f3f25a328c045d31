"""Hand-made speeds of graphs."""

from __future__ import annotations

from shoal.planner.graph_choice.speeds import GraphSpeeds, LayoutSpeed, ShardSpeed
from shoal.planner.graph_cut import CutPlace

MS = 1e-3


def layout(num_workers: int, threads: int, compute_s: float, *, lone_s: float | None = None) -> LayoutSpeed:
    """A worker's turn takes 0.2 ms, a message 0.5 ms; by itself it is as fast as among the others, or as `lone_s`."""
    lone_compute_s = compute_s if lone_s is None else lone_s
    return LayoutSpeed(
        num_workers=num_workers,
        threads=threads,
        lone_compute_s=lone_compute_s,
        lone_s=lone_compute_s + 0.5 * MS,
        compute_s=compute_s,
        period_s=compute_s + 0.2 * MS,
    )


def make_speeds(
    *layouts: LayoutSpeed,
    node_s: tuple[float, ...] = (1.0,) * 12,
    num_bytes: int = 1000,
    available_bytes: int = 1 << 30,
    bytes_per_node: int = 1000,
    shards: dict[int, ShardSpeed | str] | None = None,
    rows: int = 1,
) -> GraphSpeeds:
    """A chain of nodes that can be cut everywhere; several shards halve the time per doubling, with 20 % lost."""
    counts = [one.num_workers for one in layouts if one.num_workers > 1]
    usual = {count: ShardSpeed(relative=1.2 / count, weight_share=1.0) for count in counts}
    return GraphSpeeds(
        model="model.onnx",
        rows=rows,
        num_cores=max(one.num_workers * one.threads for one in layouts),
        num_nodes=len(node_s),
        available_bytes=available_bytes,
        weight_bytes=lambda first, last: (last - first) * bytes_per_node,
        node_s={one.threads: node_s for one in layouts},
        places=tuple(CutPlace(node=node, num_bytes=num_bytes) for node in range(1, len(node_s))),
        layouts=layouts,
        shards=usual if shards is None else shards,
    )
