"""The plan by which an engine's replicas run now, and changes of one replica while all others continue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from shoal.core.plan.language import Plan, ReplicaPlan
from shoal.errors import ShoalError
from shoal.executor.language_factory import LanguageFactory
from shoal.executor.launcher import WorkerLauncher
from shoal.launch.language.planning import PlannedModel
from shoal.planner.split.split_text import describe

Done = Callable[[ShoalError | None], None]
"""Called with None when a change is made, or with the error if it is not."""

ReplicaT = TypeVar("ReplicaT")
ReplicaT_co = TypeVar("ReplicaT_co", covariant=True)
StatsT_co = TypeVar("StatsT_co", covariant=True)


class RunnablePlan(Protocol[ReplicaT_co]):
    """The part of a plan that is the same for all kinds of work."""

    @property
    def replicas(self) -> tuple[ReplicaT_co, ...]:
        """All replicas of the model."""
        ...


PlanT = TypeVar("PlanT", bound=RunnablePlan[Any])


class ChangeableEngine(Protocol[StatsT_co]):
    """The part of `router.engine.Engine` and `router.batch_engine.BatchEngine` that a running plan needs."""

    def stats(self) -> StatsT_co:
        """A snapshot."""
        ...

    def replace_replica(self, index: int, factory: Any, done: Done | None = None) -> None:
        """See `Engine.replace_replica`."""
        ...

    def add_replica(self, factory: Any, done: Done | None = None) -> None:
        """See `Engine.add_replica`."""
        ...


class StartedFactory(Protocol[ReplicaT_co]):
    """A `router.executor.ReplicaFactory` that knows what it has started."""

    @property
    def latest(self) -> ReplicaT_co:
        """The replica as it was last started: as planned, or without a worker."""
        ...


class PlanKind(Protocol[PlanT, ReplicaT]):
    """The part of a running plan that depends on the kind of model."""

    def factory(self, plan: PlanT, index: int) -> StartedFactory[ReplicaT]:
        """Make the factory of one of the plan's replicas."""
        ...

    @staticmethod
    def with_replicas(plan: PlanT, replicas: tuple[ReplicaT, ...]) -> PlanT:
        """The plan with other replicas."""
        ...


class LanguagePlanKind:
    """The plan kind of language models. Implements `PlanKind`."""

    def __init__(self, planned: PlannedModel, launcher: WorkerLauncher) -> None:
        """`launcher`: makes workers."""
        self._planned, self._launcher = planned, launcher

    def factory(self, plan: Plan, index: int) -> LanguageFactory:
        """See `PlanKind.factory`."""
        planned = self._planned
        return LanguageFactory(planned.model, plan, index, self._launcher, keep_weights=planned.keep_weights)

    @staticmethod
    def with_replicas(plan: Plan, replicas: tuple[ReplicaPlan, ...]) -> Plan:
        """See `PlanKind.with_replicas`."""
        return replace(plan, replicas=replicas, split=describe(replicas))


class RunningPlan(Generic[PlanT, ReplicaT, StatsT_co]):
    """The plan of a running engine. For the engine's thread; only `plan` and `actual` may be read from another."""

    def __init__(
        self,
        plan: PlanT,
        kind: PlanKind[PlanT, ReplicaT],
        engine: ChangeableEngine[StatsT_co],
        factories: Sequence[StartedFactory[ReplicaT]] = (),
    ) -> None:
        """
        Args:
            plan: the plan by which the engine runs.
            kind: makes factories and plans.
            engine: the engine that runs it.
            factories: the engine's factories, one for each replica; empty: missing workers are not known.
        """
        self._plan, self._engine = plan, engine
        self._kind: PlanKind[PlanT, ReplicaT] | None = kind
        self._factories = dict(enumerate(factories))
        self._changing: set[int] = set()
        self._with_replicas = kind.with_replicas

    @property
    def plan(self) -> PlanT:
        """The intended plan, without changes that are not made yet."""
        return self._plan

    @property
    def actual(self) -> PlanT:
        """The plan as it was last started, including replicas that run without a worker."""
        plan, factories = self._plan, dict(self._factories)
        replicas = tuple(
            factories[index].latest if index in factories else replica for index, replica in enumerate(plan.replicas)
        )
        return plan if replicas == plan.replicas else self._with_replicas(plan, replicas)

    def is_changing(self, index: int) -> bool:
        """Whether a replica is being changed or added."""
        return index in self._changing

    def stats(self) -> StatsT_co:
        """The engine's statistics."""
        return self._engine.stats()

    def as_planned(self, index: int) -> StartedFactory[ReplicaT] | None:
        """The factory of a replica that runs as planned; None if it does not, or if that is not known. Callable from
        any thread."""
        factory = self._factories.get(index)
        return None if factory is None or factory.latest != self._plan.replicas[index] else factory

    def close(self) -> None:
        """Allow no more changes, and release the model's file. Idempotent."""
        self._kind = None
        self._factories.clear()

    def change(self, index: int, replica: ReplicaT, done: Done) -> None:
        """Give a replica other workers, or its planned ones again, or add a new one. Returns at once.

        Args:
            index: the index of a replica that is not being changed, or of the next new one.
            replica: the replica's new plan.
            done: called with None when the change is made, or with the error; perhaps at once.
        """
        assert self._kind is not None
        self._changing.add(index)

        def finish(error: ShoalError | None) -> None:
            self._changing.discard(index)
            if error is None:
                self._plan = self._with(index, replica)
                self._factories[index] = factory
            done(error)

        factory = self._kind.factory(self._with(index, replica), index)
        try:
            if index < len(self._plan.replicas):
                self._engine.replace_replica(index, factory, finish)
            else:
                self._engine.add_replica(factory, finish)
        except ShoalError as error:
            finish(error)

    def _with(self, index: int, replica: ReplicaT) -> PlanT:
        """The plan with a changed or additional replica."""
        replicas = (*self._plan.replicas[:index], replica, *self._plan.replicas[index + 1 :])
        return self._with_replicas(self._plan, replicas)
