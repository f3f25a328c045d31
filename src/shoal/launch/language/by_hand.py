"""Plans for splits that the user gave."""

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
    """Cores and memory of machines, for a given split."""

    def cores(self) -> Sequence[MachineCores]:
        """The cores of each machine."""
        ...

    def free_memory_bytes(self) -> int:
        """The free memory of the machine with the least."""
        ...


def plan_by_hand(
    config: LaunchConfig, spec: SplitSpec, model: ModelOnDisk, precision: Precision, machines: RoomForWorkers | None
) -> Plan:
    """Make the plan of a split; several machines are treated as if all had the memory of the smallest.

    Args:
        config: the user's other options.
        spec: the split.
        model: the model to split.
        precision: the precision of its matrices.
        machines: the machines of the workers; None: this one.

    Raises:
        ConfigError: the model does not allow the split, or the threads are invalid.
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
    """Bytes of KV cache for a token of context in one replica."""
    return sum(block.kv_bytes_per_token for blocks in shards for block in blocks)


def _cores() -> list[int]:
    """CPU ids to use, ordered by NUMA node, so that as many workers as nodes get a node each."""
    cores = sorted(os.sched_getaffinity(0))
    return [core for group in cores_by_node(cores, node_cpus().values()) for core in group]


def chooses_devices(config: LaunchConfig) -> bool:
    """Whether `auto` chooses the devices: no device is named, or several without a split."""
    names = [name.strip().lower() for name in config.devices.names]
    return config.plan_file is None and config.split == AUTO and (names in ([], [AUTO_DEVICE]) or len(names) > 1)


def check_processors(config: LaunchConfig) -> None:
    """Check that no device is named for a model that runs only on processors. Raises ConfigError."""
    if config.devices.names not in ((), (CPU,)):
        raise ConfigError("a model with an encoder is computed on processors: leave --device out")


def check_choosable(config: LaunchConfig) -> None:
    """Check that `auto` has a choice, so that not just one device is named. Raises ConfigError."""
    if not chooses_devices(config) and config.devices.names not in ((), (CPU,)):
        raise ConfigError(
            f"--device {config.devices.names[0]} leaves nothing to choose; name the processor as well, such "
            f"as cpu,{config.devices.names[0]}, or auto for everything"
        )


def spec_for_devices(
    config: LaunchConfig, spec: SplitSpec | None, devices: Sequence[DeviceConfig | None]
) -> SplitSpec | None:
    """The split to plan if devices are named: a single device without a split gets the whole model.

    Args:
        config: the user's options.
        spec: the given split; None: `auto`, or a stored plan.
        devices: the named devices, one for all workers or one for each; empty: none.

    Raises:
        ConfigError: devices are named together with a stored plan.
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
    """The same pipeline with fewer layers on devices that hold fewer; None if nothing must change.

    Args:
        plan: the plan of the split.
        spec: the given split; layers that the user gave stay as they are.
        model: the model to split.
        devices: the named devices, one for all workers or one for each; empty: none.

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
