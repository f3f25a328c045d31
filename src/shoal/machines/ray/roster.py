"""The machines of a Ray cluster: an agent on each, and whether they are there."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from shoal.errors import ConfigError, ShoalError, WorkerLost
from shoal.machines.ray.address import can_be_reached
from shoal.machines.ray.answers import answer_of, wait_for
from shoal.machines.ray.connection import RayConnection
from shoal.machines.ray.host import AGENT_TIMEOUT_S
from shoal.machines.ray.machine import RayMachine, name_of_joined
from shoal.machines.ray.on_machine.agent import DISTRIBUTION, MachineAgent
from shoal.machines.ray.presence import DOES_NOT_ANSWER, HAS_LEFT, Presence, unreachable

_ANSWER_S = 1.0
"""Longest wait for the agents' answers in a look. The answer of a slower one is read at a later look."""
_SILENCE_S = 10.0
"""A machine counts as gone after so long without an answer. An estimate: a busy one answers within 2 s."""
_REACHED_AT_ONCE = 32
_CALLS_AT_ONCE = 64
"""Concurrent calls of one agent. One call per worker waits for the worker's end."""
_MOST_LOOKS = 12
"""Most looks between two attempts to start an agent on a machine that has none."""


class Roster:
    """All machines by name, also lost ones. One thread at a time may call it, except where noted."""

    def __init__(self, connection: RayConnection, ports: str, is_wanted: Callable[[], bool]) -> None:
        """Start an agent on each machine that can be reached.

        Args:
            connection: the connection to the cluster.
            ports: the ports at which agents may listen, see `comm.links.ports.parse_ports`.
            is_wanted: polled while waiting for agents; returns whether to go on.

        Raises:
            ConfigError: no machine can be used, or a machine has no Shoal, or another version of it.
        """
        self._connection, self._ports, self._is_wanted = connection, ports, is_wanted
        self.machines: dict[str, RayMachine] = {}
        """The machines as of their last answers. Any thread may read it."""
        self.presence = Presence()
        """Thread-safe."""
        self._strangers: Mapping[str, str] = {}
        """What is wrong with machines on which no agent has ever run, by name."""
        self._questions: dict[str, tuple[Any, float]] = {}
        """The unanswered question to each agent, and the time since which it waits."""
        self._attempts: Counter[str] = Counter()
        """Attempts to start an agent, by the id of a node that has none."""
        self._wait_looks: Counter[str] = Counter()
        """Looks until the next attempt, by the id of the node."""
        nodes = self._reachable(connection.nodes())
        found, troubles = self._start_agents(nodes)
        if error := next((error for error in troubles.values() if isinstance(error, ConfigError)), None):
            raise error
        self._strangers |= dict.fromkeys(troubles, DOES_NOT_ANSWER)
        if not found:
            lost = "; ".join(f"machine {name} {what}" for name, what in self._strangers.items())
            raise ConfigError(f"no machine of the Ray cluster can be used: {lost or 'it has none'}")
        hostnames = Counter(machine.facts.hostname for machine in found)
        named = [replace(one, name=one.facts.hostname) if hostnames[one.facts.hostname] == 1 else one for one in found]
        for machine in sorted(named, key=lambda machine: (-len(machine.facts.cores), machine.name)):
            self.machines[machine.name] = machine
            self.presence.note_there(machine.name)

    def troubles(self) -> Mapping[str, str]:
        """What is wrong with machines, by name, as a text that follows the name. Thread-safe."""
        return {**self._strangers, **self.presence.troubles()}

    def look(self) -> list[RayMachine]:
        """Check which machines are there. Returns those that have joined or have a new agent, with their names.

        Raises:
            ConfigError, WorkerLost: a machine that has joined cannot be used; all others were checked.
        """
        nodes = self._connection.nodes()
        reachable = self._reachable(nodes)
        dead = self._ask_all({node["NodeID"] for node in nodes}, {node["NodeID"] for node in reachable})
        known = {machine.node_id for machine in self.machines.values()} - dead
        fresh = [node for node in reachable if node["NodeID"] not in known and self._is_due(node["NodeID"])]
        found, troubles = self._start_agents(fresh)
        self._strangers = {**self._strangers, **{name: _trouble(error) for name, error in troubles.items()}}
        joined = [self._take_in(machine) for machine in found]
        if troubles:
            raise next(iter(troubles.values()))
        return joined

    def _reachable(self, nodes: Sequence[Any]) -> list[Any]:
        """The nodes that accept connections; notes the others. Ray considers a machine alive for a while after it is
        gone."""
        if not nodes:
            return []
        with ThreadPoolExecutor(min(len(nodes), _REACHED_AT_ONCE)) as pool:
            reached = list(pool.map(lambda node: can_be_reached(_raylet_of(node)), nodes))
        known = {machine.node_id: machine.name for machine in self.machines.values()}
        addresses = {node["NodeManagerAddress"] for node, is_reached in zip(nodes, reached, strict=True) if is_reached}
        addresses |= {machine.address for machine in self.machines.values()}
        strangers: dict[str, str] = {}
        for node, is_reached in zip(nodes, reached, strict=True):
            if is_reached:
                continue
            trouble = unreachable(_raylet_of(node))
            if name := known.get(node["NodeID"]):
                self.presence.note_trouble(name, trouble)
            elif node["NodeManagerAddress"] not in addresses:  # else it is the former node of one that came back
                strangers[_name_of(node, nodes)] = trouble
        self._strangers = strangers
        return [node for node, is_reached in zip(nodes, reached, strict=True) if is_reached]

    def _ask_all(self, alive: set[str], reachable: set[str]) -> set[str]:
        """Ask all agents whether they are there. Returns the nodes whose agents have ended permanently."""
        dead: set[str] = set()
        for name, machine in self.machines.items():
            if machine.node_id not in alive:
                self.presence.note_trouble(name, HAS_LEFT)
                self._questions.pop(name, None)
            elif machine.node_id in reachable and name not in self._questions:
                self._questions[name] = (machine.agent.facts.remote(), time.monotonic())
        references = [reference for reference, _ in self._questions.values()]
        ray = self._connection.ray
        answered = ray.wait(references, num_returns=len(references), timeout=_ANSWER_S)[0] if references else []
        for name, (reference, asked_s) in list(self._questions.items()):
            machine = self.machines[name]
            if reference not in answered:
                if time.monotonic() - asked_s >= _SILENCE_S and machine.node_id in reachable:
                    self.presence.note_trouble(name, DOES_NOT_ANSWER)
                continue
            del self._questions[name]
            if machine.node_id not in reachable:
                continue
            try:
                facts = answer_of(ray, reference, name)
            except ShoalError as error:
                self.presence.note_trouble(name, _trouble(error))
                if isinstance(error.__cause__, ray.exceptions.ActorDiedError):
                    dead.add(machine.node_id)
            else:
                self.machines[name] = replace(machine, facts=facts)
                self.presence.note_there(name)
        return dead

    def _is_due(self, node_id: str) -> bool:
        """Whether to try to start an agent there now: at once at first, then less and less often."""
        if self._wait_looks[node_id]:
            self._wait_looks[node_id] -= 1
            return False
        self._wait_looks[node_id] = min(2 ** self._attempts[node_id] - 1, _MOST_LOOKS)
        self._attempts[node_id] += 1
        return True

    def _start_agents(self, nodes: Sequence[Any]) -> tuple[list[RayMachine], dict[str, ShoalError]]:
        """Start an agent on each node. Returns the machines, named by their addresses, and the errors of the others by
        name."""
        ray = self._connection.ray
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        actor = ray.remote(num_cpus=0, max_concurrency=_CALLS_AT_ONCE, max_restarts=-1)(MachineAgent)
        agents = [
            actor.options(scheduling_strategy=strategy(node["NodeID"], soft=False)).remote(
                node["NodeManagerAddress"], self._ports
            )
            for node in nodes
        ]
        references = [agent.facts.remote() for agent in agents]
        deadline_s = time.monotonic() + AGENT_TIMEOUT_S
        found: list[RayMachine] = []
        troubles: dict[str, ShoalError] = {}
        for node, agent, reference in zip(nodes, agents, references, strict=True):
            name, left_s = _name_of(node, nodes), max(0.0, deadline_s - time.monotonic())
            try:
                wait_for(ray, reference, f"machine {name} {DOES_NOT_ANSWER}", left_s, self._is_wanted)
                machine = _machine(node, agent, answer_of(ray, reference, name))
                _check_version(machine, name)
            except ShoalError as error:
                troubles[name] = error
                ray.kill(agent)
            else:
                found.append(machine)
        return found, troubles

    def _take_in(self, joined: RayMachine) -> RayMachine:
        """Add a machine that has joined. One that has come back keeps its name."""
        name = name_of_joined(joined, list(self.machines.values()), self.presence.living())
        machine = self.machines[name] = replace(joined, name=name)
        self._questions.pop(name, None)
        self._attempts[machine.node_id] = 0
        self.presence.note_joined(name)
        return machine


def _machine(node: Any, agent: Any, facts: Any) -> RayMachine:
    return RayMachine(
        node_id=node["NodeID"],
        name=node["NodeManagerAddress"],
        address=node["NodeManagerAddress"],
        raylet_port=node["NodeManagerPort"],
        facts=facts,
        agent=agent,
    )


def _raylet_of(node: Any) -> tuple[str, int]:
    return node["NodeManagerAddress"], node["NodeManagerPort"]


def _name_of(node: Any, nodes: Sequence[Any]) -> str:
    """The node's host name, or its address if several nodes have the same host name."""
    hostname = node["NodeManagerHostname"]
    is_one = sum(other["NodeManagerHostname"] == hostname for other in nodes) == 1
    return hostname if is_one and hostname else node["NodeManagerAddress"]


def _check_version(machine: RayMachine, name: str) -> None:
    own, theirs = version(DISTRIBUTION), machine.facts.version
    if theirs != own:
        raise ConfigError(
            f"machine {name} has Shoal {theirs}, but this one has {own}; install the same version everywhere"
        )


def _trouble(error: ShoalError) -> str:
    """What is wrong with a machine, as a text that follows its name."""
    return DOES_NOT_ANSWER if isinstance(error, WorkerLost) else f"cannot be used: {error}"
