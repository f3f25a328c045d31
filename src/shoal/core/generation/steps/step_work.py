"""A step as the scheduler returns it: what the workers get at once, and the masks that follow while they compute."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import msgspec

from shoal.core.sequences.request import TokenGuide
from shoal.core.speed.step_times import StepShape
from shoal.protocol.language_messages import Step


class GuidedRow(NamedTuple):
    """A sampled row whose token a guide restricts."""

    guide: TokenGuide
    outputs: array[int]
    """All output tokens of its request so far."""


class StepWork(msgspec.Struct, frozen=True, kw_only=True):
    """A step, and the guides of its guided rows.

    Workers need only the step to compute all layers. Computing the masks takes time in which they would wait, so the
    step is sent first; `masks` is called afterwards, once, and before any other call of the same guides.
    """

    step: Step
    shape: StepShape
    """The step's size."""
    num_samples: int
    """Rows whose next token is sampled."""
    guided: tuple[GuidedRow, ...] = ()
    """The guided samples of the step, in order."""

    def masks(self) -> tuple[bytes, ...]:
        """The tokens that each guided row may draw, as bit masks; see `StepMasks.allowed`."""
        return tuple(row.guide.allowed(row.outputs) for row in self.guided)
