"""Layers of each stage of a pipeline if the memory of a device holds fewer than its even share."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.core.plan.devices.providers import PROVIDERS
from shoal.core.plan.language import Block, ReplicaPlan
from shoal.core.plan.share_rounding import round_shares
from shoal.errors import CapacityError
from shoal.protocol.device_config import DeviceConfig, FloatPrecision

_MOST_INT4_BYTES = 0.9
"""The most bytes of a 4-bit weight with scales and offsets. Larger weights count as floats, although some devices
multiply 8 bits directly."""
_FLOAT_BYTES = {"fp32": 4, "fp16": 2}


def layers_that_fit(
    blocks: Sequence[Block], stages: Sequence[Sequence[DeviceConfig | None]], kv_tokens: int
) -> tuple[int, ...] | None:
    """Layers of each stage, as even as the memory of devices allows.

    Args:
        blocks: embedding, layers and head, with the KV bytes of a token in fp32.
        stages: for each stage, the devices that have it, one per replica; None: a processor.
        kv_tokens: tokens of context that every stage holds.

    Returns:
        Layers of each stage; None if no device limits its memory.

    Raises:
        CapacityError: the devices and processors together do not hold all layers.
    """
    if not _bounded(stages):
        return None
    num_layers, caps = len(blocks) - 2, _room(blocks, stages, kv_tokens)
    if min(caps) < 1 or sum(caps) < num_layers:
        raise CapacityError(
            f"the stages have room for {':'.join(map(str, caps))} of the {num_layers} layers, of "
            f"{max(_layer_bytes(blocks, kv_tokens, device) for device in _bounded(stages)):,} bytes each with their KV "
            "cache where the device keeps one; allow devices more "
            "with --device-memory, or take a smaller --kv-memory"
        )
    return round_shares(num_layers, [1.0] * len(caps), at_least=1, caps=caps)


def devices_hold(replica: ReplicaPlan, layers: Sequence[int], blocks: Sequence[Block], *, block_size: int) -> bool:
    """Whether the devices of a planned pipeline have room for other layers with the same KV blocks.

    Args:
        replica: a pipeline with one worker in each stage.
        layers: the number of layers that each stage would have.
        blocks: embedding, layers and head, with the KV bytes of a token in fp32.
        block_size: tokens in a KV block.
    """
    devices = [[shard.device for shard in stage.shards] for stage in replica.stages]
    room = _room(blocks, devices, replica.num_blocks * block_size)
    return all(count <= most for count, most in zip(layers, room, strict=True))


def _room(blocks: Sequence[Block], stages: Sequence[Sequence[DeviceConfig | None]], kv_tokens: int) -> list[int]:
    """The most layers that each stage may have."""
    num_layers, head = len(blocks) - 2, blocks[-1]
    room = [num_layers] * len(stages)
    for index, devices in enumerate(stages):
        for device in devices:
            if device is not None and device.memory_bytes is not None:
                beside = _device_bytes(head, device.precision) if index == len(stages) - 1 else 0
                left = max(0, device.memory_bytes - beside)
                room[index] = min(room[index], left // _layer_bytes(blocks, kv_tokens, device))
    return room


def _layer_bytes(blocks: Sequence[Block], kv_tokens: int, device: DeviceConfig) -> int:
    """Bytes of the largest layer on a device, including its KV cache unless the processor keeps that."""
    kept = kv_tokens if PROVIDERS[device.provider].keeps_values else 0
    precision = device.precision
    return max(_device_bytes(layer, precision) + kept * _kv_bytes(layer, precision) for layer in blocks[1:-1])


def part_on_devices(
    blocks: Sequence[Block], device_blocks: Sequence[Block], precision: FloatPrecision = "fp32"
) -> float:
    """The ratio of a model's bytes on processors to those on devices, at most 1: for weights or for keys and values,
    whichever grow more.

    Args:
        blocks: embedding, layers and head, as processors hold them.
        device_blocks: the same with keys and values in fp32.
        precision: the precision of floats on devices.
    """
    weights = sum(block.weight_bytes for block in blocks) / sum(_device_bytes(block, precision) for block in blocks)
    kv = sum(block.kv_bytes_per_token for block in blocks)
    device_kv = sum(_kv_bytes(block, precision) for block in device_blocks)
    return min(1.0, weights, kv / device_kv if device_kv else 1.0)


def _bounded(stages: Sequence[Sequence[DeviceConfig | None]]) -> list[DeviceConfig]:
    """The devices with a memory limit."""
    return [device for devices in stages for device in devices if device and device.memory_bytes]


def _kv_bytes(block: Block, precision: FloatPrecision) -> int:
    """KV bytes of a token on a device. `block`: with keys and values in fp32."""
    return block.kv_bytes_per_token * _FLOAT_BYTES[precision] // _FLOAT_BYTES["fp32"]


def _device_bytes(block: Block, precision: FloatPrecision) -> int:
    """Bytes of a block on a device. Experts, of which a token uses only some, keep their bytes in the file."""
    if block.expert_bytes:
        return block.weight_bytes
    num_weights = block.flops_per_token / 2
    is_narrow = num_weights > 0 and block.weight_bytes / num_weights < _MOST_INT4_BYTES
    if is_narrow or not num_weights:
        return block.weight_bytes
    floats = round(_FLOAT_BYTES[precision] * num_weights)
    return floats if precision == "fp16" else max(block.weight_bytes, floats)
