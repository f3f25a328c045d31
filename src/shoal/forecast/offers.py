"""Offers of further machines: which one helps most, which helps most for its price, and whether any helps.

Each offer is planned together with the existing machines, as by `shoal plan`, and its gain is the ratio of two
predictions. A gain that is smaller than the error of predictions is no reason to buy.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import msgspec

from shoal.config import LaunchConfig
from shoal.errors import CapacityError, ConfigError
from shoal.launch.cluster_places import read_cluster_file
from shoal.launch.language.asked import limits_of
from shoal.launch.language.auto_plan import AutoPlanner
from shoal.launch.language.fleets import fleet_from_file
from shoal.machines.opening import RAY
from shoal.measure.measuring import Measuring
from shoal.model.find_model import find_model
from shoal.model.on_disk import ModelOnDisk
from shoal.model.weights import parse_precision
from shoal.planner.choice.choose import PlanChoice
from shoal.planner.files.cluster_file import ClusterFile, DescribedMachine, check_links

PREDICTION_ERROR = 0.13
"""The relative error that nine of ten predictions of tokens/s do not exceed. Source: the 20 plans of
benchmarks/results/planner-prediction_2core-avx2_2026-11-26.md, whose median error is 4.7 %."""
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineOffer:
    """One more machine of a kind, with its effect."""

    machine: str
    price_per_hour: float | None
    choice: PlanChoice | None
    """The plan for the existing machines and this one; None: the model still does not fit."""
    gain: float
    """The relative increase of output tokens/s; infinite if the model did not fit before."""
    is_used: bool
    """Whether the best plan has a worker on this machine."""

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second of all machines together."""
        return 0.0 if self.choice is None else self.choice.best.prediction.output_tokens_per_s

    @property
    def most_tokens_per_s(self) -> float:
        """An upper bound on output tokens per second of any plan for all machines together."""
        return 0.0 if self.choice is None else max(self.choice.bound_tokens_per_s, self.tokens_per_s)

    @property
    def least_gain(self) -> float:
        """The gain if predictions overestimate it."""
        return (1.0 + self.gain) / (1.0 + PREDICTION_ERROR) - 1.0

    @property
    def most_gain(self) -> float:
        """The gain if predictions underestimate it."""
        return (1.0 + self.gain) * (1.0 + PREDICTION_ERROR) - 1.0

    @property
    def is_worth_it(self) -> bool:
        """Whether it helps even if predictions overestimate its gain."""
        return self.is_used and self.least_gain > 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferComparison:
    """All offers, the best first: by gain per price if all have a price, otherwise by gain."""

    present: PlanChoice | None
    """The plan without any offer; None: the model does not fit."""
    offers: tuple[MachineOffer, ...]

    @property
    def is_by_price(self) -> bool:
        """Whether every offer has a price above 0."""
        return all(offer.price_per_hour for offer in self.offers)

    @property
    def present_tokens_per_s(self) -> float:
        """Output tokens per second without any offer."""
        return 0.0 if self.present is None else self.present.best.prediction.output_tokens_per_s

    def tokens_per_price(self, offer: MachineOffer) -> float | None:
        """Additional output tokens per unit of its price; None: it has no price."""
        if not offer.price_per_hour:
            return None
        return _HOUR_S * (offer.tokens_per_s - self.present_tokens_per_s) / offer.price_per_hour

    @property
    def advice(self) -> str:
        """The recommendation, in one sentence."""
        best = next((offer for offer in self.offers if offer.is_worth_it), None)
        if best is None:
            most = max(self.offers, key=lambda offer: offer.gain)
            return (
                f"do not buy: the most that any would add is {max(0.0, most.gain):.0%} ({most.machine}), and "
                f"predictions err by up to {PREDICTION_ERROR:.0%}"
            )
        if self.present is None:
            return f"buy {best.machine}: without it the model fits nowhere"
        what = "adds most for its price" if self.is_by_price else "helps most"
        is_alone = best.choice is not None and best.choice.best.kind == "single"
        split = "; do not split: alone it serves the model better than with the others" if is_alone else ""
        return f"buy {best.machine}: it {what}, {best.gain:+.0%} (at least {best.least_gain:+.0%}){split}"


def compare_offers(
    config: LaunchConfig, file: Path, on_progress: Callable[[str], None] = lambda what: None
) -> OfferComparison:
    """Plan with each of the offered machines.

    Args:
        config: the model and the existing machines.
        file: a cluster file with the offers. Their links are given there or in the cluster's own file.
        on_progress: called with what is being measured.

    Raises:
        ConfigError: a file is invalid, or an offer has no link to the others.
        ModelLoadError: the model is missing or broken.
        CapacityError: the model does not fit with any offer.
    """
    offered, present = read_cluster_file(str(file), is_whole=False), _present(config)
    _check_offers(offered, present, str(file))
    model = find_model(config.model, sizes_suffice=not any(machine.is_local for machine in present.machines))
    planning = _Planning(config, model, on_progress)
    before = planning.choose(present, refresh=config.planning.refresh)
    before_per_s = 0.0 if before is None else before.best.prediction.output_tokens_per_s
    offers: list[MachineOffer] = []
    for machine in offered.machines:
        choice = planning.choose(_with_offer(present, offered, machine, str(file)))
        per_s = 0.0 if choice is None else choice.best.prediction.output_tokens_per_s
        offers.append(
            MachineOffer(
                machine=machine.name,
                price_per_hour=machine.price_per_hour,
                choice=choice,
                gain=per_s / before_per_s - 1.0 if before_per_s else (inf if per_s else 0.0),
                is_used=choice is not None and _uses(choice, len(present.machines)),
            )
        )
    if before is None and all(offer.choice is None for offer in offers):
        raise CapacityError("the model fits neither on the existing machines nor with any of those on offer")
    found = OfferComparison(present=before, offers=tuple(offers))

    def worth(offer: MachineOffer) -> float:
        return found.tokens_per_price(offer) or 0.0 if found.is_by_price else offer.gain

    return replace(found, offers=tuple(sorted(offers, key=worth, reverse=True)))


class _Planning:
    """Plans one model for the machines of any cluster file."""

    def __init__(self, config: LaunchConfig, model: ModelOnDisk, on_progress: Callable[[str], None]) -> None:
        self._model, self._measuring = model, Measuring(on_progress=on_progress)
        self._planner = AutoPlanner(
            replace(config.planning, cluster=None),
            model,
            parse_precision(config.precision),
            limits=limits_of(config, model),
            measuring=self._measuring,
        )

    def choose(self, cluster: ClusterFile, *, refresh: bool = False) -> PlanChoice | None:
        """The best plan for these machines; None: the model does not fit there."""
        measuring = replace(self._measuring, refresh=refresh)
        placed = fleet_from_file(cluster, self._model, self._planner.precisions, measuring)
        try:
            return self._planner.choose_for(placed)
        except CapacityError:
            return None


def _present(config: LaunchConfig) -> ClusterFile:
    """The existing machines: those of the file, or all of this one."""
    name = config.planning.cluster
    if name == RAY:
        raise ConfigError("--add compares described machines: describe the cluster in a file (docs/planning.md)")
    if name is not None:
        return read_cluster_file(name)
    here = DescribedMachine(name="here", cpus=tuple(sorted(os.sched_getaffinity(0))))
    return ClusterFile(machines=(here,))


def _check_offers(offered: ClusterFile, present: ClusterFile, file: str) -> None:
    names = {machine.name for machine in present.machines}
    for machine in offered.machines:
        if machine.is_local:
            raise ConfigError(
                f"{file}: machine {machine.name} is at hand; describe the machines on offer with cores, memory "
                "and rates"
            )
        if machine.name in names:
            raise ConfigError(f"{file}: there is already a machine named {machine.name}; give the offer another name")


def _with_offer(present: ClusterFile, offered: ClusterFile, machine: DescribedMachine, file: str) -> ClusterFile:
    """The existing machines and one more. Raises ConfigError if two of them have no link."""
    names = {machine.name, *(one.name for one in present.machines)}
    links = [link for link in (*offered.links, *present.links) if names.issuperset(link.between)]
    cluster = ClusterFile(
        machines=(*present.machines, msgspec.structs.replace(machine, count=1)),
        link=present.link or offered.link,
        links=tuple(links),
    )
    try:
        check_links(cluster)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    return cluster


def _uses(choice: PlanChoice, worker_class: int) -> bool:
    return any(worker_class in stage.group.members for replica in choice.best.replicas for stage in replica)
