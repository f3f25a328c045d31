"""`--split auto`: measure the machines with the model, choose among all kinds of split, spell the choice out."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import cast

from shoal.config import PlanningConfig
from shoal.core.plan.language import Block, Plan, ReplicaPlan, ShardPart
from shoal.errors import ConfigError
from shoal.launch.language.fleets import fleet_from_file, local_fleets, read_cluster_file
from shoal.machines.machines import Machines
from shoal.machines.placed_fleet import PlacedFleet
from shoal.model.attention.kv_storage import kv_bytes_per_token, kv_dtype
from shoal.model.decoder.blocks import decoder_blocks, end_bytes, layer_bytes
from shoal.model.shard_source import ShardSource, shard_atoms, whole_part
from shoal.model.weights import Precision, WeightSource
from shoal.planner.choice.candidate import Candidate
from shoal.planner.choice.choose import Choice, choose
from shoal.planner.choice.extend import Extension, Replicas, extend
from shoal.planner.choice.goal import Goal, make_goal
from shoal.planner.choice.model_sizes import ModelSizes, PrecisionSizes
from shoal.planner.choice.spell import Limits, spell_plan
from shoal.planner.link_precision import over_links, parse_link_precisions, pays
from shoal.planner.predict.workload import Workload
from shoal.planner.speeds.figures import Figures, figures_of
from shoal.protocol.hidden_codec import LinkPrecision

_HIDDEN_ITEM_BYTES = 4
_LOWER: tuple[Precision, ...] = ("int8", "int4")
"""precisions below fp32, from the better to the worse"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoPlan:
    """What was chosen, and from what."""

    plan: Plan
    choice: Choice
    workload: Workload
    goal: Goal
    planning_s: float
    """searching and comparing, measuring excluded"""
    placed: PlacedFleet
    """the machines that it was chosen for, as they were measured"""
    figures: Figures
    """how far what was measured of all machines can be trusted"""
    planner: AutoPlanner
    """that made it"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendedPlan:
    """A plan of which one replica is new, or another than before, because machines have joined."""

    replica: ReplicaPlan
    """that one"""
    extension: Extension


class AutoPlanner:
    """Plans one model for whatever machines there are."""

    def __init__(
        self,
        planning: PlanningConfig,
        *,
        model: str,
        shape: str,
        path: Path,
        source: WeightSource,
        precision: Precision,
        threads: int | None,
        limits: Limits,
        machines: Machines | None = None,
    ) -> None:
        """Plan nothing yet.

        Args:
            planning: the load, the goal and the machines.
            model: as the user named it.
            shape: see core.plan.Plan.
            path: of the model.
            source: its headers.
            precision: that was asked for.
            threads: of each worker on this machine; None: whatever is best.
            limits: of every replica.
            machines: to plan for; None: this one, or those of the file.

        Raises:
            ConfigError: the planning makes no sense.
        """
        self._planning, self._model, self._shape, self._path = planning, model, shape, path
        self._source, self._precision, self._threads = source, precision, threads
        self._limits, self._machines = limits, machines
        self._workload, self._goal = _workload(planning), make_goal(planning.objective, planning.latency_slo_s)
        self._link_precisions = parse_link_precisions(planning.link_precision) if machines is not None else ("fp32",)
        self._precisions = _precisions(precision, planning.precision_floor)
        self._sizes = model_sizes(model, source, self._precisions)
        self._blocks_of = cache(self._read_blocks)

    def plan(self, on_progress: Callable[[str], None] = lambda what: None) -> AutoPlan:
        """Measure and choose.

        Args:
            on_progress: told what is being measured.

        Raises:
            ConfigError: the cluster file makes no sense, or no plan meets the latency target.
            CapacityError: the model fits nowhere.
        """
        fleets = find_fleets(
            self._planning,
            self._path,
            self._source,
            self._precisions,
            self._threads,
            self._machines,
            on_progress,
        )
        started_s = time.perf_counter()
        chosen: tuple[LinkPrecision, Choice, PlacedFleet] | None = None
        for link_precision in self._link_precisions:
            over = [replace(one, fleet=over_links(one.fleet, link_precision)) for one in fleets]
            choice = choose([one.fleet for one in over], self._sizes, self._workload, self._goal, self._precisions)
            if chosen is None or pays(choice.score(self._goal), chosen[1].score(self._goal)):
                index = next(index for index, one in enumerate(over) if one.fleet is choice.best.fleet)
                chosen = (link_precision, choice, fleets[index])
        assert chosen is not None
        link_precision, choice, placed = chosen
        planning_s = time.perf_counter() - started_s
        return AutoPlan(
            plan=replace(self._spell(choice.best, placed), link_precision=link_precision),
            choice=choice,
            workload=self._workload,
            goal=self._goal,
            planning_s=planning_s,
            placed=placed,
            figures=figures_of(worker for one in fleets for worker in one.fleet.classes),
            planner=self,
        )

    def measure_joined(self, known: PlacedFleet, on_progress: Callable[[str], None]) -> PlacedFleet:
        """The machines that are known, and after them those that have joined since. Raises as `Machines.measure`."""
        assert self._machines is not None
        return self._machines.measure(
            self._path,
            self._precisions,
            refresh=self._planning.refresh,
            on_progress=on_progress,
            known=known,
        )

    def extend(
        self,
        present: Replicas,
        placed: PlacedFleet,
        *,
        link_precision: LinkPrecision,
        idle: Sequence[int],
        open_replicas: Collection[int],
    ) -> ExtendedPlan | None:
        """The best use of machines that are idle; None where none pays.

        Args:
            present: replicas that run, as they were chosen.
            placed: all machines, of one worker each.
            link_precision: of hidden states from machine to machine.
            idle: classes of the idle ones.
            open_replicas: indexes of those that may be cut anew.
        """
        found = extend(
            present,
            over_links(placed.fleet, link_precision),
            idle=idle,
            open_replicas=open_replicas,
            model=self._sizes,
            workload=self._workload,
            goal=self._goal,
            precisions=self._precisions,
        )
        if found is None:
            return None
        return ExtendedPlan(replica=self._spell(found.candidate, placed).replicas[found.replica], extension=found)

    def _spell(self, candidate: Candidate, placed: PlacedFleet) -> Plan:
        return spell_plan(
            candidate,
            model=self._model,
            shape=self._shape,
            precision=self._precision,
            atoms=self._sizes.atoms,
            workload=self._workload,
            places=placed.places,
            blocks_of=self._blocks_of,
            limits=self._limits,
        )

    def _read_blocks(self, part: ShardPart, at_precision: str) -> Sequence[Block]:
        is_whole = part == whole_part(self._source.config)
        own = self._source if is_whole else ShardSource(self._source, part)
        return decoder_blocks(own, cast(Precision, at_precision))


def model_sizes(name: str, source: WeightSource, precisions: Sequence[Precision]) -> ModelSizes:
    """A model's sizes at some precisions, from its headers."""
    config = source.config

    def sizes(precision: Precision) -> PrecisionSizes:
        layers = [layer_bytes(source, precision, layer) for layer in range(config.num_layers)]
        embedding_bytes, head_bytes = end_bytes(source, precision)
        return PrecisionSizes(
            attention_bytes=tuple(attention for attention, _ in layers),
            mlp_bytes=tuple(mlp for _, mlp in layers),
            embedding_bytes=embedding_bytes,
            head_bytes=head_bytes,
        )

    return ModelSizes(
        name=name,
        hidden_bytes=config.hidden_size * _HIDDEN_ITEM_BYTES,
        kv_bytes_per_token=max(
            kv_bytes_per_token(config, 1, kv_dtype(precision, exact_activations=False)) for precision in precisions
        ),
        atoms=shard_atoms(config),
        by_precision={precision: sizes(precision) for precision in precisions},
        max_context=config.max_context,
    )


def _workload(planning: PlanningConfig) -> Workload:
    return Workload(
        streams=planning.streams, prompt_tokens=planning.prompt_tokens, output_tokens=planning.output_tokens
    )


def _precisions(precision: Precision, floor: str | None) -> tuple[Precision, ...]:
    """What was asked for, and everything below it down to the floor."""
    if floor is None or floor == precision:
        return (precision,)
    if floor not in _LOWER:
        raise ConfigError(f"the precision floor is {floor!r}; use one of {', '.join(_LOWER)}")
    lower = _LOWER[: _LOWER.index(floor) + 1]
    if precision in lower:
        lower = lower[lower.index(precision) + 1 :]
    return (precision, *lower)


def find_fleets(
    planning: PlanningConfig,
    path: Path,
    source: WeightSource,
    precisions: Sequence[Precision],
    threads: int | None,
    machines: Machines | None,
    on_progress: Callable[[str], None],
) -> list[PlacedFleet]:
    """The machines that a plan may use, measured. Arguments and errors as for `AutoPlanner`."""
    if threads is not None and (machines is not None or planning.cluster is not None):
        raise ConfigError("--threads goes with this machine alone; of others a worker takes all cores")
    if machines is not None:
        return [
            machines.measure(
                path,
                precisions,
                refresh=planning.refresh,
                on_progress=on_progress,
            )
        ]
    if planning.cluster is None:
        return local_fleets(
            path,
            precisions,
            threads=threads,
            refresh=planning.refresh,
            is_rough=planning.is_rough,
            on_progress=on_progress,
        )
    return [
        fleet_from_file(
            read_cluster_file(planning.cluster),
            path,
            source,
            precisions,
            refresh=planning.refresh,
            on_progress=on_progress,
        )
    ]
