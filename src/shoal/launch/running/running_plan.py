"""The plan by which an engine's replicas run now, and changing one of them while all others go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from shoal.core.plan.language import Plan, ReplicaPlan
from shoal.errors import ShoalError
from shoal.executor.fabric import Fabric
from shoal.executor.language_factory import LanguageFactory
from shoal.launch.language.planning import PlannedModel
from shoal.planner.split.split_text import describe
from shoal.router.engine_stats import EngineStats
from shoal.router.executor import StepReplicaFactory

Done = Callable[[ShoalError | None], None]
"""told None when the change is made, or why it is not"""


class ChangeableEngine(Protocol):
    """The part of `router.engine.Engine` that this needs."""

    def stats(self) -> EngineStats:
        """A snapshot."""
        ...

    def replace_replica(self, index: int, factory: StepReplicaFactory, done: Done | None = None) -> None:
        """See `Engine.replace_replica`."""
        ...

    def add_replica(self, factory: StepReplicaFactory, done: Done | None = None) -> None:
        """See `Engine.add_replica`."""
        ...


class RunningPlan:
    """Belongs to the engine's thread; only `plan` and `actual` may be read from another."""

    def __init__(
        self,
        planned: PlannedModel,
        engine: ChangeableEngine,
        fabric: Fabric,
        factories: Sequence[LanguageFactory] = (),
        report: Callable[[str], None] | None = None,
    ) -> None:
        """
        Args:
            planned: the model and its plan.
            engine: that runs it.
            fabric: makes workers.
            factories: by which the engine starts the replicas, one each; empty: what they do without is not known.
            report: told where a replica is planned anew, a line each time.
        """
        self._planned: PlannedModel | None = planned
        self._engine, self._fabric, self._report = engine, fabric, report
        self._plan = planned.plan
        self._factories = dict(enumerate(factories))
        self._changing: set[int] = set()

    @property
    def plan(self) -> Plan:
        """As it is meant to be now; a change that is not made yet does not count."""
        return self._plan

    @property
    def actual(self) -> Plan:
        """The same as it was last started: replicas that had to do without a worker as they do."""
        plan, factories = self._plan, dict(self._factories)
        replicas = tuple(
            factories[index].latest if index in factories else replica for index, replica in enumerate(plan.replicas)
        )
        return plan if replicas == plan.replicas else replace(plan, replicas=replicas, split=describe(replicas))

    def is_changing(self, index: int) -> bool:
        """Whether a replica is being changed, or is to come."""
        return index in self._changing

    def stats(self) -> EngineStats:
        """Of the engine."""
        return self._engine.stats()

    def close(self) -> None:
        """Change nothing from now on, and let go of the model's file. Idempotent."""
        self._planned = None
        self._factories.clear()

    def change(self, index: int, replica: ReplicaPlan, done: Done) -> None:
        """Give a replica other workers, or the planned ones again, or add it where there is none. Returns at once.

        Args:
            index: of a replica that is not being changed, or of the next one.
            replica: as it is to be.
            done: told when it is made, or why it is not; perhaps at once.
        """
        planned = self._planned
        assert planned is not None
        self._changing.add(index)

        def finish(error: ShoalError | None) -> None:
            self._changing.discard(index)
            if error is None:
                self._plan = self._with(index, replica)
                self._factories[index] = factory
            done(error)

        changed = self._with(index, replica)
        factory = LanguageFactory(
            planned.model,
            changed,
            index,
            self._fabric,
            report=self._report,
            keep_weights=planned.keep_weights,
        )
        try:
            if index < len(self._plan.replicas):
                self._engine.replace_replica(index, factory, finish)
            else:
                self._engine.add_replica(factory, finish)
        except ShoalError as error:
            finish(error)

    def _with(self, index: int, replica: ReplicaPlan) -> Plan:
        """The plan with another replica, or one more."""
        replicas = (*self._plan.replicas[:index], replica, *self._plan.replicas[index + 1 :])
        return replace(self._plan, replicas=replicas, split=describe(replicas))
