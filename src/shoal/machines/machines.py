"""The interface through which planning and launching use several machines, however these are found and reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from shoal.core.plan.graph import GraphPlan
from shoal.core.plan.language import Plan
from shoal.core.plan.placement import WorkerPlacement
from shoal.measure.measuring import Measuring
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import Precision
from shoal.planner.split.machine_places import MachineCores

if TYPE_CHECKING:
    from shoal.executor.launcher import WorkerLauncher
    from shoal.executor.remote.strikes import Strike
    from shoal.machines.placed_fleet import PlacedFleet, PlacedGraphFleet  # with all that chooses plans
    from shoal.measure.graph.profile import GraphSetting


class Machines(Protocol):
    """The machines that one model may use, until `close`."""

    def cores(self) -> Sequence[MachineCores]:
        """The cores of each machine. Machines with the fewest workers of this process's other models come first, then
        the largest."""
        ...

    @property
    def later_bytes(self) -> Sequence[int]:
        """Bytes of the weights of each model that this process has yet to load."""
        ...

    def for_another_model(self, later_bytes: Sequence[int] = ()) -> Machines:
        """The machines that are there now, for one more model of this process. The result must be closed separately.

        Blocks for seconds, until the machines have reported their free memory.

        Args:
            later_bytes: see the property.
        """
        ...

    def free_memory_bytes(self) -> int:
        """Free memory of the machine that has least."""
        ...

    def find_model(self, path: Path, adapters: Sequence[Path] = ()) -> None:
        """Ask which machines have the same model and adapters at the same paths. Must be called first.

        Args:
            path: the path of the model here.
            adapters: the `model.adapter.files.file_to_send` of each adapter.

        Raises:
            ModelLoadError: a file cannot be read.
        """
        ...

    def bring_model(self, plan: Plan | GraphPlan, num_layers: int, on_progress: Callable[[str], None]) -> None:
        """Send the parts of the model and adapters that the plan's workers need to the machines that lack them.

        Args:
            plan: a plan with a machine for every worker.
            num_layers: the number of layers of a language model; 1 for a graph.
            on_progress: called with lines that report the progress.

        Raises:
            WorkerLost: a machine is gone. ModelLoadError, CapacityError: the model cannot be read here or stored there.
        """
        ...

    def measure(
        self,
        model: ModelOnDisk,
        precisions: Sequence[Precision],
        measuring: Measuring,
        known: PlacedFleet | None = None,
    ) -> PlacedFleet:
        """Measure one worker on each machine, and the links between them. Raises: as
        `measure.language.fleet.measure_fleet`.

        Args:
            model: the model that the workers run.
            precisions: the precisions to measure.
            measuring: how to measure; results stored on the machines are used.
            known: machines that were measured before; they come first, unchanged.
        """
        ...

    def measure_graph(
        self, setting: GraphSetting, measuring: Measuring, known: PlacedGraphFleet | None = None
    ) -> PlacedGraphFleet:
        """Measure one worker with an ONNX graph on each machine, and the links between them.

        Args:
            setting: the graph and a micro-batch.
            measuring: how to measure.
            known: see `measure`.

        Raises:
            ConfigError, ModelLoadError, WorkerLost: as `measure.graph.profile.measure_worker`.
        """
        ...

    def find_joined(self) -> Sequence[str]:
        """Find machines that have joined or answer again since the last call; they are used from now on. Returns names.

        Blocks for seconds. May be called from any thread, one at a time.

        Raises:
            ConfigError: a machine that has joined has no Shoal, or another version of it; it is left out.
            WorkerLost: a machine that has joined, or the cluster's head, does not answer.
        """
        ...

    def living(self) -> frozenset[str]:
        """Names of the machines that were there at the last look."""
        ...

    def troubles(self) -> Mapping[str, str]:
        """What is wrong with the other machines, by name, as a text that follows the name. Thread-safe."""
        ...

    def headless(self) -> str | None:
        """Why the cluster's head was considered gone at the last look; None: it answers.

        Without the head this process will end within about a minute.
        """
        ...

    def strike(self, machine: str, strike: Strike) -> None:
        """Carry out a drill's strike on a machine or a worker there. Blocks briefly; one thread at a time may call it.

        Raises:
            ConfigError: there is no such machine or worker, or its cable is already pulled.
            WorkerLost: the machine does not answer.
        """
        ...

    def stop_waiting(self) -> None:
        """Make all waits for machines in other threads raise WorkerLost, present and future ones."""
        ...

    def launcher(self) -> WorkerLauncher:
        """A launcher that starts workers on the machines."""
        ...

    def close(self) -> None:
        """Stop using the machines. After the last model has, everything started there ends. Idempotent."""
        ...


def describe_machines(machines: Machines, workers: Iterable[WorkerPlacement]) -> list[dict[str, str]]:
    """`name` and `state` of each machine, as plain data; `workers` are the workers of the running plan."""
    troubles = machines.troubles()
    used = {worker.machine for worker in workers}
    names = dict.fromkeys([*(machine.name for machine in machines.cores()), *troubles])
    return [
        {"name": name, "state": troubles.get(name) or ("has workers" if name in used else "has no workers")}
        for name in names
    ]
