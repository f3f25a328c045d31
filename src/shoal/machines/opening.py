"""The machines that `--cluster` means: those of a running Ray cluster, or only this one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shoal.machines.machines import Machines
from shoal.model.file_states import model_files

RAY = "ray"
"""The cluster name that means the running Ray cluster; any other name is that of a file."""


def open_machines(name: str | None) -> Machines | None:
    """The machines of the running Ray cluster for "ray"; None, which is this machine, otherwise. Raises ConfigError."""
    if name != RAY:
        return None
    from shoal.machines.ray.cluster import RayCluster  # Ray takes a second to import
    from shoal.machines.ray.model_machines import RayMachines

    return RayMachines(RayCluster())


class SharedMachines:
    """Opens machines for several models of this process, but enters the cluster only once. Must be closed."""

    def __init__(self) -> None:
        """Does not enter a cluster yet."""
        self._entered: Machines | None = None
        self._expected: dict[str, int] = {}

    def expect(self, places: Iterable[str | Path]) -> None:
        """Announce models that will be opened, so that earlier ones leave room for their weights. A place that is no
        file on this machine counts as 0 bytes."""
        for place in map(str, places):
            path = Path(place)
            files = model_files(path) if path.exists() else ()
            if num_bytes := sum(file.stat().st_size for file in files):
                self._expected[place] = num_bytes

    def open(self, name: str | None, place: str | Path) -> Machines | None:
        """See `open_machines`. The result is for the model at `place` and must be closed separately."""
        self._expected.pop(str(place), None)
        if name != RAY:
            return None
        if self._entered is None:
            self._entered = open_machines(name)
        assert self._entered is not None
        return self._entered.for_another_model(tuple(self._expected.values()))

    def close(self) -> None:
        """Leave the cluster; models that use the machines keep them. Idempotent."""
        if self._entered is not None:
            self._entered.close()

    def __enter__(self) -> SharedMachines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
