"""Measuring workers on slots, in processes that are started when first needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from shoal.measure.language.head_time import measure_turn
from shoal.measure.language.links import PairSpeeds, measure_message, measure_pair
from shoal.measure.language.model_times import TimedModel, time_model
from shoal.measure.language.parts import AGAIN, FULL, QUICK, Effort
from shoal.measure.language.process import ProfileTeam
from shoal.measure.language.rates import LayoutRates, measure_layout
from shoal.measure.language.timed_model import ModelToTime
from shoal.measure.processor_use import processor_use
from shoal.measure.slots import Slot, kinds_of
from shoal.planner.speeds.figures import others_share
from shoal.planner.speeds.fit import fit_worker, scale_worker
from shoal.planner.speeds.speeds import Curve, WorkerSpeed

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTimes:
    """Times of moving data and forming steps, which do not depend on the model."""

    pair: PairSpeeds | None
    """Speeds of the links between two workers; None: there is only one."""
    message_s: float
    """Seconds of a round trip between the head and a worker."""
    turn: Curve
    """Seconds of the head for a step, by the number of sequences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSpeed:
    """The speed of one kind of worker with a model at one precision, while other workers idle and while all compute."""

    alone: WorkerSpeed
    busy: WorkerSpeed


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpeeds:
    """The speeds of a model at one precision, on every kind of slot of a layout."""

    classes: tuple[ClassSpeed, ...]
    """One per kind of slot, in the order of their first slots."""
    others_share: float
    """Fraction of the time of the layout's cores that other processes used meanwhile, 0 to 1."""


class Measurer(Protocol):
    """Measures workers on the slots of one layout."""

    def links(self) -> LinkTimes:
        """Measure the links and the head. Raises WorkerLost."""
        ...

    def rates(self) -> LayoutRates:
        """Measure the rates that do not depend on a model. Raises WorkerLost."""
        ...

    def speeds(self, model: ModelToTime, on_progress: Progress, *, is_rough: bool) -> ModelSpeeds:
        """Measure a model; `is_rough`: with fewer steps and repetitions. Raises WorkerLost, ModelLoadError."""
        ...

    def again(self, model: ModelToTime) -> ModelSpeeds:
        """Measure a few steps, to compare with earlier measurements. Raises WorkerLost, ModelLoadError."""
        ...


class TeamMeasurer:
    """A `Measurer` with one process per slot, started by the first measurement. A context manager that ends them."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = tuple(slots)
        self._started: ProfileTeam | None = None

    def __enter__(self) -> TeamMeasurer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._started is not None:
            self._started.close()

    def links(self) -> LinkTimes:
        """See `Measurer.links`."""
        return LinkTimes(pair=measure_pair(self._team()), message_s=measure_message(self._team()), turn=measure_turn())

    def rates(self) -> LayoutRates:
        """See `Measurer.rates`."""
        return measure_layout(self._team())

    def speeds(self, model: ModelToTime, on_progress: Progress, *, is_rough: bool) -> ModelSpeeds:
        """See `Measurer.speeds`."""
        return self._speeds(model, on_progress, QUICK if is_rough else FULL)

    def again(self, model: ModelToTime) -> ModelSpeeds:
        """See `Measurer.again`."""
        return self._speeds(model, lambda what: None, AGAIN)

    def _speeds(self, model: ModelToTime, on_progress: Progress, effort: Effort) -> ModelSpeeds:
        team, ranks = self._team(), [self._slots.index(slot) for slot in kinds_of(self._slots)]
        cores = {core for slot in self._slots for core in slot.cores}
        before = processor_use(cores, team.pids)
        timed = time_model(team, model, ranks, on_progress, effort=effort)
        share = others_share(before, processor_use(cores, team.pids), len(cores))
        return ModelSpeeds(classes=tuple(_fit(one, model) for one in timed), others_share=share)

    def _team(self) -> ProfileTeam:
        if self._started is None:
            self._started = ProfileTeam(self._slots)
        return self._started


def _fit(timed: TimedModel, model: ModelToTime) -> ClassSpeed:
    busy = fit_worker(timed.busy, model.weights, model.clip)
    alone = busy if timed.alone is None else scale_worker(busy, timed.busy, timed.alone)
    return ClassSpeed(alone=alone, busy=busy)
