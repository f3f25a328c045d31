"""The plan by which an engine's replicas run now, and changing one of them while all others go on."""

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
"""told None when the change is made, or why it is not"""

ReplicaT = TypeVar("ReplicaT")
ReplicaT_co = TypeVar("ReplicaT_co", covariant=True)
StatsT_co = TypeVar("StatsT_co", covariant=True)


class RunnablePlan(Protocol[ReplicaT_co]):
    """The part of a plan that is the same for all kinds of work."""

    @property
    def replicas(self) -> tuple[ReplicaT_co, ...]:
        """All copies of the model."""
        ...


PlanT = TypeVar("PlanT", bound=RunnablePlan[Any])


class ChangeableEngine(Protocol[StatsT_co]):
    """The part of `router.engine.Engine` and `router.batch_engine.BatchEngine` that this needs."""

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
    """A `router.executor.ReplicaFactory` that tells what it has started."""

    @property
    def latest(self) -> ReplicaT_co:
        """The replica as it was last started: as it was planned, or without a worker."""
        ...


class PlanKind(Protocol[PlanT, ReplicaT]):
    """What depends on what is planned."""

    def factory(self, plan: PlanT, index: int) -> StartedFactory[ReplicaT]:
        """Starts one of the plan's replicas."""
        ...

    @staticmethod
    def with_replicas(plan: PlanT, replicas: tuple[ReplicaT, ...]) -> PlanT:
        """The same model by other replicas."""
        ...


class LanguagePlanKind:
    """Implements `PlanKind` for language models."""

    def __init__(self, planned: PlannedModel, launcher: WorkerLauncher) -> None:
        """`launcher` makes workers."""
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
    """Belongs to the engine's thread; only `plan` and `actual` may be read from another."""

    def __init__(
        self,
        plan: PlanT,
        kind: PlanKind[PlanT, ReplicaT],
        engine: ChangeableEngine[StatsT_co],
        factories: Sequence[StartedFactory[ReplicaT]] = (),
    ) -> None:
        """
        Args:
            plan: by which the engine runs.
            kind: makes other replicas.
            engine: that runs it.
            factories: by which the engine starts the replicas, one each; empty: what they do without is not known.
        """
        self._plan, self._engine = plan, engine
        self._kind: PlanKind[PlanT, ReplicaT] | None = kind
        self._factories = dict(enumerate(factories))
        self._changing: set[int] = set()
        self._with_replicas = kind.with_replicas

    @property
    def plan(self) -> PlanT:
        """As it is meant to be now; a change that is not made yet does not count."""
        return self._plan

    @property
    def actual(self) -> PlanT:
        """The same as it was last started: replicas that had to do without a worker as they do."""
        plan, factories = self._plan, dict(self._factories)
        replicas = tuple(
            factories[index].latest if index in factories else replica for index, replica in enumerate(plan.replicas)
        )
        return plan if replicas == plan.replicas else self._with_replicas(plan, replicas)

    def is_changing(self, index: int) -> bool:
        """Whether a replica is being changed, or is to come."""
        return index in self._changing

    def stats(self) -> StatsT_co:
        """Of the engine."""
        return self._engine.stats()

    def as_planned(self, index: int) -> StartedFactory[ReplicaT] | None:
        """What started the workers of a replica; None where they are not those of the plan, or it is not known. May be
        called from any thread."""
        factory = self._factories.get(index)
        return None if factory is None or factory.latest != self._plan.replicas[index] else factory

    def close(self) -> None:
        """Change nothing from now on, and let go of the model's file. Idempotent."""
        self._kind = None
        self._factories.clear()

    def change(self, index: int, replica: ReplicaT, done: Done) -> None:
        """Give a replica other workers, or the planned ones again, or add it where there is none. Returns at once.

        Args:
            index: of a replica that is not being changed, or of the next one.
            replica: as it is to be.
            done: told when it is made, or why it is not; perhaps at once.
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
        """The plan with another replica, or one more."""
        replicas = (*self._plan.replicas[:index], replica, *self._plan.replicas[index + 1 :])
        return self._with_replicas(self._plan, replicas)
