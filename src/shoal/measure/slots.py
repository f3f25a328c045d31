"""Places for workers on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shoal.errors import ConfigError
from shoal.planner.split.cores import cores_by_node, deal_cores
from shoal.protocol.device_config import DeviceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A place for one worker. Raises ConfigError if it has neither cores nor a device, or an invalid quota."""

    cores: tuple[int, ...]
    """CPU ids to which it is pinned, with a thread on each. Empty for a device: not pinned, one thread."""
    cpu_quota: float = 1.0
    """Share of its cores' time that it may use, above 0, at most 1; enforced by a control group."""
    device: DeviceConfig | None = None
    """The device on which the worker computes; None: its cores."""
    python: str | None = None
    """Path of the Python that runs the worker; None: this one."""

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
        """The properties by which slots of one machine are equal."""
        return self.threads, self.cpu_quota, self.device

    def __str__(self) -> str:
        if self.device is not None:
            return self.device.name
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return threads if self.cpu_quota == 1 else f"{threads} at {self.cpu_quota:.0%}"


def even_layout(cores: Sequence[int], num_workers: int) -> tuple[Slot, ...]:
    """Slots for workers with equal numbers of cores, pinned as by `shoal run`.

    Raises:
        ConfigError: more workers than cores.
    """
    _, pinned = deal_cores(cores, num_workers, None)
    if num_workers > len(cores):
        raise ConfigError(f"{num_workers} workers cannot have a core each: there are {len(cores)}")
    return tuple(Slot(cores=own) for own in pinned)


def local_layouts(cores: Sequence[int], nodes: Iterable[Sequence[int]] = ()) -> tuple[tuple[Slot, ...], ...]:
    """Layouts of 1, 2, 4, ... workers, and one per core; on each NUMA node if there are several. No worker has cores of
    two nodes, as half of its reads would then be remote.

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
    """One slot of each kind, in the order of their first slots."""
    kinds: dict[tuple[int, float, DeviceConfig | None], Slot] = {}
    for slot in slots:
        kinds.setdefault(slot.kind, slot)
    return list(kinds.values())
