from dataclasses import replace

import pytest

from shoal.core.plan.language import Block
from shoal.planner.speeds.roofline import START_S, RooflineRates, roofline_worker
from shoal.planner.speeds.step_points import LayerWeights


def block(name: str, weight_bytes: int, flops: float, kv_bytes: int = 0) -> Block:
    return Block(
        name=name,
        weight_bytes=weight_bytes,
        flops_per_token=flops,
        kv_bytes_per_token=kv_bytes,
        output_bytes_per_token=4,
    )


BLOCKS = [block("embedding", 100, 0), *[block(f"layer.{i}", 4000, 800, 20) for i in range(3)], block("head", 1000, 500)]
RATES = RooflineRates(memory_bytes_per_s=1000, flops_per_s=100)
SPEED = roofline_worker(BLOCKS, LayerWeights(mlp=0.75, behind_attention=0.8), RATES, query_width=10)


def test_few_rows_take_as_long_as_reading_the_weights():
    assert SPEED.mlp.decode.at(1) == pytest.approx(6.0)  # 3 s of reading, 600 / 100 s of arithmetic
    fast = roofline_worker(
        BLOCKS,
        LayerWeights(mlp=0.75, behind_attention=0.8),
        RooflineRates(memory_bytes_per_s=1000, flops_per_s=1e6),
        query_width=10,
    )
    assert [fast.mlp.decode.at(rows) for rows in (1, 100)] == pytest.approx([3.0, 3.0])
    assert fast.attention.decode.at(1) == pytest.approx(1.0)
    assert fast.head.decode.at(1) == pytest.approx(1.0)


def test_many_rows_take_as_long_as_their_arithmetic():
    assert SPEED.attention.prefill.at(512) == pytest.approx(512 * 200 / 100)
    assert SPEED.head.decode.at(64) == pytest.approx(64 * 5.0)


def test_the_bend_is_a_point_of_the_curve():
    rates = RooflineRates(memory_bytes_per_s=1000, flops_per_s=100 * 700)
    speed = roofline_worker(BLOCKS, LayerWeights(mlp=0.75, behind_attention=0.8), rates, query_width=10)
    assert speed.mlp.decode.at(350) == pytest.approx(3.0)  # as much arithmetic as reading
    assert speed.mlp.decode.at(700) == pytest.approx(6.0)


def test_context_is_read_or_computed_whichever_is_slower():
    assert SPEED.decode_context.at(1) == pytest.approx(4 * 10 / 100)
    assert SPEED.decode_context.at(8) == pytest.approx(8 * 0.4)
    rates = RooflineRates(memory_bytes_per_s=1000, flops_per_s=1e9)
    speed = roofline_worker(BLOCKS, LayerWeights(mlp=0.75, behind_attention=0.8), rates, query_width=10)
    assert speed.decode_context.at(1) == pytest.approx(20 / 1000)


def test_every_block_starts_its_kernels():
    assert (SPEED.attention.fixed_s, SPEED.mlp.fixed_s, SPEED.head.fixed_s, SPEED.step_s) == (START_S,) * 4


def test_more_rows_read_more_experts():
    """A token reads an eighth of the experts; many tokens read nearly all of them."""
    dense = Block(
        name="layer.0", weight_bytes=1000, flops_per_token=1.0, kv_bytes_per_token=1, output_bytes_per_token=1
    )
    layer = replace(dense, expert_bytes=800, expert_share=1 / 8)
    assert layer.read_bytes(1) == pytest.approx(200 + 100)
    assert layer.read_bytes(2) == pytest.approx(200 + 800 * (1 - 49 / 64))
    assert layer.read_bytes(100) == pytest.approx(1000, rel=1e-5)
    assert dense.read_bytes(1) == dense.read_bytes(100) == 1000
    rates = RooflineRates(memory_bytes_per_s=1000.0, flops_per_s=1e12)
    speed = roofline_worker(
        [BLOCKS[0], layer, BLOCKS[-1]], LayerWeights(mlp=0.5, behind_attention=0.8), rates, query_width=1
    )
    assert speed.attention.decode.at(1) == pytest.approx(0.15)
    assert speed.mlp.decode.at(1) == pytest.approx(0.15)
    assert speed.mlp.decode.at(1024) == pytest.approx(1.0 - 0.15)
