"""Planning of a language model from the user's options: a given split, a stored plan, or a chosen one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.config import LaunchConfig
from shoal.core.plan.devices.workers import deal_devices
from shoal.core.plan.language import Plan
from shoal.core.plan.rebuilding import with_placements
from shoal.core.speed.routing import Routing, parse_routing
from shoal.errors import ConfigError
from shoal.launch.devices import Offer, devices_by_hand, offer_for
from shoal.launch.language.by_hand import (
    check_processors,
    chooses_devices,
    plan_by_hand,
    spec_for_devices,
    spec_that_fits,
)
from shoal.launch.language.graph_spec import check_plannable, graph_spec
from shoal.launch.language.process_memory import with_processes
from shoal.launch.planned import Planned
from shoal.machines.machines import Machines
from shoal.machines.opening import open_machines
from shoal.measure.free_memory import free_memory_bytes
from shoal.measure.measuring import Measuring
from shoal.model.adapter.adapter import MAX_ADAPTERS
from shoal.model.adapter.files import file_to_send, find_adapter
from shoal.model.find_model import find_model
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import Precision, parse_precision
from shoal.planner.link_precision import parse_link_precisions
from shoal.planner.memory.fit import check_memory
from shoal.planner.memory.plan_memory import with_exact_activations
from shoal.planner.split.split_spec import AUTO, parse_split
from shoal.protocol.language_messages import AdapterFile

if TYPE_CHECKING:
    from shoal.launch.language.auto_plan import AutoPlan
    from shoal.planner.speeds.speeds import Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel(Planned[Plan, "AutoPlan"]):
    """A language model that was found and planned, without any started workers."""

    model: ModelOnDisk
    in_process: bool = True
    """See LaunchConfig.in_process."""
    routing: Routing = "earliest-finish"
    """The rule that chooses a request's replica."""
    replans: bool = False
    """See LaunchConfig.replans."""
    keep_weights: bool = True
    """See LaunchConfig.keep_weights."""

    def close(self) -> None:
        """Leave other machines and close the model's files. Idempotent; not needed if the plan is launched."""
        self.model.close()
        Planned.close(self)  # a dataclass with slots has no `super()`


def plan_model(
    config: LaunchConfig,
    on_progress: Callable[[str], None] = lambda what: None,
    *,
    machines: Machines | None = None,
) -> PlannedModel:
    """Find the model and decide its split; weights are read only to measure, for `auto`.

    Args:
        config: the user's options.
        on_progress: called with what is being measured.
        machines: the machines to plan for, if they are open already; they are closed if planning fails.

    Raises:
        ConfigError: the split, plan, precision, routing or limits are invalid for this model.
        ModelLoadError: the file is missing, damaged or of an unknown kind.
        CapacityError: the model needs more memory than is available.
        WorkerLost: another machine does not answer.
    """
    with ExitStack() as on_failure:
        machines = machines or open_machines(config.planning.cluster)
        if machines is not None:
            on_failure.callback(machines.close)
        planned = _plan_for(config, machines, on_progress)
        on_failure.pop_all()
    return planned


def _plan_for(config: LaunchConfig, machines: Machines | None, on_progress: Callable[[str], None]) -> PlannedModel:
    """See `plan_model`."""
    if config.merged_adapter is not None:
        config = replace(config, keep_weights=False)  # kept weights belong to the model's own files
    planning = config.planning
    spec = None if config.plan_file or config.split == AUTO else parse_split(config.split)
    devices = () if chooses_devices(config) else devices_by_hand(config.devices)
    spec = spec_for_devices(config, spec, devices)
    routing, precision = parse_routing(config.routing), parse_precision(config.precision)
    link_precisions = parse_link_precisions(planning.link_precision)
    adapters = find_adapters(config)
    sizes_suffice = planning.settings_suffice and _describes_all(planning.cluster)
    model = find_model(config.model, sizes_suffice=sizes_suffice, adapters=adapters)
    if model.is_graph:
        spec = graph_spec(config, spec, precision)
    elif spec is None and model.config.encoder is not None and not config.plan_file:
        check_processors(config)
    if spec is not None and chooses_devices(config):
        devices = devices_by_hand(config.devices)  # these models leave nothing to choose
    if machines is not None:
        on_progress("whether all machines have the model")
        machines.find_model(model.path, [file_to_send(one.path) for one in adapters])
    auto: AutoPlan | None = None
    if config.plan_file is not None:
        plan = _stored_plan(config.plan_file, config, model)
    elif spec is None:
        auto = _auto_plan(config, model, precision, machines, on_progress)
        plan = auto.plan
    else:
        _check_shards(model, spec.num_shards)
        plan = plan_by_hand(config, spec, model, precision, machines)
        if (fitting := spec_that_fits(plan, spec, model, devices)) is not None:
            plan = plan_by_hand(config, fitting, model, precision, machines)
        plan = with_placements(plan, deal_devices(plan.shards, devices, config.devices))
    _check_shards(model, max(len(stage.shards) for one in plan.replicas for stage in one.stages))
    plan = replace(plan, shape=model.shape, has_memories=model.config.encoder is not None)
    if config.exact_activations:
        plan = with_exact_activations(plan)
    is_here = is_computed_here(plan, config.in_process)
    plan = with_processes(plan, model, keeps_weights=config.keep_weights, are_forked=not is_here)
    if len(link_precisions) == 1:
        plan = replace(plan, link_precision=link_precisions[0])
    blocks = model.blocks(plan.precision, exact_activations=plan.exact_activations)
    check_memory(plan, blocks=blocks, available_bytes=free_memory_bytes(), shares_weights=config.keep_weights)
    return PlannedModel(
        model=model,
        plan=plan,
        in_process=config.in_process,
        auto=auto and replace(auto, plan=plan),
        routing=routing,
        replans=config.replans,
        machines=machines,
        keep_weights=config.keep_weights,
    )


def is_computed_here(plan: Plan, in_process: bool) -> bool:
    """Whether the plan has one worker that needs no process of its own. `in_process`: see LaunchConfig.in_process."""
    is_plain = not any(shard.cpu_quota or shard.machine or shard.device for shard in plan.shards)
    return in_process and is_plain and plan.num_workers == 1


def find_adapters(config: LaunchConfig) -> tuple[AdapterFile, ...]:
    """The files of the adapters that the user named.

    Raises:
        ConfigError: there are too many.
        ModelLoadError: a file is missing.
    """
    if len(config.adapters) > MAX_ADAPTERS:
        raise ConfigError(f"there are {len(config.adapters)} adapters; a model may have at most {MAX_ADAPTERS}")
    found = [find_adapter(name, Path(path)) for name, path in config.adapters.items()]
    if config.merged_adapter is not None:
        found.append(find_adapter("merged", Path(config.merged_adapter), is_merged=True))
    return tuple(found)


def compute_exactly(planned: PlannedModel) -> PlannedModel:
    """The plan without 8-bit activations, so that results of different splits differ only by the order of sums."""
    return replace(planned, plan=with_exact_activations(planned.plan))


def measure_fleets(config: LaunchConfig, on_progress: Callable[[str], None] = lambda what: None) -> list[Fleet]:
    """Measure the fleets from which `auto` would choose: divisions of this machine, or machines of the cluster file.

    Raises:
        ConfigError, ModelLoadError, CapacityError: as `plan_model`.
        WorkerLost: a measuring process died or did not answer.
    """
    from shoal.launch.language.fleets import find_fleets  # imports all that measures

    model, precision = find_model(config.model), parse_precision(config.precision)
    check_plannable(model)
    machines = open_machines(config.planning.cluster)
    try:
        if machines is not None:
            machines.find_model(model.path)
        measuring = _measuring(config, on_progress)
        fleets = find_fleets(config.planning.cluster, model, (precision,), measuring, machines)
    finally:
        if machines is not None:
            machines.close()
    return [one.fleet for one in fleets]


def _measuring(config: LaunchConfig, on_progress: Callable[[str], None]) -> Measuring:
    planning = config.planning
    return Measuring(
        threads=config.threads, refresh=planning.refresh, is_rough=planning.is_rough, on_progress=on_progress
    )


def _describes_all(cluster: str | None) -> bool:
    """See `fleets.describes_all`."""
    from shoal.launch.language.fleets import describes_all  # imports all that measures

    return describes_all(cluster)


def _check_shards(model: ModelOnDisk, num_shards: int) -> None:
    """Check that the model can be divided into so many shards. Raises ConfigError."""
    if num_shards > 1 and model.config.encoder is not None:
        raise ConfigError("a model with an encoder is not cut into shards: split it with dp and pp")


def _stored_plan(name: str, config: LaunchConfig, model: ModelOnDisk) -> Plan:
    from shoal.launch.stored_plan import read_stored_plan  # imports PyYAML
    from shoal.planner.files.plan_check import check_plan

    plan = read_stored_plan(name, Plan, model=config.model, shape=model.shape)
    try:
        check_plan(plan, num_layers=model.config.num_layers, atoms=model.atoms)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    return replace(plan, model=config.model)


def _auto_plan(
    config: LaunchConfig,
    model: ModelOnDisk,
    precision: Precision,
    machines: Machines | None,
    on_progress: Callable[[str], None],
) -> AutoPlan:
    from shoal.launch.language.asked import limits_of  # these two import all that measures and searches
    from shoal.launch.language.auto_plan import AutoPlanner

    is_elsewhere = machines is not None or config.planning.cluster is not None
    planner = AutoPlanner(
        config.planning,
        model,
        precision,
        limits=limits_of(config, model),
        measuring=_measuring(config, on_progress),
        machines=machines,
        shares_weights=config.keep_weights,
        offer=Offer() if model.config.encoder else offer_for(config.devices, is_elsewhere=is_elsewhere),
    )
    return planner.plan()
