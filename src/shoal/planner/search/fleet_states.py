"""The states of the dynamic programs (the workers that a pipeline has used) and the steps between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np

from shoal.arrays import I64, Bools
from shoal.planner.search.problem import ReplicaProblem


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """All ways to place the s-th stage of a pipeline on a group: steps from one state to another.

    Shapes: P steps, sorted by the state they lead to, then by group; T states that are reached.
    """

    before: I64
    """[P]: the state before each step."""
    group: I64
    """[P]: the group of each step."""
    after: I64
    """[P]: the state after each step."""
    targets: I64
    """[T]: the reached states, ascending."""
    starts: I64
    """[T]: the first step to each reached state."""


@dataclass(slots=True, kw_only=True, eq=False)
class FleetStates:
    """Counts of used workers by class, numbered so that placing a group always adds the same number.

    Mutates: `layers`, which are made when they are first needed. Shapes: U states.
    """

    num_workers: I64
    """[U]: the number of used workers of each state."""
    steps: tuple[I64, I64, I64]
    """All steps: before, group, after."""
    layers: list[Layer] = field(default_factory=list[Layer])
    """The layers of the first stage, the second, and so on, as far as needed."""

    @property
    def num_states(self) -> int:
        return len(self.num_workers)

    def layer(self, stage: int) -> Layer:
        """The layer of the `stage`-th stage, counted from 0."""
        while len(self.layers) <= stage:
            self.layers.append(self._next_layer())
        return self.layers[stage]

    def _next_layer(self) -> Layer:
        reached: Bools = np.zeros(self.num_states, np.bool_)
        reached[self.layers[-1].targets if self.layers else 0] = True
        before, group, after = (part[reached[self.steps[0]]] for part in self.steps)
        order = np.lexsort((group, after))
        before, group, after = before[order], group[order], after[order]
        targets, starts = np.unique(after, return_index=True)
        return Layer(before=before, group=group, after=after, targets=targets, starts=starts.astype(np.int64))


def count_states(problem: ReplicaProblem) -> int:
    """The number of states that `fleet_states` would make."""
    return prod(count + 1 for count in problem.counts)


def fleet_states(problem: ReplicaProblem) -> FleetStates:
    """Number all counts of used workers in mixed radix, the first class slowest, and find the steps between them.

    Args:
        problem: the problem, compact.
    """
    sizes = [count + 1 for count in problem.counts]
    used = np.indices(sizes).reshape(len(sizes), -1).T
    strides = np.array([prod(sizes[index + 1 :]) for index in range(len(sizes))])
    counts = np.array(problem.counts)
    befores: list[I64] = []
    groups: list[I64] = []
    afters: list[I64] = []
    for group, uses in enumerate(map(np.array, problem.groups)):
        before = np.flatnonzero(np.all(used + uses <= counts, axis=1)).astype(np.int64)
        befores.append(before)
        groups.append(np.full(len(before), group, np.int64))
        afters.append(before + int(uses @ strides))
    none = np.zeros(0, np.int64)
    joined = [np.concatenate([none, *parts]) for parts in (befores, groups, afters)]
    return FleetStates(num_workers=used.sum(axis=1).astype(np.int64), steps=(joined[0], joined[1], joined[2]))
