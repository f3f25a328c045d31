"""Reading a cluster file, and the places of its workers, for every kind of model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from shoal.core.plan.placement import WorkerPlacement
from shoal.planner.files.cluster_file import ClusterFile, DescribedMachine, parse_cluster_file

_MAX_BYTES = 1 << 24
"""The largest cluster file. A judgment: a hundred thousand machines with an entry each."""


def read_cluster_file(name: str, *, is_whole: bool = True) -> ClusterFile:
    """Read a cluster file, see `parse_cluster_file`. Raises ConfigError if it is missing or invalid."""
    from shoal.planner.files.yaml_text import read_small_text  # imports PyYAML, which is needed only for such files

    text = read_small_text(Path(name), max_bytes=_MAX_BYTES, holder="description of machines")
    return parse_cluster_file(text, name, is_whole=is_whole)


def places_of(machine: DescribedMachine) -> Iterator[WorkerPlacement]:
    """The places of the workers of one entry, one on each machine."""
    device = machine.device_config
    if machine.is_local:
        cores = machine.cpus or ()
        yield WorkerPlacement(
            threads=len(cores) or 1, cores=cores, cpu_quota=machine.cpu_quota, device=device, python=machine.python
        )
        return
    for number in range(machine.count):
        name = machine.name if machine.count == 1 else f"{machine.name}-{number}"
        yield WorkerPlacement(threads=machine.cores or 1, cores=(), machine=name, device=device)
