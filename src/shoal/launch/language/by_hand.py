"""A plan for a split that the user has said by hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from shoal.config import LaunchConfig
from shoal.core.plan.devices.device_text import AUTO as AUTO_DEVICE
from shoal.core.plan.devices.device_text import CPU
from shoal.core.plan.language import Block, Plan, held_bytes
from shoal.core.plan.state_room import num_state_slots
from shoal.errors import ConfigError
from shoal.measure.free_memory import free_memory_bytes
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import Precision
from shoal.planner.memory.plan_memory import default_kv_bytes, default_kv_tokens
from shoal.planner.split.cores import cores_by_node
from shoal.planner.split.device_layers import layers_that_fit
from shoal.planner.split.machine_places import MachineCores, place_on_machines
from shoal.planner.split.manual import plan_from_spec
from shoal.planner.split.shares import shard_parts
from shoal.planner.split.split_spec import AUTO, SplitSpec
from shoal.protocol.device_config import DeviceConfig
from shoal.protocol.stage_config import BLOCK_SIZE, ShardPart
from shoal.worker.memory_nodes import node_cpus


class RoomForWorkers(Protocol):
    """Machines as far as a split by hand must know them."""

    def cores(self) -> Sequence[MachineCores]:
        """Of each machine."""
        ...

    def free_memory_bytes(self) -> int:
        """Of the machine with the least."""
        ...


def plan_by_hand(
    config: LaunchConfig, spec: SplitSpec, model: ModelOnDisk, precision: Precision, machines: RoomForWorkers | None
) -> Plan:
    """Spell a split out; on several machines as if all had the memory of the smallest.

    Args:
        config: what else the user asked for.
        spec: the split.
        model: what is split.
        precision: of its matrices.
        machines: where the workers run; None: on this machine.

    Raises:
        ConfigError: the model does not allow the split, or the threads make no sense.
        CapacityError: there is too little memory for one KV block.
    """
    parts: Sequence[ShardPart] = (model.whole,)
    if spec.num_shards > 1:
        parts = shard_parts(model.atoms, spec.shares, expert_shares=spec.expert_shares)
    exact = config.exact_activations
    shards = [model.blocks(precision, part, exact_activations=exact) for part in parts]
    max_context = model.longest_context(config.max_context)
    kv_memory_bytes = config.kv_memory_bytes
    if kv_memory_bytes is None:
        available_bytes = free_memory_bytes() if machines is None else _memory_of(machines, spec)
        every = [block for blocks in shards for block in blocks]
        state_bytes = num_state_slots(every, config.max_seqs) * sum(block.state_bytes for block in every)
        kv_memory_bytes = default_kv_bytes(
            default_kv_tokens(config.max_seqs, max_context),
            _kv_bytes_per_token(shards),
            num_replicas=spec.num_replicas,
            free_bytes=available_bytes - spec.num_replicas * (sum(map(held_bytes, shards)) + state_bytes),
        )
    plan = plan_from_spec(
        model=config.model,
        shard_blocks=shards,
        parts=parts,
        spec=spec,
        precision=precision,
        threads=config.threads,
        cores=_cores(),
        kv_memory_bytes=kv_memory_bytes,
        block_size=BLOCK_SIZE,
        max_context=max_context,
        max_seqs=config.max_seqs,
        max_step_tokens=config.max_step_tokens,
    )
    plan = replace(plan, exact_activations=exact)
    return plan if machines is None else place_on_machines(plan, machines.cores(), config.threads)


def _memory_of(machines: RoomForWorkers, spec: SplitSpec) -> int:
    return machines.free_memory_bytes() * min(len(machines.cores()), spec.num_workers)


def _kv_bytes_per_token(shards: Sequence[Sequence[Block]]) -> int:
    """Bytes of KV cache that a token of context takes in one replica."""
    return sum(block.kv_bytes_per_token for blocks in shards for block in blocks)


def _cores() -> list[int]:
    """CPU ids to use, NUMA node by node: as many workers as nodes have a node each."""
    cores = sorted(os.sched_getaffinity(0))
    return [core for group in cores_by_node(cores, node_cpus().values()) for core in group]


def chooses_devices(config: LaunchConfig) -> bool:
    """Whether `auto` is to decide what computes: where nothing is named, or more than one thing without a split."""
    names = [name.strip().lower() for name in config.devices.names]
    return config.plan_file is None and config.split == AUTO and (names in ([], [AUTO_DEVICE]) or len(names) > 1)


def check_processors(config: LaunchConfig) -> None:
    """Raises ConfigError where a device is named for a model that only processors compute."""
    if config.devices.names not in ((), (CPU,)):
        raise ConfigError("a model with an encoder is computed on processors: leave --device out")


def check_choosable(config: LaunchConfig) -> None:
    """Raises ConfigError where one device is named, so that `auto` has nothing to choose."""
    if not chooses_devices(config) and config.devices.names not in ((), (CPU,)):
        raise ConfigError(
            f"--device {config.devices.names[0]} leaves nothing to choose; name the processor as well, such "
            f"as cpu,{config.devices.names[0]}, or auto for everything"
        )


def spec_for_devices(
    config: LaunchConfig, spec: SplitSpec | None, devices: Sequence[DeviceConfig | None]
) -> SplitSpec | None:
    """The split to spell out, where devices are named: one device without a split has the whole model.

    Args:
        config: what the user asked for.
        spec: that was said; None: `auto`, or a stored plan.
        devices: that were named, one for all workers or one for each; empty: none.

    Raises:
        ConfigError: they are named beside a stored plan.
    """
    if spec is not None or not devices:
        return spec
    if config.plan_file is not None:
        raise ConfigError(
            f"{config.plan_file} already names the devices; leave out --device and the options that belong to it"
        )
    return SplitSpec() if devices[0] is not None else None


def spec_that_fits(
    plan: Plan, spec: SplitSpec, model: ModelOnDisk, devices: Sequence[DeviceConfig | None]
) -> SplitSpec | None:
    """The same pipeline with fewer layers on devices that hold fewer; None: it is as it should be.

    Args:
        plan: the split as it was spelled out.
        spec: what was said; layers that the user has said stay as they are.
        model: what is split.
        devices: that were named, one for all workers or one for each; empty: none.

    Raises:
        CapacityError: the devices and processors do not hold all layers.
    """
    if spec.num_stages == 1 or spec.num_shards > 1 or spec.stage_layers is not None or not any(devices):
        return None
    each = list(devices) * plan.num_workers if len(devices) == 1 else list(devices)
    stages = [each[stage :: spec.num_stages] for stage in range(spec.num_stages)]
    kv_tokens = max(replica.num_blocks for replica in plan.replicas) * plan.block_size
    layers = layers_that_fit(model.blocks(plan.precision, exact_activations=True), stages, kv_tokens)
    return None if layers is None else replace(spec, stage_layers=layers)
