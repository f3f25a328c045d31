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
    from shoal.machines.ray.model_machines import RayMachines

    return RayMachines(RayCluster())


class SharedMachines:
    """Machines for the models of this process, one after the other: the cluster is entered once. Close it."""

    def __init__(self) -> None:
        """Enter nothing yet."""
        self._entered: Machines | None = None

    def open(self, name: str | None) -> Machines | None:
        """For one more model, to be closed by itself; see `open_machines`."""
        if name != RAY:
            return None
        if self._entered is None:
            self._entered = open_machines(name)
        assert self._entered is not None
        return self._entered.for_another_model()

    def close(self) -> None:
        """Enter nothing more; the models that use the machines go on. Idempotent."""
        if self._entered is not None:
            self._entered.close()

    def __enter__(self) -> SharedMachines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
