"""Machines in virtual time, one for each worker, that leave and return; core/membership decides what follows."""

from __future__ import annotations

from functools import lru_cache

from shoal.core.membership import ClusterMembership, MachinesSeen, ReplicaSeen, ReplicasSeen, Restore
from shoal.core.recovery.recovery import RecoveryStats
from shoal.core.recovery.worker_life import Phase

LOOK_S = 0.25
"""Seconds between two polls of the machines."""
PROBE_S = 0.1
"""Seconds after which a machine that accepts no connections is given up."""


class VirtualMachines:
    """Tells which workers can be started, and polls machines like a server's second thread."""

    def __init__(self) -> None:
        self._gone: set[tuple[int, int]] = set()
        """(replica, worker) of the workers whose machines have left."""
        self._back: list[str] = []
        """Machines that have returned since the latest poll."""
        self._membership = ClusterMembership({}, uses_new=False)
        self.changing: set[int] = set()
        """Replicas that are being restored."""

    def leave(self, replica: int, worker: int) -> None:
        """Note that a machine is gone."""
        self._gone.add((replica, worker))

    def come_back(self, replica: int, worker: int) -> None:
        """Note that a machine has returned."""
        if (replica, worker) in self._gone:
            self._gone.discard((replica, worker))
            self._back.append(_name(replica, worker))

    def unreachable(self, replica: int, num_workers: int, without: int | None) -> int | None:
        """A worker of a replica whose machine is gone, except the one that is left out; None: there is none."""
        seats = (worker for worker in range(num_workers) if worker != without)
        return next((worker for worker in seats if (replica, worker) in self._gone), None)

    def look(self, sizes: list[int], stats: RecoveryStats, now_s: float) -> list[int]:
        """Poll the machines, then read the replicas. Returns the replicas to restore.

        Args:
            sizes: planned workers of each replica.
            stats: the recovery of the replicas.
            now_s: the time.
        """
        machines = _names(tuple(sizes))
        gone = {_name(*seat) for seat in self._gone}
        living = frozenset[str]().union(*machines) - gone
        joined, self._back = tuple(self._back), []
        self._membership.handle(MachinesSeen(joined=joined, living=living), now_s)
        replicas = tuple(
            ReplicaSeen(
                machines=machines[index],
                is_whole=not stats.reduced[index] and phase is not Phase.GIVEN_UP,
                is_changing=index in self.changing,
            )
            for index, phase in enumerate(stats.phases)
        )
        effects = self._membership.handle(ReplicasSeen(replicas=replicas), now_s)
        return [effect.replica for effect in effects if isinstance(effect, Restore)]


@lru_cache(maxsize=1)
def _names(sizes: tuple[int, ...]) -> list[frozenset[str]]:
    """The names of the machines of each replica."""
    return [frozenset(_name(replica, worker) for worker in range(size)) for replica, size in enumerate(sizes)]


def _name(replica: int, worker: int) -> str:
    return f"m{replica}.{worker}"
