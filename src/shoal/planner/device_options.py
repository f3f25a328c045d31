"""Whether devices of one machine are worth using beside its processor, or in its place, or not at all.

The processor alone is planned as ever, as one worker or several. A device alone is one worker. Together, processor and
devices are a fleet of unlike workers, with the speeds that they were measured to have while all of them compute: some
devices share the processor's cores.
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
"""Times as slow as the processor: such a device is not measured beside it, which would take as many times as long. A
judgment: it could add a thirtieth at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOption(Generic[FoundT]):
    """One way to use the devices that there are."""

    what: str
    """which workers there are, in words"""
    choice: FoundT | None
    """the best split of these workers; None: there is none"""
    reason: str = ""
    """why it was not taken; empty: it was taken"""


def choose_option(
    offered: Sequence[tuple[str, Callable[[], ChoiceT]]], score: Callable[[ChoiceT], float], goal: Goal
) -> tuple[DeviceOption[ChoiceT], ...]:
    """The ways to use a machine; exactly one of them is taken.

    Args:
        offered: which workers there are, in words, and what finds their best split; the simplest way first.
        score: of a split by the goal; the higher the better.
        goal: what to choose by.

    Raises:
        CapacityError, ConfigError: nothing fits, or nothing meets the latency target; of the last one.
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
    """`part`: of the best option's score."""
    reason = f"{1.0 - part:.0%} worse by {goal.objective}" if part < 1.0 else "hardly better, and less simple"
    return DeviceOption(what=option.what, choice=option.choice, reason=reason)


def too_slow(name: str, factor: float) -> DeviceOption[Any]:
    """A device that is so many times as slow as the processor."""
    reason = f"{factor:.0f} times as slow as the processor alone: it would slow the whole down"
    return DeviceOption(what=f"{name} beside others", choice=None, reason=reason)


def named_together(names: Sequence[str]) -> str:
    """Workers of these classes, in words."""
    return f"{names[0]} alone" if len(names) == 1 else " and ".join(names)
