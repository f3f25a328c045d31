"""`--split auto`: measure the machines with the model, choose among all kinds of split, and build the plan."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from shoal.config import PlanningConfig
from shoal.core.plan.language import Plan, ReplicaPlan
from shoal.core.plan.state_room import HYPOTHESES
from shoal.errors import ConfigError
from shoal.launch.devices import Offer
from shoal.launch.language.asked import precisions_of, workload_of
from shoal.launch.language.device_fleets import DeviceFleets, measure_devices
from shoal.launch.language.fleets import find_fleets, whole_processor
from shoal.launch.language.sizes import model_sizes
from shoal.machines.machines import Machines
from shoal.machines.placed_fleet import PlacedFleet
from shoal.measure.measuring import Measuring
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import Precision
from shoal.planner.choice.build_plan import Limits, build_plan
from shoal.planner.choice.candidate import Candidate
from shoal.planner.choice.choose import PlanChoice
from shoal.planner.choice.extend import ExtendedPlan, Replicas, extend
from shoal.planner.choice.goal import Goal, make_goal
from shoal.planner.device_options import DeviceOption, choose_option, named_together
from shoal.planner.later_models import choose_with_room
from shoal.planner.link_precision import over_links, parse_link_precisions, pays
from shoal.planner.memory.kept_copies import for_copies
from shoal.planner.predict.workload import Workload
from shoal.planner.speeds.figures import Figures, figures_of
from shoal.planner.speeds.speeds import ExpertRouting, Fleet
from shoal.planner.what_if import PlanQuestion
from shoal.protocol.hidden_codec import LinkPrecision

NOTHING_OFFERED = Offer()


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoPlan:
    """The chosen plan, and what it was chosen from."""

    plan: Plan
    choice: PlanChoice
    workload: Workload
    goal: Goal
    planning_s: float
    """Seconds of searching and comparing, without measuring."""
    placed: PlacedFleet
    """The measured machines for which it was chosen."""
    figures: Figures
    """The quality of the measurements of all machines."""
    planner: AutoPlanner
    """The planner that made it."""
    question: PlanQuestion
    """The input of the choice."""
    devices: tuple[DeviceOption[Chosen], ...] = ()
    """The ways to use the devices of this machine; empty: there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The best plan over some fleets."""

    choice: PlanChoice
    link_precision: LinkPrecision
    question: PlanQuestion
    placed: PlacedFleet


class AutoPlanner:
    """Plans one model for any machines."""

    def __init__(
        self,
        planning: PlanningConfig,
        model: ModelOnDisk,
        precision: Precision,
        *,
        limits: Limits,
        measuring: Measuring,
        machines: Machines | None = None,
        shares_weights: bool = False,
        offer: Offer = NOTHING_OFFERED,
    ) -> None:
        """Check the options.

        Args:
            planning: the load, the goal and the machines.
            model: the model to plan.
            precision: the precision that the user asked for.
            limits: the limits of every replica.
            measuring: how machines are measured.
            machines: the machines to plan for; None: this one, or those of the file.
            shares_weights: whether workers of this machine with the same weights map one kept copy of them.
            offer: the devices of this machine that may compute.

        Raises:
            ConfigError: an option is invalid.
        """
        self._planning, self._model = planning, model
        self._precision: Precision = precision
        self._limits, self._measuring, self._machines, self._offer = limits, measuring, machines, offer
        self._shares_weights = shares_weights and machines is None and planning.cluster is None
        hypotheses = HYPOTHESES if model.config.encoder is not None else 1
        self._workload = workload_of(planning, hypotheses)
        self._goal = make_goal(planning.objective, planning.latency_slo_s)
        self._link_precisions = parse_link_precisions(planning.link_precision) if machines is not None else ("fp32",)
        self._precisions = precisions_of(precision, planning.precision_floor)
        self._sizes = model_sizes(model, self._precisions, max_seqs=limits.max_seqs)

    def plan(self) -> AutoPlan:
        """Measure and choose.

        Raises:
            ConfigError: the cluster file is invalid, or no plan meets the latency target.
            CapacityError: the model fits nowhere.
        """
        fleets: list[PlacedFleet] = []
        if self._offer.with_processor:
            fleets = find_fleets(self._planning.cluster, self._model, self._precisions, self._measuring, self._machines)
        found = self._measure_devices(fleets)
        figures = figures_of(worker for one in (*fleets, *found.placed) for worker in one.fleet.classes)
        fleets += self._for_copies(fleets)
        started_s = time.perf_counter()
        options = self._options(fleets, found)
        (chosen,) = (option.choice for option in options if option.choice is not None and not option.reason)
        planning_s = time.perf_counter() - started_s
        plan = self._build_plan(chosen.choice.best, chosen.placed)
        return AutoPlan(
            plan=replace(plan, link_precision=chosen.link_precision),
            choice=chosen.choice,
            workload=self._workload,
            goal=self._goal,
            planning_s=planning_s,
            placed=chosen.placed,
            figures=figures,
            planner=self,
            question=chosen.question,
            devices=(*options, *found.left_out) if self._offer.devices else (),
        )

    def _measure_devices(self, processor: Sequence[PlacedFleet]) -> DeviceFleets:
        if not self._offer.devices:
            return DeviceFleets(placed=(), left_out=())
        return measure_devices(
            self._model,
            self._precisions,
            self._measuring,
            self._offer.devices,
            processor[0].fleet if processor else None,
            whole_processor(self._measuring.threads),
        )

    def _options(self, processor: Sequence[PlacedFleet], found: DeviceFleets) -> tuple[DeviceOption[Chosen], ...]:
        """The best plans over the processor, each device, and all together; one of them is taken. Raises: as `plan`."""
        if not processor and not found.placed:
            first = found.left_out[0]
            raise ConfigError(f"no device can be used: {first.what.removesuffix(' alone')}: {first.reason}")
        ways = [(_what(one), partial(self._chosen, [one])) for one in found.placed]
        if processor:
            ways.insert(0, ("the processor alone", partial(self._chosen, processor)))
        return choose_option(ways, lambda one: one.choice.score(self._goal), self._goal)

    def _chosen(self, fleets: Sequence[PlacedFleet]) -> Chosen:
        """The best plan over one of some fleets that leaves room for models to come. Raises as `plan`."""
        if self._machines is None or len(fleets) > 1:
            return self._best(fleets)
        (placed,) = fleets
        chosen = choose_with_room(
            placed.fleet,
            self._machines.later_bytes,
            lambda fleet: self._best([replace(placed, fleet=fleet)]),
            lambda one: one.choice.score(self._goal),
        )
        return replace(chosen, placed=placed)

    def _best(self, fleets: Sequence[PlacedFleet]) -> Chosen:
        """The best plan over one of the fleets, with the link precision that pays. Raises: as `plan`."""
        chosen: Chosen | None = None
        for link_precision in self._link_precisions:
            over = [replace(one, fleet=self._fleet(one, link_precision)) for one in fleets]
            question = self._question([one.fleet for one in over])
            choice = question.answer()
            if chosen is None or pays(choice.score(self._goal), chosen.choice.score(self._goal)):
                index = next(index for index, one in enumerate(over) if one.fleet is choice.best.fleet)
                chosen = Chosen(choice=choice, link_precision=link_precision, question=question, placed=fleets[index])
        assert chosen is not None
        return chosen

    def _question(self, fleets: Sequence[Fleet]) -> PlanQuestion:
        return PlanQuestion(
            fleets=tuple(fleets),
            model=self._sizes,
            workload=self._workload,
            goal=self._goal,
            precisions=self._precisions,
            is_one_machine=self._machines is None and self._planning.cluster is None,
        )

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that stages may have."""
        return self._precisions

    def choose_for(self, placed: PlacedFleet) -> PlanChoice:
        """The best plan for some machines, for comparison only. Raises: as `plan`."""
        return self._question([self._fleet(placed, "fp32")]).answer()

    def _for_copies(self, fleets: Sequence[PlacedFleet]) -> list[PlacedFleet]:
        """The fleets with the memory that workers have as whole copies, which share their weights."""
        if not self._shares_weights:
            return []
        smallest = min(sizes.total_bytes for sizes in self._sizes.by_precision.values())
        pairs = [(for_copies(one.fleet, smallest), one.places) for one in fleets]
        return [PlacedFleet(fleet=fleet, places=places) for fleet, places in pairs if fleet is not None]

    def measure_joined(self, known: PlacedFleet) -> PlacedFleet:
        """The known machines, followed by those that have joined since. Raises: as `Machines.measure`."""
        assert self._machines is not None
        measuring = replace(self._measuring, on_progress=lambda what: None)
        return self._machines.measure(self._model, self._precisions, measuring, known=known)

    def extend(
        self,
        present: Replicas,
        placed: PlacedFleet,
        *,
        link_precision: LinkPrecision,
        idle: Sequence[int],
        open_replicas: Collection[int],
    ) -> ExtendedPlan[ReplicaPlan] | None:
        """Find the best use of idle machines; None if no use pays.

        Args:
            present: the running replicas, as they were chosen.
            placed: all machines, with one worker each.
            link_precision: the precision of hidden states between machines.
            idle: classes of the idle machines.
            open_replicas: indices of replicas that may be split again.
        """
        found = extend(
            present,
            self._fleet(placed, link_precision),
            idle=idle,
            open_replicas=open_replicas,
            model=self._sizes,
            workload=self._workload,
            goal=self._goal,
            precisions=self._precisions,
        )
        if found is None:
            return None
        return ExtendedPlan(replica=self._build_plan(found.candidate, placed).replicas[found.replica], extension=found)

    def _fleet(self, placed: PlacedFleet, link_precision: LinkPrecision) -> Fleet:
        """The fleet with the model's experts and the given link precision."""
        experts = self._model.config.experts
        routing = experts and ExpertRouting(num_experts=experts.num_experts, num_chosen=experts.num_chosen)
        return over_links(placed.fleet, link_precision).routed(routing)

    def _build_plan(self, candidate: Candidate, placed: PlacedFleet) -> Plan:
        return build_plan(
            candidate,
            model=self._model.name,
            shape=self._model.shape,
            precision=self._precision,
            atoms=self._sizes.atoms,
            workload=self._workload,
            places=placed.places,
            blocks_of=lambda part, precision: self._model.blocks(precision, part),
            limits=self._limits,
        )


def _what(placed: PlacedFleet) -> str:
    classes = placed.fleet.classes
    return named_together([one.name if not one.takes_shards else "the processor" for one in classes])
