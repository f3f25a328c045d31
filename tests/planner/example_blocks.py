"""A made-up model for planner tests."""

from __future__ import annotations

from shoal.core.plan.language import Block


def make_blocks(
    *,
    num_layers: int = 30,
    layer_flops: float = 10.0,
    head_flops: float = 0.0,
    layer_bytes: int = 100,
    kv_bytes: int = 2,
    end_bytes: int = 50,
) -> list[Block]:
    """Embedding and head weigh `end_bytes` each; only layers keep KV."""

    def block(name: str, weight_bytes: int, flops: float, kv: int) -> Block:
        return Block(
            name=name,
            weight_bytes=weight_bytes,
            flops_per_token=flops,
            kv_bytes_per_token=kv,
            output_bytes_per_token=8,
        )

    layers = [block(f"layer.{i}", layer_bytes, layer_flops, kv_bytes) for i in range(num_layers)]
    return [block("embedding", end_bytes, 0.0, 0), *layers, block("head", end_bytes, head_flops, 0)]
