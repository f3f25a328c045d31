"""A step as the scheduler hands it over: what the workers get at once, and what they get while they compute it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import NamedTuple

from shoal.core.sequences.request import TokenGuide
from shoal.core.speed.step_times import StepShape
from shoal.protocol.language_messages import Step


class GuidedRow(NamedTuple):
    """A row of which a guide says what may be drawn."""

    guide: TokenGuide
    outputs: array[int]
    """all tokens of its request so far"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """A step, and whom to ask what its guided rows may draw.

    The step alone is enough to compute all layers. To ask the guides takes a while in which the workers would wait, so
    whoever sends a step sends it first and asks then, once, before anything else is asked of the same guides.
    """

    step: Step
    shape: StepShape
    """the step's size"""
    num_samples: int
    """rows whose next token is drawn"""
    guided: tuple[GuidedRow, ...] = ()
    """for each of the step's samples that is guided, in order"""

    def masks(self) -> tuple[bytes, ...]:
        """See `StepMasks.allowed`."""
        return tuple(row.guide.allowed(row.outputs) for row in self.guided)
