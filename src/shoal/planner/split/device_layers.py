"""Layers of each stage of a pipeline, where a device's memory holds fewer than its even share."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.plan.language import Block
from shoal.core.plan.share_rounding import round_shares
from shoal.errors import CapacityError
from shoal.protocol.device_config import DeviceConfig

_MOST_INT4_BYTES = 0.9
"""A weight, with scales and offsets; wider ones are held as fp32 on a device, which has no product for them."""
_FP32_BYTES = 4


def layers_that_fit(
    blocks: Sequence[Block], stages: Sequence[Sequence[DeviceConfig | None]], kv_tokens: int
) -> tuple[int, ...] | None:
    """Layers of each stage, as even as the memory of devices allows.

    Args:
        blocks: embedding, layers, head, with the bytes that a token of context takes in fp32.
        stages: the devices that have each stage, one a replica; None: a processor.
        kv_tokens: tokens of context that every stage keeps.

    Returns:
        None where no device bounds its memory.

    Raises:
        CapacityError: the devices and as many processors as there are do not hold all layers.
    """
    if not any(device and device.memory_bytes for devices in stages for device in devices):
        return None
    layers, head = blocks[1:-1], blocks[-1]
    layer_bytes = max(_device_bytes(layer) + kv_tokens * layer.kv_bytes_per_token for layer in layers)
    caps: list[int] = []
    for index, devices in enumerate(stages):
        beside = _device_bytes(head) if index == len(stages) - 1 else 0
        allowed = [device.memory_bytes for device in devices if device is not None and device.memory_bytes is not None]
        caps.append(min([len(layers), *(max(0, size - beside) // layer_bytes for size in allowed)]))
    if min(caps) < 1 or sum(caps) < len(layers):
        raise CapacityError(
            f"the stages have room for {':'.join(map(str, caps))} of the {len(layers)} layers, of {layer_bytes:,} "
            "bytes each with their KV cache; allow devices more with --device-memory, or take a smaller --kv-memory"
        )
    return round_shares(len(layers), [1.0] * len(caps), at_least=1, caps=caps)


def part_on_devices(blocks: Sequence[Block], device_blocks: Sequence[Block]) -> float:
    """The bytes that a model takes on processors over those that it takes on devices, at most 1: of weights or of keys
    and values, whichever grows more.

    Args:
        blocks: embedding, layers, head, as processors hold them.
        device_blocks: the same with the keys and values that devices have.
    """
    weights = sum(block.weight_bytes for block in blocks) / sum(map(_device_bytes, blocks))
    kv, device_kv = (sum(block.kv_bytes_per_token for block in each) for each in (blocks, device_blocks))
    return min(1.0, weights, kv / device_kv if device_kv else 1.0)


def _device_bytes(block: Block) -> int:
    """What a device holds of a block; of experts what a file does, whose weights a token meets in part."""
    if block.expert_bytes:
        return block.weight_bytes
    num_weights = block.flops_per_token / 2
    is_narrow = num_weights > 0 and block.weight_bytes / num_weights < _MOST_INT4_BYTES
    return block.weight_bytes if is_narrow else max(block.weight_bytes, round(_FP32_BYTES * num_weights))
