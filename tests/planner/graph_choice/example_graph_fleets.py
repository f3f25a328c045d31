"""Hand-made machines that run a chain of nodes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from shoal.planner.graph_choice.fleet import NO_BYTES, GraphFleet, GraphWorkerClass, HeadBytes, ShardWork
from shoal.planner.graph_cut import CutPlace
from shoal.planner.speeds.speeds import LinkSpeed

FAST_LINK = LinkSpeed(latency_s=1e-5, bytes_per_s=1e10)
SLOW_LINK = LinkSpeed(latency_s=1e-3, bytes_per_s=1e7)


def make_graph_fleet(
    *speeds: float,
    counts: Sequence[int] | None = None,
    num_nodes: int = 12,
    node_s: float = 1e-3,
    memory_bytes: Sequence[int] | None = None,
    bytes_per_node: int = 1000,
    crossing_bytes: Sequence[int] | None = None,
    link: LinkSpeed = FAST_LINK,
    shard_work: ShardWork | None = None,
    rows: int = 1,
    head_bytes: HeadBytes = NO_BYTES,
    near: Collection[int] = (),
) -> GraphFleet:
    """Machines of a class each, `speeds` times as fast as one that takes `node_s` for a node."""
    crossing = [1000] * (num_nodes - 1) if crossing_bytes is None else crossing_bytes
    return GraphFleet(
        model="model.onnx",
        rows=rows,
        classes=tuple(
            GraphWorkerClass(
                name=f"m{index}",
                count=1 if counts is None else counts[index],
                threads=4,
                memory_bytes=1 << 30 if memory_bytes is None else memory_bytes[index],
                node_s=(node_s / speed,) * num_nodes,
            )
            for index, speed in enumerate(speeds)
        ),
        links=((link,) * len(speeds),) * len(speeds),
        places=tuple(CutPlace(node=node + 1, num_bytes=num_bytes) for node, num_bytes in enumerate(crossing)),
        weight_bytes=lambda first, last: (last - first) * bytes_per_node,
        shard_work=lambda num_shards: shard_work,
        head_bytes=head_bytes,
        near=frozenset(near),
    )
