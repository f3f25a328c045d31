"""How large a piece of work is, a step or a batch: what its time can be foretold from before it is done."""

from __future__ import annotations

from typing import NamedTuple

from shoal.core.speed.step_times import StepShape

_CONTEXT_OF_A_ROW = 1000
"""Tokens of context that count as much as a row itself. Attention over c tokens takes as much arithmetic as a layer's
matrices where c is 6 times the hidden size (3456 for SmolLM2, more for larger models); fewer errs towards patience."""
_OUTPUTS, _PROMPTS = 0, 1


class WorkSize(NamedTuple):
    """The size of one piece of work. Sizes compare within one model only."""

    rows: int
    row_cost: int = 1
    """of one row, >= 1, in any unit: the elements of a batch's row; steps have their context in `rows` instead"""
    kind: int = 0
    """pieces of different kinds take different times for the same rows"""

    @property
    def amount(self) -> int:
        """The rows, each weighed with its cost."""
        return self.rows * self.row_cost

    @classmethod
    def of_step(cls, shape: StepShape) -> WorkSize:
        """A step's, in rows: so much context counts as one more."""
        context = shape.output_context + shape.prompt_context
        rows = shape.output_rows + shape.prompt_rows + context // _CONTEXT_OF_A_ROW
        return cls(rows, kind=_PROMPTS if shape.prompt_rows else _OUTPUTS)
