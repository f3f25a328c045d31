"""Whether the devices of a machine are used beside its processor, instead of it, or not at all.

The processor alone is planned as usual, as one or several workers. A device alone is one worker. Together, processor
and devices are a fleet of unlike workers, with speeds that were measured while all of them compute, since some devices
share the processor's cores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from shoal.errors import CapacityError, ConfigError
from shoal.planner.choice.goal import Goal, choose_simplest

ChoiceT = TypeVar("ChoiceT")
FoundT = TypeVar("FoundT", covariant=True)

HOPELESS = 30.0
"""A device that is so many times slower than the processor is not measured beside it, which would take as many times
longer. A judgment: it could add a thirtieth at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOption(Generic[FoundT]):
    """One way to use a machine's devices."""

    what: str
    """The workers, in words."""
    choice: FoundT | None
    """The best split over these workers; None: there is none."""
    reason: str = ""
    """Why it was not taken; empty if it was."""


def choose_option(
    offered: Sequence[tuple[str, Callable[[], ChoiceT]]], score: Callable[[ChoiceT], float], goal: Goal
) -> tuple[DeviceOption[ChoiceT], ...]:
    """Compare the ways to use a machine, of which exactly one is taken.

    Args:
        offered: for each way, the workers in words and a function that finds their best split; the simplest first.
        score: gives a split's score by the goal; higher is better.
        goal: the goal by which ways are compared.

    Raises:
        CapacityError, ConfigError: the error of the last way, if none fits or none meets the latency target.
    """
    options: list[DeviceOption[ChoiceT]] = []
    failure: CapacityError | ConfigError | None = None
    for what, choose in offered:
        try:
            options.append(DeviceOption(what=what, choice=choose()))
        except (CapacityError, ConfigError) as error:
            failure = error
            options.append(DeviceOption(what=what, choice=None, reason=str(error)))
    scores = [None if option.choice is None else score(option.choice) for option in options]
    found = [index for index, one in enumerate(scores) if one is not None]
    if not found:
        assert failure is not None
        raise failure
    best = choose_simplest(found, lambda index: scores[index] or 0.0)
    return tuple(
        option if index == best or one is None else _rejected(option, one / (scores[best] or 1.0), goal)
        for index, (option, one) in enumerate(zip(options, scores, strict=True))
    )


def _rejected(option: DeviceOption[ChoiceT], part: float, goal: Goal) -> DeviceOption[ChoiceT]:
    """The option with the reason why it was not taken. `part`: its score as a part of the best one's."""
    reason = f"{1.0 - part:.0%} worse by {goal.objective}" if part < 1.0 else "hardly better, and less simple"
    return DeviceOption(what=option.what, choice=option.choice, reason=reason)


def too_slow(name: str, factor: float) -> DeviceOption[Any]:
    """The option of a device that is `factor` times as slow as the processor, which is not taken."""
    reason = f"{factor:.0f} times as slow as the processor alone: it would slow the whole down"
    return DeviceOption(what=f"{name} beside others", choice=None, reason=reason)


def named_together(names: Sequence[str]) -> str:
    """The names of these workers, in words."""
    return f"{names[0]} alone" if len(names) == 1 else " and ".join(names)
