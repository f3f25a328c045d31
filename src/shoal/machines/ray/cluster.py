"""A running Ray cluster: its machines, and an agent on each. Ray places and watches; it carries nothing of a model."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.comm.links.ports import VARIABLE as PORTS_VARIABLE
from shoal.comm.links.ports import format_ports, parse_ports
from shoal.core.plan.graph import GraphPlan
from shoal.core.plan.language import Plan, StagePlan
from shoal.errors import ConfigError, WorkerLost
from shoal.executor.remote.launcher import RemoteLauncher
from shoal.executor.remote.strikes import Strike
from shoal.machines.placed_fleet import PlacedFleet, PlacedGraphFleet
from shoal.machines.ray.answers import answer_of, wait_for
from shoal.machines.ray.connection import RayConnection
from shoal.machines.ray.host import AbandonedStarts, RayHost
from shoal.machines.ray.machine import RayMachine
from shoal.machines.ray.measuring import measure_links, measure_machines, place_graph_machines, place_machines
from shoal.machines.ray.models import ModelPlaces
from shoal.machines.ray.presence import DOES_NOT_ANSWER
from shoal.machines.ray.roster import Roster
from shoal.measure.graph.profile import GraphSetting
from shoal.measure.language.model_times import timed_layers
from shoal.measure.language.timed_model import model_to_time
from shoal.measure.measuring import Measuring
from shoal.measure.slots import Slot
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import Precision
from shoal.planner.speeds.speeds import LinkSpeed
from shoal.planner.split.machine_places import MachineCores

_CALL_TIMEOUT_S = 90.0
"""For what an agent does at once."""
_STRIKE_TIMEOUT_S = 10.0
"""For an agent to stop workers, which takes it milliseconds: somebody waits for it."""


class RayCluster:
    """Connected while it is open; what was started through it ends with it, or with this process.

    Implements `machines.machines.Machines`.
    """

    def __init__(self) -> None:
        """Find the machines and start an agent on each.

        Raises:
            ConfigError: Ray is not installed, no cluster runs, or a machine has no Shoal, or another version of it.
        """
        ports = format_ports(parse_ports(os.environ.get(PORTS_VARIABLE, "")))
        self._is_leaving = threading.Event()
        self._models: ModelPlaces | None = None
        self._hosts: dict[str, RayHost] = {}
        """of machines on which workers can be started"""
        self._to_renew: dict[str, RayMachine] = {}
        """machines that have joined and are not ready to be used"""
        self._connection = RayConnection()
        self._abandoned = AbandonedStarts(self._connection.ray)
        try:
            self._roster = Roster(self._connection, ports, lambda: not self._is_leaving.is_set())
        except BaseException:
            self._connection.close()
            raise

    def cores(self) -> Sequence[MachineCores]:
        """See `Machines.cores`."""
        return [
            MachineCores(name=name, cores=machine.facts.cores) for name, machine in tuple(self._roster.machines.items())
        ]

    def free_memory_bytes(self) -> int:
        """See `Machines.free_memory_bytes`."""
        return min(machine.facts.free_memory_bytes for machine in self._roster.machines.values())

    def launcher(self) -> RemoteLauncher:
        """See `Machines.launcher`. It learns of machines that join."""
        self._hosts.update((name, self._host(machine)) for name, machine in self._roster.machines.items())
        return RemoteLauncher(self._hosts)

    def find_joined(self) -> Sequence[str]:
        """See `Machines.find_joined`."""
        self._abandoned.look()
        try:
            self._to_renew |= {machine.name: machine for machine in self._roster.look()}
        finally:
            for machine in tuple(self._to_renew.values()):
                self._renew(machine)
        return self._roster.presence.take_back()

    def living(self) -> frozenset[str]:
        """See `Machines.living`."""
        return self._roster.presence.living()

    def troubles(self) -> Mapping[str, str]:
        """See `Machines.troubles`."""
        return self._roster.troubles()

    def headless(self) -> str | None:
        """See `Machines.headless`."""
        return self._connection.trouble

    def strike(self, machine: str, strike: Strike) -> None:
        """See `Machines.strike`. A machine whose workers are killed loses its agent, too, which Ray starts again."""
        struck = self._roster.machines.get(machine)
        if struck is None:
            raise ConfigError(f"there is no machine {machine!r} in the cluster")
        if strike.how == "kill" and strike.pid is None:
            self._connection.ray.kill(struck.agent, no_restart=False)
        else:
            self.get(struck.agent.strike.remote(strike), machine, _STRIKE_TIMEOUT_S)

    def stop_waiting(self) -> None:
        """See `Machines.stop_waiting`."""
        self._is_leaving.set()

    def measure(
        self,
        model: ModelOnDisk,
        precisions: Sequence[Precision],
        measuring: Measuring,
        known: PlacedFleet | None = None,
    ) -> PlacedFleet:
        """See `Machines.measure`. Machines that lack the model are sent the layers that are timed."""
        models = self._models
        assert models is not None
        old, new = self._old_and_new(known)
        lacking = [machine.name for machine in new if models.lacks(machine.name)]
        for precision in precisions if lacking else ():
            timed = model_to_time(model, precision)
            for name in lacking:
                for layers in timed_layers(timed):
                    models.bring(name, layers, timed.num_layers, measuring.on_progress)
        fleets = measure_machines(
            new,
            lambda machine: machine.agent.measure.remote(
                models.path_on(machine.name), precisions, Slot(cores=machine.facts.cores), measuring.refresh
            ),
            self.get,
            measuring.on_progress,
        )
        return place_machines(known, new, fleets, self._links(old, new, measuring))

    def find_model(self, path: Path, adapters: Sequence[Path] = ()) -> None:
        """See `Machines.find_model`."""
        self._models = ModelPlaces(path, list(self._roster.machines.values()), self.get, adapters)

    def bring_model(self, plan: Plan | GraphPlan, num_layers: int, on_progress: Callable[[str], None]) -> None:
        """See `Machines.bring_model`."""
        assert self._models is not None
        for replica in plan.replicas:
            for stage in replica.stages:
                layers = (stage.first_layer, stage.last_layer) if isinstance(stage, StagePlan) else (0, 1)
                for machine in dict.fromkeys(shard.machine for shard in stage.shards):
                    self._models.bring(machine or "", layers, num_layers, on_progress)

    def measure_graph(
        self, setting: GraphSetting, measuring: Measuring, known: PlacedGraphFleet | None = None
    ) -> PlacedGraphFleet:
        """See `Machines.measure_graph`. Machines that lack the graph are sent it."""
        models = self._models
        assert models is not None
        old, new = self._old_and_new(known)
        for machine in new:
            if models.lacks(machine.name):
                models.bring(machine.name, (0, 1), 1, measuring.on_progress)
        times = measure_machines(
            new,
            lambda machine: machine.agent.measure_graph.remote(
                models.path_on(machine.name), setting.sample, setting.rows, measuring.refresh
            ),
            self.get,
            measuring.on_progress,
        )
        return place_graph_machines(known, setting, new, times, self._links(old, new, measuring))

    def get(self, reference: Any, who: str, timeout_s: float = _CALL_TIMEOUT_S) -> Any:
        """An agent's answer. Raises WorkerLost where it or its machine is gone, and whatever it raises of ours."""
        ray = self._connection.ray
        wait_for(ray, reference, f"machine {who} does not answer", timeout_s, lambda: not self._is_leaving.is_set())
        return answer_of(ray, reference, who)

    def close(self) -> None:
        """Leave the cluster: agents end, and workers with them. Idempotent."""
        self._connection.close()

    def _old_and_new(self, known: PlacedFleet | PlacedGraphFleet | None) -> tuple[list[RayMachine], list[RayMachine]]:
        """Machines that were measured before, and those of the others that are there."""
        machines, living = self._roster.machines, self.living()
        old = [] if known is None else [machines[name] for name in known.names]
        return old, [machine for name, machine in machines.items() if name in living and machine not in old]

    def _links(
        self, old: Sequence[RayMachine], new: Sequence[RayMachine], measuring: Measuring
    ) -> dict[tuple[str, str], LinkSpeed]:
        """Between machines that are there, of which one is new."""
        living = self.living()
        reachable = [machine for machine in (*old, *new) if machine.name in living]
        return measure_links(reachable, new, self.get, measuring.on_progress)

    def _renew(self, machine: RayMachine) -> None:
        """A machine that has joined, or has another agent."""
        if self._models is not None:
            try:
                self._models.add(machine)
            except WorkerLost:
                self._roster.presence.note_trouble(machine.name, DOES_NOT_ANSWER)
                raise
        del self._to_renew[machine.name]
        if machine.name in self._hosts:
            self._hosts[machine.name].renew(machine)
        elif self._hosts:
            self._hosts[machine.name] = self._host(machine)

    def _host(self, machine: RayMachine) -> RayHost:
        return RayHost(self._connection.ray, machine, self._models, self._roster.presence, self._abandoned)
