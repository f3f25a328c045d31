"""Planning of a cluster to simulate: a plan, and the speed of each of its workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shoal.config import LaunchConfig
from shoal.core.plan.language import Plan, ReplicaPlan, ShardPlan
from shoal.errors import ConfigError
from shoal.executor.load_message import scheduler_config
from shoal.forecast.serving_times import serving_times
from shoal.launch.cluster_places import places_of, read_cluster_file
from shoal.launch.language.by_hand import plan_by_hand
from shoal.launch.language.fleets import fleet_from_file
from shoal.launch.language.planning import PlannedModel, plan_model
from shoal.machines.opening import RAY
from shoal.measure.free_memory import free_memory_bytes
from shoal.measure.language.fleet import class_of_each, measure_fleet
from shoal.measure.measuring import Measuring
from shoal.measure.slots import Slot
from shoal.model.find_model import find_model
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import Precision, parse_precision
from shoal.planner.files.cluster_file import ClusterFile
from shoal.planner.link_precision import over_links
from shoal.planner.predict.load_seconds import load_seconds
from shoal.planner.predict.placement import place
from shoal.planner.predict.step_seconds import StepSeconds
from shoal.planner.speeds.drift import Drift
from shoal.planner.speeds.serving import NO_SERVING, ServingTimes
from shoal.planner.speeds.speeds import ExpertRouting, Fleet
from shoal.planner.speeds.unevenness import EVEN, Unevenness
from shoal.planner.split.fewer_workers import plan_without
from shoal.planner.split.machine_places import MachineCores, place_on_machines
from shoal.planner.split.split_spec import AUTO, parse_split
from shoal.sim.cluster.predicted_workers import SimulatedReplicaPlan

_HIDDEN_ITEM_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class InService:
    """Ratios of the seconds of steps while a server uses the workers to those of the same workers by themselves."""

    prefill: float
    """The ratio for prompt rows."""
    one_row: float
    """The ratio for a single output row."""
    many_rows: float
    """The ratio for several output rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCluster:
    """A plan with the speeds of all workers. Nothing of it runs."""

    model: ModelOnDisk
    plan: Plan
    fleet: Fleet
    worker_classes: tuple[int, ...]
    """The class of each worker in the fleet, in the order of `Plan.shards`."""
    machines: tuple[str, ...]
    """The machine of each worker: its name in the cluster file, or this machine's cores."""
    prices_per_hour: dict[str, float]
    """The prices of the machines that have one."""
    serving: ServingTimes = NO_SERVING
    """Processor time of serving, including clients; measured if the cluster is this machine."""
    num_cores: int | None = None
    """Cores that head and workers share; None: the head has cores of its own."""
    drift: Drift | None = None
    """Drift of the workers' speed since it was measured, for which `fleet` is corrected; None: not checked."""
    in_service: InService | None = None
    """Slowdown of the workers in service, for which `fleet` is corrected; None: not observed."""
    unevenness: tuple[Unevenness, ...] = ()
    """The unevenness of each replica's speed while it served; empty: not observed."""

    def replicas(self) -> tuple[SimulatedReplicaPlan, ...]:
        """All replicas, ready to be simulated."""
        return tuple(self._simulated(index, replica) for index, replica in enumerate(self.plan.replicas))

    def without_worker(self, index: int, worker: int) -> SimulatedReplicaPlan:
        """A replica planned again without one worker, as by a server; unchanged if it has no other worker."""
        replica = self.plan.replicas[index]
        blocks = self.model.blocks(self.plan.precision, exact_activations=self.plan.exact_activations)
        fewer = plan_without(self.plan, replica, worker, blocks=blocks, whole=self.model.whole)
        if fewer is None:
            return self._simulated(index, replica)
        return self._simulated(index, fewer, without=worker)

    def _simulated(self, index: int, replica: ReplicaPlan, *, without: int | None = None) -> SimulatedReplicaPlan:
        at = sum(len(one.shards) for one in self.plan.replicas[:index])
        seats = [at + own for own in range(len(self.plan.replicas[index].shards)) if own != without]
        seats = seats[: len(replica.shards)]
        classes = [self.worker_classes[seat] for seat in seats]
        (placed,) = place(replace(self.plan, replicas=(replica,)), classes, self.model.atoms)
        return SimulatedReplicaPlan(
            config=scheduler_config(self.plan, replica),
            times=StepSeconds(placed, self.fleet, hidden_bytes=self.model.config.hidden_size * _HIDDEN_ITEM_BYTES),
            workers=tuple(self.machines[seat] for seat in seats),
            stage_sizes=tuple(len(stage.shards) for stage in replica.stages),
            worker_load_s=tuple(load_seconds(shard.weight_bytes) for shard in replica.shards),
            worker_threads=() if self.num_cores is None else tuple(shard.threads for shard in replica.shards),
            unevenness=self.unevenness[index] if self.unevenness else EVEN,
        )


def plan_cluster(config: LaunchConfig, on_progress: Callable[[str], None] = lambda what: None) -> PlannedCluster:
    """Plan a model for the machines of a file, or for this one, and measure or estimate its workers.

    For this machine, the processor time of serving is measured as well.

    Args:
        config: what the user asked for. Weights are not needed if all machines are described.
        on_progress: called with what is being measured.

    Raises:
        ConfigError: the cluster is not a file, or the split, plan or file is invalid.
        ModelLoadError: the model is missing or broken.
        CapacityError: it fits nowhere.
        WorkerLost: a measuring process died or did not answer.
    """
    name = config.planning.cluster
    if name == RAY:
        raise ConfigError(
            "a Ray cluster cannot be simulated, only measured: describe its machines in a file (docs/planning.md)"
        )
    cluster = None if name is None else read_cluster_file(name)
    if config.plan_file is None and config.split != AUTO and cluster is not None:
        model = find_model(config.model, sizes_suffice=not any(one.is_local for one in cluster.machines))
        planned = PlannedModel(model=model, plan=_dealt(config, model, cluster))
    else:
        planned = plan_model(config, on_progress)
    fleet, classes = _speeds(planned, cluster, config, on_progress)
    serving, num_cores = NO_SERVING, None
    if cluster is None:
        on_progress("requests, by serving the model for some seconds")
        serving = serving_times(
            config.model, planned.model.config.vocab_size, fleet.turn, refresh=config.planning.refresh
        )
        num_cores = len(os.sched_getaffinity(0))
    experts = planned.model.config.experts
    routing = experts and ExpertRouting(num_experts=experts.num_experts, num_chosen=experts.num_chosen)
    return PlannedCluster(
        model=planned.model,
        plan=planned.plan,
        fleet=over_links(fleet, planned.plan.link_precision).routed(routing),
        worker_classes=tuple(classes),
        machines=tuple(map(_name_of, planned.plan.shards)),
        prices_per_hour={} if cluster is None else _prices(cluster),
        serving=serving,
        num_cores=num_cores,
    )


def _dealt(config: LaunchConfig, model: ModelOnDisk, cluster: ClusterFile) -> Plan:
    """The plan of a given split over the first machines of a file, with one worker on each."""
    spec, room = parse_split(config.split), _DescribedRoom(cluster)
    if spec.num_workers > len(room.cores()):
        raise ConfigError(
            f"--split {config.split} has {spec.num_workers} workers, but the file has {len(room.cores())} machines"
        )
    return place_on_machines(
        plan_by_hand(config, spec, model, parse_precision(config.precision), room), room.cores(), config.threads
    )


class _DescribedRoom:
    """Cores and memory of the machines of a file, for a given split."""

    def __init__(self, cluster: ClusterFile) -> None:
        self._cluster = cluster

    def cores(self) -> Sequence[MachineCores]:
        """The cores of each machine; those at hand are named by their entries."""
        return [
            MachineCores(name=place.machine or machine.name, cores=place.cores or tuple(range(place.threads)))
            for machine in self._cluster.machines
            for place in places_of(machine)
        ]

    def free_memory_bytes(self) -> int:
        """The memory of the smallest machine whose memory is known; otherwise this machine's free memory."""
        known = [one.memory_bytes for one in self._cluster.machines if one.memory_bytes is not None]
        return min(known, default=free_memory_bytes())


def _speeds(
    planned: PlannedModel, cluster: ClusterFile | None, config: LaunchConfig, on_progress: Callable[[str], None]
) -> tuple[Fleet, list[int]]:
    """The fleet, and the class of each worker of the plan in it."""
    plan, auto = planned.plan, planned.auto
    if auto is not None:
        candidate = auto.choice.best
        stages = [stage for replica in candidate.replicas for stage in replica]
        return auto.placed.fleet, [index for stage in stages for index in stage.group.members]
    measuring = Measuring(refresh=config.planning.refresh, on_progress=on_progress)
    precisions: list[Precision] = [*{stage.precision: None for replica in plan.replicas for stage in replica.stages}]
    if cluster is None:
        slots = [Slot(cores=shard.cores, cpu_quota=shard.cpu_quota or 1.0) for shard in plan.shards]
        return measure_fleet(planned.model, precisions, slots, measuring), class_of_each(slots)
    placed = fleet_from_file(cluster, planned.model, precisions, measuring)
    class_of = {
        name: index
        for index, (machine, places) in enumerate(zip(cluster.machines, placed.places, strict=True))
        for name in (machine.name, *(place.machine or machine.name for place in places))
    }
    missing = [name for name in map(_name_of, plan.shards) if name not in class_of]
    if missing:
        raise ConfigError(f"the plan has a worker on {missing[0]}, which the cluster file does not describe")
    return placed.fleet, [class_of[_name_of(shard)] for shard in plan.shards]


def _name_of(shard: ShardPlan) -> str:
    return shard.machine or f"cores {','.join(map(str, shard.cores)) or 'any'}"


def _prices(cluster: ClusterFile) -> dict[str, float]:
    return {
        place.machine or machine.name: machine.price_per_hour
        for machine in cluster.machines
        for place in places_of(machine)
        if machine.price_per_hour is not None
    }
