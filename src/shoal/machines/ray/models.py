"""The paths of the model and its adapters on each machine, and sending them to machines that lack them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shoal.comm.tls.tls_identity import ClusterAuthority
from shoal.comm.tls.tls_link import Address
from shoal.errors import ModelChanged
from shoal.executor.remote.model_identity import identify
from shoal.executor.remote.model_parts import Layers, chunks_of, files_of, states_of
from shoal.executor.remote.model_stream import send_model
from shoal.machines.ray.machine import RayMachine
from shoal.model.file_states import CHANGED, unchanged
from shoal.protocol.worker_messages import FileState

_MB = 1e6


class ModelPlaces:
    """The places of one model and its adapters. `bring` is thread-safe."""

    def __init__(
        self, path: Path, machines: Sequence[RayMachine], get: Callable[..., Any], adapters: Sequence[Path] = ()
    ) -> None:
        """Ask every machine whether it has the same files at the same path.

        Args:
            path: the path of the model here.
            machines: all machines.
            get: waits for an agent's answer, see `RayMachines.get`.
            adapters: the `file_to_send` of each adapter of the model.

        Raises:
            ModelLoadError: the model cannot be read.
            WorkerLost: a machine does not answer.
        """
        self._path, self._get = path, get
        self._files = files_of(path)
        self._states = self._look()
        with unchanged(self._states, self._look):
            self._identity = identify(path)
        self._machines: dict[str, RayMachine] = {}
        self._stored: dict[str, str] = {}
        """By machine that lacks the model, the path to which it is sent."""
        self._brought: dict[str, set[Layers]] = {}
        """By machine, the ranges of layers that were sent."""
        self._authority = ClusterAuthority()
        asked = [(machine, self._ask(machine)) for machine in machines]
        for machine, reference in asked:
            self._note(machine, reference)
        self._adapters = {str(adapter): ModelPlaces(adapter, machines, get) for adapter in adapters}

    def add(self, machine: RayMachine) -> None:
        """Ask a machine that has joined or come back. Raises WorkerLost."""
        self._note(machine, self._ask(machine))
        for adapter in self._adapters.values():
            adapter.add(machine)

    def lacks(self, machine: str) -> bool:
        """Whether the machine has only the parts of the model that are sent to it."""
        return machine in self._stored

    def path_on(self, machine: str, path: str | None = None) -> str:
        """Where a worker on that machine finds the model, or the adapter whose `file_to_send` here is at `path`."""
        if path is not None and path in self._adapters:
            return self._adapters[path].path_on(machine)
        return self._stored.get(machine, str(self._path))

    def bring(
        self,
        machine: str,
        layers: Layers,
        num_layers: int,
        tell: Callable[[str], None] = lambda line: None,
        is_wanted: Callable[[], bool] = lambda: True,
        note_progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Make sure that a machine has some layers and all adapters. The first layer brings the embedding along, the
        last one the head.

        Args:
            machine: the name of the machine.
            layers: the layers of a language model; a graph is sent whole.
            num_layers: the number of layers of the language model.
            tell: called with lines that report the progress.
            is_wanted: called before each chunk; returns whether to go on.
            note_progress: called after each chunk.

        Raises:
            WorkerLost: the machine is gone, or the model is no longer wanted.
            ModelChanged: the files here or there have changed. ModelLoadError, CapacityError: the model cannot be read
            here or stored there.
        """
        for adapter in self._adapters.values():
            adapter.bring(machine, (0, num_layers), num_layers, tell, is_wanted, note_progress)
        brought = self._brought.get(machine)
        if brought is None:
            self._check_that_it_has_it(machine)
            return
        if any(first <= layers[0] and layers[1] <= last for first, last in tuple(brought)):
            return
        wanted = chunks_of(self._path, self._files, layers, num_layers)
        agent = self._machines[machine].agent
        membership = self._authority.admit(self._get(agent.signing_request.remote(), machine))
        receiver: Address = self._get(agent.receive_model.remote(membership, self._identity, wanted), machine)
        told = -1

        def show(done: int, total: int) -> None:
            nonlocal told
            note_progress()
            if total and (tenths := 10 * done // total) > told:
                told = tenths
                tell(f"{machine} has {done / _MB:.0f} of {total / _MB:.0f} MB of the model that it lacked")

        who = f"machine {machine}"
        with unchanged(self._states, self._look):
            send_model(self._path, receiver, self._authority.issue(), show, is_wanted, who=who)
        brought.add(layers)

    def _look(self) -> tuple[FileState, ...]:
        return states_of(self._path, self._files)

    def _check_that_it_has_it(self, machine: str) -> None:
        """Check that a machine still has the model's files. Raises ModelChanged, WorkerLost."""
        has_it, _ = self._get(self._ask(self._machines[machine]), machine)
        if not has_it:
            raise ModelChanged(f"{machine}: {CHANGED}")

    def _ask(self, machine: RayMachine) -> Any:
        return machine.agent.find_model.remote(str(self._path), self._identity)

    def _note(self, machine: RayMachine, reference: Any) -> None:
        """Note a machine's answer to `_ask`."""
        has_it, stored = self._get(reference, machine.name)
        self._stored.pop(machine.name, None)
        self._brought.pop(machine.name, None)
        if not has_it:
            self._stored[machine.name], self._brought[machine.name] = stored, set()
        self._machines[machine.name] = machine
