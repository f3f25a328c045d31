"""Who measures: the real one starts processes when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from shoal.cluster.profile.head_time import measure_turn
from shoal.cluster.profile.links import PairSpeeds, measure_message, measure_pair
from shoal.cluster.profile.model_times import ModelFile, TimedModel, time_model
from shoal.cluster.profile.process import ProfileTeam
from shoal.cluster.profile.rates import LayoutRates, measure_layout
from shoal.cluster.profile.slots import Slot, kinds_of
from shoal.planner.fit import fit_worker, scale_worker
from shoal.planner.speeds import Curve, WorkerSpeed
from shoal.planner.step_points import LayerWeights

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTimes:
    """What moving data and forming steps takes, whatever the model."""

    pair: PairSpeeds | None
    """None where there is one worker"""
    message_s: float
    """from the head to a worker and back"""
    turn: Curve
    """of the head, for a step of so many sequences"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSpeed:
    """One kind of worker with one model at one precision."""

    alone: WorkerSpeed
    busy: WorkerSpeed


class Measurer(Protocol):
    """Measures workers on the slots of one layout."""

    def links(self) -> LinkTimes:
        """Raises WorkerLost."""
        ...

    def rates(self) -> LayoutRates:
        """Raises WorkerLost."""
        ...

    def speeds(self, model: ModelFile, on_progress: Progress) -> tuple[ClassSpeed, ...]:
        """Of every kind of slot, in the order in which they first come. Raises WorkerLost, ModelLoadError."""
        ...


class TeamMeasurer:
    """A `Measurer` with a process a slot, started by the first question. A context manager: leaves no process."""

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

    def speeds(self, model: ModelFile, on_progress: Progress) -> tuple[ClassSpeed, ...]:
        """See `Measurer.speeds`."""
        ranks = [self._slots.index(slot) for slot in kinds_of(self._slots)]
        return tuple(_fit(one, model.weights) for one in time_model(self._team(), model, ranks, on_progress))

    def _team(self) -> ProfileTeam:
        if self._started is None:
            self._started = ProfileTeam(self._slots)
        return self._started


def _fit(timed: TimedModel, weights: LayerWeights) -> ClassSpeed:
    busy = fit_worker(timed.busy, weights)
    alone = busy if timed.alone is None else scale_worker(busy, timed.busy, timed.alone)
    return ClassSpeed(alone=alone, busy=busy)
