"""The machines of a Ray cluster as one model uses them. Ray starts and watches agents; no model data passes through
it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.core.plan.graph import GraphPlan
from shoal.core.plan.language import Plan, StagePlan
from shoal.core.plan.placement import WorkerPlacement
from shoal.errors import ConfigError, WorkerLost
from shoal.executor.remote.launcher import RemoteLauncher
from shoal.executor.remote.strikes import Strike
from shoal.machines.placed_fleet import PlacedFleet, PlacedGraphFleet
from shoal.machines.ray.answers import answer_of, wait_for
from shoal.machines.ray.cluster import RayCluster
from shoal.machines.ray.host import RayHost
from shoal.machines.ray.machine import RayMachine
from shoal.machines.ray.measuring import measure_links, measure_machines, place_graph_machines, place_machines
from shoal.machines.ray.models import ModelPlaces
from shoal.machines.ray.presence import DOES_NOT_ANSWER
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
"""Longest wait for what an agent does at once."""
_STRIKE_TIMEOUT_S = 10.0
"""Longest wait for an agent to stop workers, which takes milliseconds; a user waits for it."""


class RayMachines:
    """The machines of one model: its files there, and the hosts of its workers. Implements
    `machines.machines.Machines`.
    """

    def __init__(self, cluster: RayCluster, later_bytes: Sequence[int] = ()) -> None:
        """Take the machines that are there now. The last model to be closed also leaves `cluster`. `later_bytes`: see
        `Machines.later_bytes`."""
        self._cluster = cluster
        self.later_bytes = later_bytes
        self._roster, self._ray = cluster.roster, cluster.connection.ray
        self._tenant, self._machines = cluster.enter()
        self._is_leaving = threading.Event()
        self._models: ModelPlaces | None = None
        self._hosts: dict[str, RayHost] = {}
        """Hosts of the machines on which workers can be started, by name."""
        self._to_renew: dict[str, RayMachine] = {}
        """Machines that have joined but are not ready for use."""
        self._back: set[str] = set()
        """Names of machines that `find_joined` has yet to return."""

    def for_another_model(self, later_bytes: Sequence[int] = ()) -> RayMachines:
        """See `Machines.for_another_model`."""
        self._cluster.refresh()
        return RayMachines(self._cluster, later_bytes)

    def cores(self) -> Sequence[MachineCores]:
        """See `Machines.cores`."""
        used = self._cluster.num_workers(besides=self._tenant)
        machines = sorted(self._machines.values(), key=lambda machine: used[machine.name])
        return [MachineCores(name=machine.name, cores=machine.facts.cores) for machine in machines]

    def free_memory_bytes(self) -> int:
        """See `Machines.free_memory_bytes`."""
        return min(machine.facts.free_memory_bytes for machine in self._machines.values())

    def launcher(self) -> RemoteLauncher:
        """See `Machines.launcher`. It also gets the machines that join later."""
        self._hosts.update((name, self._host(machine)) for name, machine in self._machines.items())
        return RemoteLauncher(self._hosts, self._elsewhere)

    def find_joined(self) -> Sequence[str]:
        """See `Machines.find_joined`."""
        try:
            self._cluster.look(lambda: not self._is_leaving.is_set())
        finally:
            self._take_news()
            for machine in tuple(self._to_renew.values()):
                self._renew(machine)
        back, self._back = sorted(self._back & self.living()), set()
        return back

    def living(self) -> frozenset[str]:
        """See `Machines.living`."""
        return self._roster.presence.living() & self._machines.keys()

    def troubles(self) -> Mapping[str, str]:
        """See `Machines.troubles`."""
        return self._roster.troubles()

    def headless(self) -> str | None:
        """See `Machines.headless`."""
        return self._cluster.connection.trouble

    def strike(self, machine: str, strike: Strike) -> None:
        """See `Machines.strike`. Killing a machine's workers also kills its agent, which Ray restarts."""
        struck = self._roster.machines.get(machine)
        if struck is None:
            raise ConfigError(f"there is no machine {machine!r} in the cluster")
        if strike.how == "kill" and strike.pid is None:
            self._ray.kill(struck.agent, no_restart=False)
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
        """See `Machines.measure`. Machines that lack the model get the layers that are timed."""
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
        self._models = ModelPlaces(path, list(self._machines.values()), self.get, adapters)

    def bring_model(self, plan: Plan | GraphPlan, num_layers: int, on_progress: Callable[[str], None]) -> None:
        """See `Machines.bring_model`."""
        assert self._models is not None
        self._cluster.note_plan(self._tenant, (shard.machine or "" for shard in plan.shards))
        for replica in plan.replicas:
            for stage in replica.stages:
                layers = (stage.first_layer, stage.last_layer) if isinstance(stage, StagePlan) else (0, 1)
                for machine in dict.fromkeys(shard.machine for shard in stage.shards):
                    self._models.bring(machine or "", layers, num_layers, on_progress)

    def measure_graph(
        self, setting: GraphSetting, measuring: Measuring, known: PlacedGraphFleet | None = None
    ) -> PlacedGraphFleet:
        """See `Machines.measure_graph`. Machines that lack the graph get it."""
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
        here = self._cluster.connection.node_id
        own = next((machine.name for machine in self._machines.values() if machine.node_id == here), None)
        return place_graph_machines(known, setting, new, times, self._links(old, new, measuring), own)

    def get(self, reference: Any, who: str, timeout_s: float = _CALL_TIMEOUT_S) -> Any:
        """Wait for an agent's answer. Raises WorkerLost if it or its machine is gone, and the agent's own
        ShoalError."""
        complaint = f"machine {who} {DOES_NOT_ANSWER}"
        wait_for(self._ray, reference, complaint, timeout_s, lambda: not self._is_leaving.is_set())
        return answer_of(self._ray, reference, who)

    def close(self) -> None:
        """See `Machines.close`."""
        self._is_leaving.set()
        self._cluster.leave(self._tenant)

    def _old_and_new(self, known: PlacedFleet | PlacedGraphFleet | None) -> tuple[list[RayMachine], list[RayMachine]]:
        """The machines that were measured before, and the others that are there."""
        machines, living = self._machines, self.living()
        old = [] if known is None else [machines[name] for name in known.names]
        return old, [machine for name, machine in machines.items() if name in living and machine not in old]

    def _links(
        self, old: Sequence[RayMachine], new: Sequence[RayMachine], measuring: Measuring
    ) -> dict[tuple[str, str], LinkSpeed]:
        """Measure the links between machines that are there, of which one is new."""
        living = self.living()
        reachable = [machine for machine in (*old, *new) if machine.name in living]
        return measure_links(reachable, new, self.get, measuring.on_progress)

    def _take_news(self) -> None:
        """Take the cluster's news. A machine that was gone when the model was loaded counts as new once it answers."""
        joined, back = self._cluster.take_news(self._tenant)
        new = {name: self._roster.machines[name] for name in back if name not in self._machines}
        self._to_renew |= new | joined
        self._back |= back

    def _renew(self, machine: RayMachine) -> None:
        """Start using a machine that has joined or has a new agent."""
        if self._models is not None:
            try:
                self._models.add(machine)
            except WorkerLost:
                self._roster.presence.note_trouble(machine.name, DOES_NOT_ANSWER)
                raise
        del self._to_renew[machine.name]
        self._machines[machine.name] = machine
        if machine.name in self._hosts:
            self._hosts[machine.name].renew(machine)
        elif self._hosts:
            self._hosts[machine.name] = self._host(machine)

    def _host(self, machine: RayMachine) -> RayHost:
        return RayHost(self._ray, machine, self._models, self._roster.presence, self._cluster.abandoned)

    def _elsewhere(self, machine: str) -> WorkerPlacement | None:
        """A place on the least used machine that is there and has none of this model's workers; None: there is none."""
        living, used = self.living() - {machine}, self._cluster.num_workers()
        machines = tuple(self._machines.values())
        free = [one for one in machines if one.name in living and not self._tenant.workers[one.name]]
        if not free:
            return None
        best = min(free, key=lambda one: (used[one.name], -len(one.facts.cores)))
        return WorkerPlacement(threads=len(best.facts.cores), cores=best.facts.cores, machine=best.name)
