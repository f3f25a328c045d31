"""A running Ray cluster: its machines, and an agent on each. Ray places and watches; it carries nothing of a model."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from shoal.cluster.fleets import PlacedFleet
from shoal.cluster.profile.slots import Slot
from shoal.cluster.ray.agent import DISTRIBUTION, MachineAgent, MachineFacts
from shoal.cluster.ray.measuring import RayMachine, measure_links, measure_machines
from shoal.cluster.ray.models import ModelPlaces
from shoal.cluster.remote.fabric import RemoteFabric
from shoal.cluster.remote.host import StartedWorker
from shoal.comm.tls_identity import Credentials
from shoal.core.plan import Plan
from shoal.errors import ConfigError, WorkerLost
from shoal.model.weights import Precision
from shoal.planner.choice.spell import Place
from shoal.planner.machine_places import MachineCores
from shoal.planner.speeds import Fleet
from shoal.protocol.messages import LoadStage

_START_TIMEOUT_S = 60.0
"""For an agent: Ray starts a Python process on its machine."""
_CALL_TIMEOUT_S = 90.0
"""For what an agent does at once; longer than it gives a worker to start."""
_LOOK_S = 0.2
"""Between two looks whether a worker is still wanted."""
_REACH_TIMEOUT_S = 5.0
_CALLS_AT_ONCE = 64
"""of one agent: each worker's end is waited for by one"""


class RayCluster:
    """Connected while it is open; what was started through it ends with it, or with this process.

    Implements `cluster.machines.Machines`.
    """

    def __init__(self) -> None:
        """Find the machines and start an agent on each.

        Raises:
            ConfigError: Ray is not installed, no cluster runs, or a machine has another version of Shoal.
        """
        self._ray = _import_ray()
        _connect(self._ray)
        try:
            self._machines = self._find_machines()
            self._models: ModelPlaces | None = None
        except BaseException:
            self._ray.shutdown()
            raise

    @property
    def machines(self) -> tuple[RayMachine, ...]:
        """Those that lived when the cluster was opened, the largest first."""
        return self._machines

    def cores(self) -> Sequence[MachineCores]:
        """See `Machines.cores`."""
        return [MachineCores(name=machine.name, cores=machine.facts.cores) for machine in self._machines]

    def free_memory_bytes(self) -> int:
        """See `Machines.free_memory_bytes`."""
        return min(machine.facts.free_memory_bytes for machine in self._machines)

    def fabric(self) -> RemoteFabric:
        """See `Machines.fabric`."""
        return RemoteFabric({machine.name: _RayHost(self._ray, machine, self._models) for machine in self._machines})

    def measure(
        self,
        path: Path,
        num_layers: int,
        precisions: Sequence[Precision],
        *,
        wide_kernels: bool,
        refresh: bool,
        on_progress: Callable[[str], None],
    ) -> PlacedFleet:
        """See `Machines.measure`."""
        models = self._models
        assert models is not None
        for name in models.lacking:
            models.bring(name, (0, num_layers), num_layers, on_progress)
        fleets = measure_machines(
            self._machines,
            lambda machine: machine.agent.measure.remote(
                models.path_on(machine.name), precisions, Slot(cores=machine.facts.cores), wide_kernels, refresh
            ),
            self.get,
            on_progress,
        )
        links = measure_links(self._machines, self.get, on_progress)
        return PlacedFleet(
            fleet=Fleet(
                classes=tuple(
                    replace(fleet.classes[0], name=machine.name, count=1)
                    for machine, fleet in zip(self._machines, fleets, strict=True)
                ),
                links=links,
                sums=links,
                turn=fleets[0].turn,
                message_s=max(link.latency_s for row in links for link in row),
            ),
            places=tuple((Place(cores=machine.facts.cores, machine=machine.name),) for machine in self._machines),
        )

    def find_model(self, path: Path) -> None:
        """See `Machines.find_model`."""
        self._models = ModelPlaces(path, self._machines, self.get)

    def bring_model(self, plan: Plan, num_layers: int, on_progress: Callable[[str], None]) -> None:
        """See `Machines.bring_model`."""
        assert self._models is not None
        for replica in plan.replicas:
            for stage in replica.stages:
                for machine in dict.fromkeys(shard.machine for shard in stage.shards):
                    layers = (stage.first_layer, stage.last_layer)
                    self._models.bring(machine or "", layers, num_layers, on_progress)

    def get(self, reference: Any, who: str, timeout_s: float = _CALL_TIMEOUT_S) -> Any:
        """An agent's answer. Raises WorkerLost where it or its machine is gone, and whatever it raises of ours."""
        return _answer(self._ray, reference, who, timeout_s)

    def close(self) -> None:
        """Leave the cluster: agents end, and workers with them. Idempotent."""
        self._ray.shutdown()

    def _find_machines(self) -> tuple[RayMachine, ...]:
        ray = self._ray
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        actor = ray.remote(num_cpus=0, max_concurrency=_CALLS_AT_ONCE)(MachineAgent)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        agents = [
            actor.options(scheduling_strategy=strategy(node["NodeID"], soft=False)).remote(node["NodeManagerAddress"])
            for node in nodes
        ]
        references = [agent.facts.remote() for agent in agents]
        facts: list[MachineFacts] = [
            _answer(ray, reference, node["NodeManagerAddress"], _START_TIMEOUT_S)
            for node, reference in zip(nodes, references, strict=True)
        ]
        hostnames = Counter(fact.hostname for fact in facts)
        machines = [
            RayMachine(
                name=fact.hostname if hostnames[fact.hostname] == 1 else node["NodeManagerAddress"],
                address=node["NodeManagerAddress"],
                facts=fact,
                agent=agent,
            )
            for node, agent, fact in zip(nodes, agents, facts, strict=True)
        ]
        _check_versions(machines)
        return tuple(sorted(machines, key=lambda machine: (-len(machine.facts.cores), machine.name)))


class _RayHost:
    """Implements `WorkerHost` by a machine's agent."""

    def __init__(self, ray: ModuleType, machine: RayMachine, models: ModelPlaces | None) -> None:
        self._ray = ray
        self._machine = machine
        self._models = models
        self._ends: dict[int, Any] = {}
        """by process id: the agent's answer to come when it has ended"""

    @property
    def name(self) -> str:
        """See `WorkerHost.name`."""
        return self._machine.name

    def model_path(self, path: str) -> str:
        """See `WorkerHost.model_path`."""
        return path if self._models is None else self._models.path_on(self.name)

    def provide(self, load: LoadStage, is_wanted: Callable[[], bool]) -> None:
        """See `WorkerHost.provide`."""
        if self._models is not None:
            layers = (load.first_layer, load.last_layer)
            self._models.bring(self.name, layers, load.num_layers, is_wanted=is_wanted)

    def start(self, credentials: Credentials, is_wanted: Callable[[], bool]) -> StartedWorker:
        """See `WorkerHost.start`."""
        reference = self._machine.agent.start.remote(credentials)
        deadline_s = time.monotonic() + _CALL_TIMEOUT_S
        while not self._ray.wait([reference], timeout=_LOOK_S)[0]:
            if time.monotonic() >= deadline_s or not is_wanted():
                raise WorkerLost(f"machine {self.name} has started no worker")
        return _answer(self._ray, reference, self.name, _LOOK_S)

    def end(self, worker: StartedWorker) -> None:
        """See `WorkerHost.end`."""
        self._machine.agent.end.remote(worker)

    def has_ended(self, worker: StartedWorker) -> bool:
        """See `WorkerHost.has_ended`. Where the agent is gone, so are its workers."""
        if worker.pid not in self._ends:
            self._ends[worker.pid] = self._machine.agent.wait_for_end.remote(worker)
        ended, _ = self._ray.wait([self._ends[worker.pid]], timeout=0)
        if ended:
            del self._ends[worker.pid]
        return bool(ended)


def _import_ray() -> ModuleType:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ModuleNotFoundError:
        raise ConfigError("--cluster ray needs Ray: pip install 'shoal-inference[ray]'") from None
    return ray


def _connect(ray: ModuleType) -> None:
    address = os.environ.get("RAY_ADDRESS", "auto")
    try:
        _check_that_somebody_listens(address)
        ray.init(address=address, namespace="shoal", log_to_driver=False, logging_level="ERROR")
    except OSError:
        raise ConfigError(
            "no Ray cluster runs here; start one with: ray start --head, and on every other machine: "
            "ray start --address HEAD:6379"
        ) from None


def _check_that_somebody_listens(address: str) -> None:
    """Ray itself goes on trying for minutes. Raises OSError."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=_REACH_TIMEOUT_S).close()


def _check_versions(machines: list[RayMachine]) -> None:
    own = version(DISTRIBUTION)
    for machine in machines:
        if machine.facts.version != own:
            theirs = machine.facts.version
            raise ConfigError(f"machine {machine.name} has Shoal {theirs}, this one {own}; install the same everywhere")


def _answer(ray: ModuleType, reference: Any, who: str, timeout_s: float) -> Any:
    """What an agent says. Raises WorkerLost, and errors of ours that it raises."""
    try:
        return ray.get(reference, timeout=timeout_s)
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from None
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise WorkerLost(f"machine {who} does not answer: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
