"""Layers are dealt to the stages of a pipeline as evenly as the memory of devices allows."""

from __future__ import annotations

import pytest

from shoal.core.plan.language import Block
from shoal.errors import CapacityError
from shoal.planner.split.device_layers import layers_that_fit
from shoal.protocol.device_config import DeviceConfig

KV_TOKENS = 10


def gpu(memory_bytes: int | None) -> DeviceConfig:
    return DeviceConfig(provider="cuda", memory_bytes=memory_bytes)


def blocks(num_layers: int = 8, *, weight_bytes: int = 4000) -> list[Block]:
    """A thousand weights each; 4 bytes a weight, or as many as are said."""

    def block(name: str, kv: int) -> Block:
        return Block(
            name=name,
            weight_bytes=weight_bytes,
            flops_per_token=2000.0,
            kv_bytes_per_token=kv,
            output_bytes_per_token=1,
        )

    return [block("embedding", 0), *(block(f"layer.{i}", 100) for i in range(num_layers)), block("head", 0)]


def test_nothing_is_bounded_where_no_device_is() -> None:
    assert layers_that_fit(blocks(), [[None], [gpu(None)]], KV_TOKENS) is None


def test_a_small_device_has_what_it_holds_and_the_processor_the_rest() -> None:
    assert layers_that_fit(blocks(), [[gpu(10_999)], [None]], KV_TOKENS) == (2, 6)
    assert layers_that_fit(blocks(), [[gpu(1 << 30)], [None]], KV_TOKENS) == (4, 4)


def test_keys_and_values_count_only_where_the_device_keeps_them() -> None:
    device = DeviceConfig(provider="openvino", memory_bytes=12_000)
    assert layers_that_fit(blocks(), [[gpu(12_000)], [None]], KV_TOKENS) == (2, 6)
    assert layers_that_fit(blocks(), [[device], [None]], KV_TOKENS) == (3, 5)


def test_the_last_stage_has_the_head_as_well() -> None:
    assert layers_that_fit(blocks(), [[None], [gpu(14_000)]], KV_TOKENS) == (6, 2)


def test_the_smallest_of_several_replicas_counts() -> None:
    assert layers_that_fit(blocks(), [[gpu(1 << 30), gpu(15_000)], [None, None]], KV_TOKENS) == (3, 5)


def test_weights_of_8_bits_are_held_in_fp32_and_those_of_4_bits_as_they_are() -> None:
    assert layers_that_fit(blocks(weight_bytes=1060), [[gpu(15_000)], [None]], KV_TOKENS) == (3, 5)
    assert layers_that_fit(blocks(weight_bytes=600), [[gpu(5_000)], [None]], KV_TOKENS) == (3, 5)


def test_devices_that_do_not_hold_it_say_how_much_they_hold() -> None:
    with pytest.raises(CapacityError, match=r"room for 2:1 of the 8 layers, of 5,000 bytes each"):
        layers_that_fit(blocks(), [[gpu(10_000)], [gpu(9_000)]], KV_TOKENS)
    with pytest.raises(CapacityError, match=r"room for 0:8 "):
        layers_that_fit(blocks(), [[gpu(100)], [None]], KV_TOKENS)
