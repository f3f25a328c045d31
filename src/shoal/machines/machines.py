"""Several machines, as planning and launching see them; who finds and reaches them does not matter here."""

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
    """Those that one model may use. They are at hand until `close`."""

    def cores(self) -> Sequence[MachineCores]:
        """Of each machine: those that have fewest workers of other models of this process first, then the largest."""
        ...

    @property
    def later_bytes(self) -> Sequence[int]:
        """Weights of each model of this process that is still to come."""
        ...

    def for_another_model(self, later_bytes: Sequence[int] = ()) -> Machines:
        """The same machines for one more model of this process, as far as they are there now; to be closed by itself.

        Blocks for seconds, until machines have said what they have free.

        Args:
            later_bytes: see the property.
        """
        ...

    def free_memory_bytes(self) -> int:
        """Of the machine that has least."""
        ...

    def find_model(self, path: Path, adapters: Sequence[Path] = ()) -> None:
        """Ask which machines have the same model, and its adapters, at the same paths. To be called first.

        Args:
            path: of the model here.
            adapters: of each the `model.adapter.files.file_to_send`.

        Raises:
            ModelLoadError: one cannot be read.
        """
        ...

    def bring_model(self, plan: Plan | GraphPlan, num_layers: int, on_progress: Callable[[str], None]) -> None:
        """Send those that lack the model or an adapter what the plan's workers need there.

        Args:
            plan: with a machine for every worker.
            num_layers: of a language model; a graph has 1.
            on_progress: told how far it is.

        Raises:
            WorkerLost: a machine is gone.
            ModelLoadError, CapacityError: the model cannot be read here or kept there.
        """
        ...

    def measure(
        self,
        model: ModelOnDisk,
        precisions: Sequence[Precision],
        measuring: Measuring,
        known: PlacedFleet | None = None,
    ) -> PlacedFleet:
        """One worker on each machine, and the links between them. Raises as `measure.language.fleet.measure_fleet`.

        Args:
            model: what the workers run.
            precisions: at which to measure it.
            measuring: how; what is known on the machines counts as known.
            known: machines that were measured before; they come first, as they were.
        """
        ...

    def measure_graph(
        self, setting: GraphSetting, measuring: Measuring, known: PlacedGraphFleet | None = None
    ) -> PlacedGraphFleet:
        """One worker on each machine with an ONNX graph, and the links between them.

        Args:
            setting: the graph and a micro-batch.
            measuring: how.
            known: see `measure`.

        Raises:
            ConfigError, ModelLoadError, WorkerLost: as `measure.graph.profile.measure_worker`.
        """
        ...

    def find_joined(self) -> Sequence[str]:
        """Look for machines that have joined, or answer again, since the last time, to be used from now on.

        Blocks for seconds, in any one thread.

        Raises:
            ConfigError: a machine that has joined has no Shoal, or another version of it; it is left out.
            WorkerLost: a machine that has joined does not answer, or who knows the machines does not.
        """
        ...

    def living(self) -> frozenset[str]:
        """Those that were there when machines were last looked for, by name."""
        ...

    def troubles(self) -> Mapping[str, str]:
        """What is wrong with the others, by name; it follows the name in a sentence. Thread-safe."""
        ...

    def headless(self) -> str | None:
        """Why who knows the machines was taken to be gone when they were last looked for; None: it answers.

        Without it this process will not live for longer than a minute.
        """
        ...

    def strike(self, machine: str, strike: Strike) -> None:
        """Do to a machine, or to a worker there, what a drill asks for; blocks for a moment, in any one thread.

        Raises:
            ConfigError: there is no such machine or worker, or its cable is pulled already.
            WorkerLost: the machine does not answer.
        """
        ...

    def stop_waiting(self) -> None:
        """Whoever waits for a machine in another thread gets a WorkerLost, now and from now on."""
        ...

    def launcher(self) -> WorkerLauncher:
        """Makes workers there."""
        ...

    def close(self) -> None:
        """Leave them to the other models that use them; after the last one, what was started there ends. Idempotent."""
        ...


def describe_machines(machines: Machines, workers: Iterable[WorkerPlacement]) -> list[dict[str, str]]:
    """`name` and `state` of each machine, as plain data; `workers`: those of a running plan."""
    troubles = machines.troubles()
    used = {worker.machine for worker in workers}
    names = dict.fromkeys([*(machine.name for machine in machines.cores()), *troubles])
    return [
        {"name": name, "state": troubles.get(name) or ("has workers" if name in used else "has no workers")}
        for name in names
    ]
