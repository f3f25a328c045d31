"""A running Ray cluster, which all models of this process share: its machines, an agent on each, and who uses them."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shoal.comm.links.ports import VARIABLE as PORTS_VARIABLE
from shoal.comm.links.ports import format_ports, parse_ports
from shoal.errors import ShoalError
from shoal.machines.ray.connection import RayConnection
from shoal.machines.ray.host import AbandonedStarts
from shoal.machines.ray.machine import RayMachine
from shoal.machines.ray.roster import Roster


@dataclass(eq=False, slots=True)
class Tenant:
    """A model that uses the cluster: where its workers are planned, and which machines it is yet to be told of."""

    workers: Counter[str] = field(default_factory=Counter[str])
    """planned on each machine"""
    joined: dict[str, RayMachine] = field(default_factory=dict[str, RayMachine])
    """machines that have joined, or have another agent"""
    back: set[str] = field(default_factory=set[str])
    """machines that have joined, or answer again"""


class RayCluster:
    """Connected as long as a model uses it; what was started through it ends with it, or with this process.

    May be called from the threads of all models at once.
    """

    def __init__(self) -> None:
        """Find the machines and start an agent on each.

        Raises:
            ConfigError: Ray is not installed, no cluster runs, or a machine has no Shoal, or another version of it.
        """
        ports = format_ports(parse_ports(os.environ.get(PORTS_VARIABLE, "")))
        self._lock = threading.Lock()
        """of the tenants"""
        self._tenants: list[Tenant] = []
        self._looking = threading.Lock()
        self._looked_s = float("-inf")
        """when the latest look began"""
        self._is_wanted: Callable[[], bool] = lambda: True
        self.connection = RayConnection()
        self.abandoned = AbandonedStarts(self.connection.ray)
        try:
            self.roster = Roster(self.connection, ports, lambda: self._is_wanted())
        except BaseException:
            self.connection.close()
            raise

    def enter(self) -> tuple[Tenant, dict[str, RayMachine]]:
        """One more model, and the machines that are there for it, the largest first; it hears of those that join."""
        with self._lock:
            tenant = Tenant()
            self._tenants.append(tenant)
            living = self.roster.presence.living()
            machines = tuple(self.roster.machines.items())
            return tenant, {name: machine for name, machine in machines if name in living}

    def leave(self, tenant: Tenant) -> None:
        """A model uses the cluster no longer; after the last one agents end, and workers with them. Idempotent."""
        with self._lock:
            if tenant not in self._tenants:
                return
            self._tenants.remove(tenant)
            is_last = not self._tenants
        if is_last:
            self.connection.close()

    def look(self, is_wanted: Callable[[], bool]) -> None:
        """Ask every machine whether it is there, for all models: one look serves all who asked before it began.

        Args:
            is_wanted: asked while waiting for new agents.

        Raises:
            ConfigError, WorkerLost: as `Roster.look`; every model has been told of the other machines.
        """
        asked_s = time.monotonic()
        with self._looking:
            if self._looked_s > asked_s:
                return
            self._looked_s, self._is_wanted = time.monotonic(), is_wanted
            self.abandoned.look()
            agents = [machine.agent for machine in self.roster.machines.values()]
            try:
                self.roster.look()
            finally:
                machines = self.roster.machines.items()
                self._tell({name: one for name, one in machines if all(one.agent is not agent for agent in agents)})

    def refresh(self) -> None:
        """Learn what machines have free now; one that cannot be used stays out of it."""
        try:
            self.look(lambda: True)
        except ShoalError:
            return  # whoever watches the machines tells of it

    def take_news(self, tenant: Tenant) -> tuple[dict[str, RayMachine], set[str]]:
        """What the model was yet to be told of: see `Tenant.joined` and `Tenant.back`."""
        with self._lock:
            joined, tenant.joined = tenant.joined, {}
            back, tenant.back = tenant.back, set()
        return joined, back

    def note_plan(self, tenant: Tenant, machines: Iterable[str]) -> None:
        """The model is planned with a worker on each of these machines."""
        with self._lock:
            tenant.workers = Counter(machines)

    def num_workers(self, besides: Tenant | None = None) -> Counter[str]:
        """Planned on each machine, by all models or all but one."""
        with self._lock:
            return sum((one.workers for one in self._tenants if one is not besides), Counter[str]())

    def _tell(self, joined: dict[str, RayMachine]) -> None:
        back = self.roster.presence.take_back()
        with self._lock:
            for tenant in self._tenants:
                tenant.joined |= joined
                tenant.back |= {*back}
