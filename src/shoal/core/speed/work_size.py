"""The size of a piece of work (a step or a batch), from which its time is predicted."""

from __future__ import annotations

from typing import NamedTuple

from shoal.core.speed.step_times import StepShape

_CONTEXT_OF_A_ROW = 1000
"""Tokens of context that count as one more row. Attention over c tokens takes as much arithmetic as a layer's matrices
if c is 6 times the hidden size (3456 for SmolLM2, more for larger models); a smaller number errs towards patience."""
_OUTPUTS, _PROMPTS = 0, 1


class WorkSize(NamedTuple):
    """The size of one piece of work. Sizes compare within one model only."""

    rows: int
    row_cost: int = 1
    """The cost of one row, >= 1, in any unit: the elements of a batch's row. For steps, context counts in `rows`."""
    kind: int = 0
    """The kind of work; different kinds take different times for the same rows."""

    @property
    def amount(self) -> int:
        """The rows times their cost."""
        return self.rows * self.row_cost

    @classmethod
    def of_step(cls, shape: StepShape) -> WorkSize:
        """The size of a step in rows, including its context."""
        context = shape.output_context + shape.prompt_context
        rows = shape.output_rows + shape.prompt_rows + context // _CONTEXT_OF_A_ROW
        return cls(rows, 1, _PROMPTS if shape.prompt_rows else _OUTPUTS)
