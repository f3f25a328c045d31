"""A running Ray cluster: its machines, and an agent on each. Ray places and watches; it carries nothing of a model."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from shoal.cluster.fleets import PlacedFleet
from shoal.cluster.profile.model_file import open_model
from shoal.cluster.profile.model_times import timed_layers
from shoal.cluster.profile.slots import Slot
from shoal.cluster.ray.agent import DISTRIBUTION, MachineAgent
from shoal.cluster.ray.machine import RayMachine, name_of_joined
from shoal.cluster.ray.measuring import measure_links, measure_machines, place_machines
from shoal.cluster.ray.models import ModelPlaces
from shoal.cluster.remote.fabric import RemoteFabric
from shoal.cluster.remote.host import StartedWorker
from shoal.comm.tls_identity import Credentials
from shoal.core.plan import Plan
from shoal.errors import ConfigError, WorkerLost
from shoal.model.weights import Precision
from shoal.planner.machine_places import MachineCores
from shoal.protocol.messages import LoadStage

_START_TIMEOUT_S = 60.0
"""For an agent: Ray starts a Python process on its machine."""
_CALL_TIMEOUT_S = 90.0
"""For what an agent does at once; longer than it gives a worker to start."""
_LOOK_S = 0.2
"""Between two looks whether somebody still waits; and for an answer that is there."""
_REACH_TIMEOUT_S = 3.0
"""For the kernel of another machine to take a connection; one lost packet costs 1 s."""
_REACHED_AT_ONCE = 32
_ATTEMPTS = 3
"""to start an agent on a machine that has joined"""
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
        self._machines: dict[str, RayMachine] = {}
        """by name, those that are gone included"""
        self._living: frozenset[str] = frozenset()
        self._missed: set[str] = set()
        """names of those that could not be reached, until it is told that they can"""
        self._models: ModelPlaces | None = None
        self._hosts: dict[str, _RayHost] = {}
        """of machines on which workers can be started"""
        self._attempts: Counter[str] = Counter()
        """to start an agent, by the id of a node that has none"""
        self._is_leaving = threading.Event()
        _connect(self._ray)
        try:
            found = self._start_agents(_reachable(self._living_nodes()))
            if not found:
                raise ConfigError("no machine of the Ray cluster can be reached from here")
            _check_versions(found)
            hostnames = Counter(machine.facts.hostname for machine in found)
            named = [
                replace(one, name=one.facts.hostname) if hostnames[one.facts.hostname] == 1 else one for one in found
            ]
            for machine in sorted(named, key=lambda machine: (-len(machine.facts.cores), machine.name)):
                self._machines[machine.name] = machine
            self._living = frozenset(self._machines)
        except BaseException:
            self._ray.shutdown()
            raise

    def cores(self) -> Sequence[MachineCores]:
        """See `Machines.cores`."""
        return [MachineCores(name=name, cores=machine.facts.cores) for name, machine in self._machines.items()]

    def free_memory_bytes(self) -> int:
        """See `Machines.free_memory_bytes`."""
        return min(machine.facts.free_memory_bytes for machine in self._machines.values())

    def fabric(self) -> RemoteFabric:
        """See `Machines.fabric`. It learns of machines that join."""
        self._hosts.update((name, self._host(machine)) for name, machine in self._machines.items())
        return RemoteFabric(self._hosts)

    def find_joined(self) -> Sequence[str]:
        """See `Machines.find_joined`."""
        nodes = _reachable(self._living_nodes())
        ids = {node["NodeID"] for node in nodes}
        living = frozenset(name for name, machine in self._machines.items() if machine.node_id in ids)
        self._missed |= living - self._living
        self._living = living
        known = {machine.node_id for machine in self._machines.values()}
        fresh = [node for node in nodes if node["NodeID"] not in known and self._attempts[node["NodeID"]] < _ATTEMPTS]
        self._attempts.update(node["NodeID"] for node in fresh)
        joined = [self._take_in(machine) for machine in self._start_agents(fresh)]
        back = self._missed & living
        self._missed -= back
        return [*sorted(back), *joined]

    def living(self) -> frozenset[str]:
        """See `Machines.living`."""
        return self._living

    def stop_waiting(self) -> None:
        """See `Machines.stop_waiting`."""
        self._is_leaving.set()

    def measure(
        self,
        path: Path,
        precisions: Sequence[Precision],
        *,
        wide_kernels: bool,
        refresh: bool,
        on_progress: Callable[[str], None],
        known: PlacedFleet | None = None,
    ) -> PlacedFleet:
        """See `Machines.measure`. Machines that lack the model are sent the layers that are timed."""
        models = self._models
        assert models is not None
        old = [] if known is None else [self._machines[one.name] for one in known.fleet.classes]
        new = [machine for name, machine in self._machines.items() if name in self._living and machine not in old]
        lacking = [machine.name for machine in new if models.lacks(machine.name)]
        for precision in precisions if lacking else ():
            timed = open_model(path, precision, wide_kernels=wide_kernels)
            for name in lacking:
                for layers in timed_layers(timed):
                    models.bring(name, layers, timed.num_layers, on_progress)
        fleets = measure_machines(
            new,
            lambda machine: machine.agent.measure.remote(
                models.path_on(machine.name), precisions, Slot(cores=machine.facts.cores), wide_kernels, refresh
            ),
            self.get,
            on_progress,
        )
        reachable = [machine for machine in (*old, *new) if machine.name in self._living]
        between = measure_links(reachable, new, self.get, on_progress)
        return place_machines(known, new, fleets, between)

    def find_model(self, path: Path) -> None:
        """See `Machines.find_model`."""
        self._models = ModelPlaces(path, list(self._machines.values()), self.get)

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
        _wait(self._ray, reference, f"machine {who} has not answered", timeout_s, lambda: not self._is_leaving.is_set())
        return _answer(self._ray, reference, who)

    def close(self) -> None:
        """Leave the cluster: agents end, and workers with them. Idempotent."""
        self._ray.shutdown()

    def _living_nodes(self) -> list[Any]:
        try:
            return [node for node in self._ray.nodes() if node["Alive"]]
        except Exception as error:  # Ray raises what it likes where its head is gone
            raise WorkerLost(f"Ray's head does not answer: {_first_line(error)}") from error

    def _start_agents(self, nodes: Sequence[Any]) -> list[RayMachine]:
        """One on each node, which is named by its address at first."""
        strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        actor = self._ray.remote(num_cpus=0, max_concurrency=_CALLS_AT_ONCE)(MachineAgent)
        agents = [
            actor.options(scheduling_strategy=strategy(node["NodeID"], soft=False)).remote(node["NodeManagerAddress"])
            for node in nodes
        ]
        references = [agent.facts.remote() for agent in agents]
        return [
            RayMachine(
                node_id=node["NodeID"],
                name=node["NodeManagerAddress"],
                address=node["NodeManagerAddress"],
                raylet_port=node["NodeManagerPort"],
                facts=self.get(reference, node["NodeManagerAddress"], _START_TIMEOUT_S),
                agent=agent,
            )
            for node, agent, reference in zip(nodes, agents, references, strict=True)
        ]

    def _take_in(self, joined: RayMachine) -> str:
        """A machine that has joined; one that has come back goes on under its name."""
        _check_versions([joined])
        name = name_of_joined(joined, list(self._machines.values()), self._living)
        machine = replace(joined, name=name)
        if self._models is not None:
            self._models.add(machine)
        self._machines[name] = machine
        self._living |= {name}
        self._missed.discard(name)
        if self._hosts:
            self._hosts[name] = self._host(machine)
        return name

    def _host(self, machine: RayMachine) -> _RayHost:
        return _RayHost(self._ray, machine, self._models, self._missed.add)


class _RayHost:
    """Implements `WorkerHost` by a machine's agent."""

    def __init__(
        self, ray: ModuleType, machine: RayMachine, models: ModelPlaces | None, miss: Callable[[str], None]
    ) -> None:
        """`miss`: told its name when it cannot be reached. Thread-safe."""
        self._ray = ray
        self._machine = machine
        self._models = models
        self._miss = miss
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
        self._check_that_it_is_there()
        if self._models is not None:
            layers = (load.first_layer, load.last_layer)
            self._models.bring(self.name, layers, load.num_layers, is_wanted=is_wanted)

    def start(self, credentials: Credentials, is_wanted: Callable[[], bool]) -> StartedWorker:
        """See `WorkerHost.start`."""
        reference = self._machine.agent.start.remote(credentials)
        _wait(self._ray, reference, f"machine {self.name} has started no worker", _CALL_TIMEOUT_S, is_wanted)
        return _answer(self._ray, reference, self.name)

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

    def _check_that_it_is_there(self) -> None:
        """Ray would wait for it for minutes. Raises WorkerLost."""
        if not _is_reachable(self._machine.address, self._machine.raylet_port):
            self._miss(self.name)
            raise WorkerLost(f"machine {self.name} cannot be reached")


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


def _reachable(nodes: Sequence[Any]) -> list[Any]:
    """Ray believes for a while that a machine lives which has been switched off."""
    if not nodes:
        return []

    def reaches(node: Any) -> bool:
        return _is_reachable(node["NodeManagerAddress"], node["NodeManagerPort"])

    with ThreadPoolExecutor(min(len(nodes), _REACHED_AT_ONCE)) as pool:
        return [node for node, is_there in zip(nodes, pool.map(reaches, nodes), strict=True) if is_there]


def _is_reachable(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=_REACH_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _check_versions(machines: Sequence[RayMachine]) -> None:
    own = version(DISTRIBUTION)
    for machine in machines:
        if machine.facts.version != own:
            theirs = machine.facts.version
            raise ConfigError(f"machine {machine.name} has Shoal {theirs}, this one {own}; install the same everywhere")


def _wait(ray: ModuleType, reference: Any, complaint: str, timeout_s: float, is_wanted: Callable[[], bool]) -> None:
    """Until an agent has answered. Raises WorkerLost with the complaint where it has not, or nobody wants it to."""
    deadline_s = time.monotonic() + timeout_s
    while not ray.wait([reference], timeout=_LOOK_S)[0]:
        if time.monotonic() >= deadline_s or not is_wanted():
            raise WorkerLost(complaint)


def _answer(ray: ModuleType, reference: Any, who: str) -> Any:
    """What an agent has said. Raises WorkerLost, and errors of ours that it raises."""
    try:
        return ray.get(reference, timeout=_LOOK_S)
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from None
    except (ray.exceptions.RayError, TimeoutError) as error:
        raise WorkerLost(f"machine {who} does not answer: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
