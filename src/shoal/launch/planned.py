"""A model on its way from what was asked for to what runs: what both kinds of models have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from shoal.core.plan.graph import GraphPlan
from shoal.core.plan.language import Plan

if TYPE_CHECKING:  # what a model in this process does without
    from shoal.machines.machines import Machines

PlanT = TypeVar("PlanT", bound=Plan | GraphPlan)
AutoT = TypeVar("AutoT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned(Generic[PlanT, AutoT]):
    """A model that is found and planned, with nothing started yet."""

    plan: PlanT
    auto: AutoT | None = None
    """what the plan was chosen from; None: it was given"""
    machines: Machines | None = None
    """that the plan is for; None: this one"""

    def close(self) -> None:
        """Leave other machines. Idempotent; not needed where the plan is launched."""
        if self.machines is not None:
            self.machines.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(ABC, Generic[PlanT]):
    """A model whose workers are ready. Close it."""

    plan: PlanT
    """as it was at first"""
    machines: Machines | None = None
    """that the workers run on; None: this one"""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Stop the workers, and leave other machines. Idempotent."""
