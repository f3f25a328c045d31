"""Starting workers on one machine of a Ray cluster, through its agent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any

from shoal.comm.tls.tls_link import format_address
from shoal.errors import MachineGone, ShoalError, WorkerLost
from shoal.executor.launcher import LoadMessage
from shoal.executor.remote.host import Admit, StartedWorker
from shoal.machines.ray.address import can_be_reached_soon
from shoal.machines.ray.answers import LOOK_S, answer_of, wait_for
from shoal.machines.ray.machine import RayMachine
from shoal.machines.ray.models import ModelPlaces
from shoal.machines.ray.presence import DOES_NOT_ANSWER, Presence, unreachable
from shoal.protocol.language_messages import LoadStage

AGENT_TIMEOUT_S = 60.0
"""Longest wait for a new agent: Ray starts a Python process on its machine."""
_ANSWER_TIMEOUT_S = 10.0
"""Longest wait for what a living agent answers at once. An estimate: a busy machine takes a second or two."""
_REACHED_S = 1.0
"""Longest wait for the machine to accept one of several connections. A replica that has lost workers there waits for
this before it is planned anew. A link that loses four packets in a row would be useless anyway."""
_START_TIMEOUT_S = 90.0
"""Longest wait for a worker to start; longer than its agent's own limit."""


class AbandonedStarts:
    """Worker starts that were given up. If one succeeds later, as when a stopped agent continues, its worker is ended.

    Thread-safe.
    """

    def __init__(self, ray: ModuleType) -> None:
        self._ray = ray
        self._lock = threading.Lock()
        self._starts: list[tuple[Any, Any]] = []
        """Pairs of the pending answer and the agent."""

    def add(self, reference: Any, agent: Any) -> None:
        """Add a start that was given up."""
        with self._lock:
            self._starts.append((reference, agent))

    def look(self) -> None:
        """End the workers that were started after all. Must be called regularly."""
        with self._lock:
            starts, self._starts = self._starts, []
        for reference, agent in starts:
            if not self._ray.wait([reference], timeout=0)[0]:
                self.add(reference, agent)
                continue
            try:
                started = answer_of(self._ray, reference, "")
            except ShoalError:
                continue  # the start failed
            agent.end.remote(started)


class RayHost:
    """Implements `WorkerHost` with the machine's agent."""

    def __init__(
        self,
        ray: ModuleType,
        machine: RayMachine,
        models: ModelPlaces | None,
        presence: Presence,
        abandoned: AbandonedStarts,
    ) -> None:
        """
        Args:
            ray: the module.
            machine: the machine with its agent.
            models: where machines have the model; None: the model is not sent.
            presence: notified if the machine cannot be used.
            abandoned: gets the starts that were given up.
        """
        self._ray, self._machine, self._models = ray, machine, models
        self._presence, self._abandoned = presence, abandoned
        self._ends: dict[int, Any] = {}
        """By process id, the agent's pending answer that the worker has ended."""
        self._statuses: dict[int, int | None] = {}
        """Exit statuses of ended workers, by process id."""

    def renew(self, machine: RayMachine) -> None:
        """Use the machine's new agent."""
        self._machine = machine

    @property
    def name(self) -> str:
        """See `WorkerHost.name`."""
        return self._machine.name

    def model_path(self, path: str) -> str:
        """See `WorkerHost.model_path`."""
        return path if self._models is None else self._models.path_on(self.name, path)

    def provide(self, load: LoadMessage, is_wanted: Callable[[], bool], note_progress: Callable[[], None]) -> None:
        """See `WorkerHost.provide`."""
        self._await_agent(is_wanted, note_progress)
        if self._models is not None:
            layers, num_layers = (0, 1), 1  # a graph goes whole
            if isinstance(load, LoadStage):
                layers, num_layers = (load.stage.first_layer, load.stage.last_layer), load.num_layers
            self._models.bring(self.name, layers, num_layers, is_wanted=is_wanted, note_progress=note_progress)

    def start(self, admit: Admit, is_wanted: Callable[[], bool], python: str | None = None) -> StartedWorker:
        """See `WorkerHost.start`."""
        agent = self._machine.agent
        request = agent.signing_request.remote()
        wait_for(self._ray, request, f"machine {self.name} does not answer", _ANSWER_TIMEOUT_S, is_wanted)
        reference = agent.start.remote(admit(answer_of(self._ray, request, self.name)), python)
        try:
            complaint = f"machine {self.name} has started no worker"
            wait_for(self._ray, reference, complaint, _START_TIMEOUT_S, is_wanted)
            return answer_of(self._ray, reference, self.name)
        except WorkerLost:
            self._abandoned.add(reference, agent)
            raise

    def end(self, worker: StartedWorker) -> None:
        """See `WorkerHost.end`."""
        with suppress(self._ray.exceptions.RayError):
            self._machine.agent.end.remote(worker)

    def has_ended(self, worker: StartedWorker) -> bool:
        """See `WorkerHost.has_ended`. If the agent is gone, so are its workers."""
        self.exit_status(worker)
        return worker.pid in self._statuses

    def exit_status(self, worker: StartedWorker, timeout_s: float = 0.0) -> int | None:
        """See `WorkerHost.exit_status`."""
        if worker.pid not in self._statuses:
            if worker.pid not in self._ends:
                self._ends[worker.pid] = self._machine.agent.wait_for_end.remote(worker)
            if not self._ray.wait([self._ends[worker.pid]], timeout=timeout_s)[0]:
                return None
            try:
                self._statuses[worker.pid] = answer_of(self._ray, self._ends.pop(worker.pid), self.name)
            except ShoalError:
                self._statuses[worker.pid] = None
        return self._statuses[worker.pid]

    def _await_agent(self, is_wanted: Callable[[], bool], note_progress: Callable[[], None]) -> None:
        """Wait for the agent, which Ray restarts if it has died. Raises ShoalError."""
        deadline_s = time.monotonic() + AGENT_TIMEOUT_S
        while True:
            where = (self._machine.address, self._machine.raylet_port)
            if not can_be_reached_soon(where, _REACHED_S):
                self._presence.note_trouble(self.name, unreachable(where))
                raise MachineGone(f"machine {self.name} cannot be reached at {format_address(where)}")
            reference = self._machine.agent.facts.remote()
            try:
                wait_for(self._ray, reference, f"machine {self.name} does not answer", _ANSWER_TIMEOUT_S, is_wanted)
            except WorkerLost:
                self._presence.note_trouble(self.name, DOES_NOT_ANSWER)
                raise
            try:
                answer_of(self._ray, reference, self.name)
                return
            except MachineGone:
                self._presence.note_trouble(self.name, DOES_NOT_ANSWER)
                raise
            except WorkerLost:
                if not is_wanted() or time.monotonic() >= deadline_s:
                    self._presence.note_trouble(self.name, DOES_NOT_ANSWER)
                    raise
            note_progress()
            time.sleep(LOOK_S)
