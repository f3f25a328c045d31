"""Where workers may sit on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shoal.errors import ConfigError
from shoal.planner.split.cores import cores_by_node, deal_cores
from shoal.protocol.device_config import DeviceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Place for one worker. Raises ConfigError for one without cores or with an impossible quota."""

    cores: tuple[int, ...]
    """CPU ids that it is pinned to; a thread on each. Empty: one on a device is not pinned, and has one thread"""
    cpu_quota: float = 1.0
    """part of its cores' time that it may have, above 0, to 1; kept by a control group"""
    device: DeviceConfig | None = None
    """what the worker computes on; None: its cores"""
    python: str | None = None
    """path of the Python that runs the worker; None: this one"""

    def __post_init__(self) -> None:
        if not self.cores and self.device is None:
            raise ConfigError("a worker needs at least one core")
        if not 0 < self.cpu_quota <= 1:
            raise ConfigError(f"a CPU quota of {self.cpu_quota:g} is not above 0 and at most 1")

    @property
    def threads(self) -> int:
        return len(self.cores) or 1

    @property
    def kind(self) -> tuple[int, float, DeviceConfig | None]:
        """What makes slots of one machine alike."""
        return self.threads, self.cpu_quota, self.device

    def __str__(self) -> str:
        if self.device is not None:
            return self.device.name
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return threads if self.cpu_quota == 1 else f"{threads} at {self.cpu_quota:.0%}"


def even_layout(cores: Sequence[int], num_workers: int) -> tuple[Slot, ...]:
    """Workers with equal numbers of the cores, pinned as `shoal run` pins them.

    Raises:
        ConfigError: more workers than cores.
    """
    _, pinned = deal_cores(cores, num_workers, None)
    if num_workers > len(cores):
        raise ConfigError(f"{num_workers} workers cannot have a core each: there are {len(cores)}")
    return tuple(Slot(cores=own) for own in pinned)


def local_layouts(cores: Sequence[int], nodes: Iterable[Sequence[int]] = ()) -> tuple[tuple[Slot, ...], ...]:
    """1, 2, 4, ... workers, and as many as there are cores; on every NUMA node, where there are several: no worker has
    cores of two, since all that it reads would come half from far away.

    Args:
        cores: CPU ids to use, ascending.
        nodes: CPU ids of each node.
    """
    groups = cores_by_node(cores, nodes)
    most = max(map(len, groups))
    counts = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return tuple(
        tuple(slot for group in groups for slot in even_layout(group, min(count, len(group))))
        for count in (*counts, most)
    )


def kinds_of(slots: Sequence[Slot]) -> list[Slot]:
    """One slot of each kind, in the order in which they first come."""
    kinds: dict[tuple[int, float, DeviceConfig | None], Slot] = {}
    for slot in slots:
        kinds.setdefault(slot.kind, slot)
    return list(kinds.values())
