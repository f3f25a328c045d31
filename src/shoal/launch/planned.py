"""Planned and loaded models: the common base of language models and graphs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from shoal.core.plan.graph import GraphPlan
from shoal.core.plan.language import Plan

if TYPE_CHECKING:  # not needed for a model in this process
    from shoal.machines.machines import Machines

PlanT = TypeVar("PlanT", bound=Plan | GraphPlan)
AutoT = TypeVar("AutoT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned(Generic[PlanT, AutoT]):
    """A model that was found and planned, without any started workers."""

    plan: PlanT
    auto: AutoT | None = None
    """The choice that led to the plan; None: the plan was given."""
    machines: Machines | None = None
    """The machines of the plan; None: this one."""

    def close(self) -> None:
        """Leave other machines. Idempotent; not needed if the plan is launched."""
        if self.machines is not None:
            self.machines.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(ABC, Generic[PlanT]):
    """A model whose workers are ready. It must be closed."""

    plan: PlanT
    """The first plan."""
    machines: Machines | None = None
    """The machines on which the workers run; None: this one."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Stop the workers, and leave other machines. Idempotent."""
