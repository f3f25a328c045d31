"""A running Ray cluster, shared by all models of this process: its machines, an agent on each, and the tenants."""

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
    """A model that uses the cluster: the machines of its workers, and news that it has not taken yet."""

    workers: Counter[str] = field(default_factory=Counter[str])
    """Number of workers planned on each machine."""
    joined: dict[str, RayMachine] = field(default_factory=dict[str, RayMachine])
    """Machines that have joined, or have a new agent."""
    back: set[str] = field(default_factory=set[str])
    """Names of machines that have joined, or answer again."""


class RayCluster:
    """A connection that lasts while a model uses it. Everything started through it ends with it, or with this process.

    Thread-safe.
    """

    def __init__(self) -> None:
        """Find the machines and start an agent on each.

        Raises:
            ConfigError: Ray is not installed, no cluster runs, or a machine has no Shoal, or another version of it.
        """
        ports = format_ports(parse_ports(os.environ.get(PORTS_VARIABLE, "")))
        self._lock = threading.Lock()
        """Guards the tenants."""
        self._tenants: list[Tenant] = []
        self._looking = threading.Lock()
        self._looked_s = float("-inf")
        """Time at which the latest look began."""
        self._is_wanted: Callable[[], bool] = lambda: True
        self.connection = RayConnection()
        self.abandoned = AbandonedStarts(self.connection.ray)
        try:
            self.roster = Roster(self.connection, ports, lambda: self._is_wanted())
        except BaseException:
            self.connection.close()
            raise

    def enter(self) -> tuple[Tenant, dict[str, RayMachine]]:
        """Register a model. Returns its tenant, which gets news of joining machines, and the machines, largest
        first."""
        with self._lock:
            tenant = Tenant()
            self._tenants.append(tenant)
            living = self.roster.presence.living()
            machines = tuple(self.roster.machines.items())
            return tenant, {name: machine for name, machine in machines if name in living}

    def leave(self, tenant: Tenant) -> None:
        """Remove a model. After the last one, the agents and their workers end. Idempotent."""
        with self._lock:
            if tenant not in self._tenants:
                return
            self._tenants.remove(tenant)
            is_last = not self._tenants
        if is_last:
            self.connection.close()

    def look(self, is_wanted: Callable[[], bool]) -> None:
        """Check which machines are there, for all models: one look serves all callers that came before it began.

        Args:
            is_wanted: polled while waiting for new agents; returns whether to go on.

        Raises:
            ConfigError, WorkerLost: as `Roster.look`; all models get the news of the other machines.
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
        """Update the free memory of the machines; skips machines that cannot be used."""
        try:
            self.look(lambda: True)
        except ShoalError:
            return  # the thread that watches the machines reports it

    def take_news(self, tenant: Tenant) -> tuple[dict[str, RayMachine], set[str]]:
        """Take the model's news: `Tenant.joined` and `Tenant.back`, which are then empty."""
        with self._lock:
            joined, tenant.joined = tenant.joined, {}
            back, tenant.back = tenant.back, set()
        return joined, back

    def note_plan(self, tenant: Tenant, machines: Iterable[str]) -> None:
        """Note the machines of a model's planned workers, one entry per worker."""
        with self._lock:
            tenant.workers = Counter(machines)

    def num_workers(self, besides: Tenant | None = None) -> Counter[str]:
        """Number of workers planned on each machine by all models, or by all but one."""
        with self._lock:
            return sum((one.workers for one in self._tenants if one is not besides), Counter[str]())

    def _tell(self, joined: dict[str, RayMachine]) -> None:
        back = self.roster.presence.take_back()
        with self._lock:
            for tenant in self._tenants:
                tenant.joined |= joined
                tenant.back |= {*back}
