"""Which machines `--cluster` means: those of a running Ray cluster, or this one alone."""

from __future__ import annotations

from shoal.machines.machines import Machines

RAY = "ray"
"""As the name of a cluster: the machines of the running Ray cluster; any other is the name of a file."""


def open_machines(name: str | None) -> Machines | None:
    """`ray`: those of the running Ray cluster. None, or the name of a file: this machine alone. Raises ConfigError."""
    if name != RAY:
        return None
    from shoal.machines.ray.cluster import RayCluster  # Ray takes a second to import

    return RayCluster()
