"""The time that a stage takes for a step, learned from its steps so far.

A step's time is a sum: a fixed part, a part for each row, and a part for each row and token of its context. One kernel
computes all rows, but two kinds of rows are distinguished. An output row is the only one of its sequence in the step:
it is sampled, and reads a context of its own. Prompt rows of one sequence read their context together, and at most the
last one is sampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from math import sqrt
from typing import NamedTuple

_DECAY = 0.99
"""Weight of the past at every step: the fit covers about a hundred steps, a few seconds of decoding. A judgment."""
_RESCALE = 1e6
"""Instead of decaying the past, new weights grow; at this weight all are scaled down, long before digits are lost."""
_PRIOR_STEPS = 8.0
"""The weight of a prediction, in steps: observed terms soon override it, and unobserved ones keep it."""
_NO_PRIOR_STEPS = 0.05
"""The weight of the prior without a prediction: just enough to make the fit unique."""


class StepShape(NamedTuple):
    """The size of a step, on which its time depends."""

    output_rows: int
    output_context: int
    """Tokens of context, summed over the output rows."""
    prompt_rows: int
    prompt_context: int

    @classmethod
    def of(cls, chunks: Iterable[tuple[int, int]], encoded_rows: Iterable[int] = ()) -> StepShape:
        """The shape of a step.

        Args:
            chunks: for each sequence in the step: its rows, and its tokens of context after the step.
            encoded_rows: the rows of each clip that the step encodes.
        """
        output_rows = output_context = prompt_rows = prompt_context = 0
        for rows, context in chunks:
            if rows == 1:
                output_rows += 1
                output_context += context
            else:
                prompt_rows += rows
                prompt_context += rows * context - rows * (rows - 1) // 2
        for rows in encoded_rows:  # all its rows attend over each other
            prompt_rows += rows
            prompt_context += rows * rows
        return cls(output_rows, output_context, prompt_rows, prompt_context)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """The cost model of one stage: seconds by contents of a step, all >= 0."""

    step_s: float
    """Seconds of every step, whatever it holds."""
    output_row_s: float
    output_context_s: float
    """Seconds for an output row, for each token of its context."""
    prompt_row_s: float
    prompt_context_s: float

    def seconds(self, shape: StepShape) -> float:
        """Seconds of one step."""
        rows_s = self.output_row_s * shape.output_rows + self.prompt_row_s * shape.prompt_rows
        context_s = self.output_context_s * shape.output_context + self.prompt_context_s * shape.prompt_context
        return self.step_s + rows_s + context_s

    def prompt_seconds(self, shape: StepShape) -> float:
        """Seconds that a step's prompt rows add; without output rows, all of its time."""
        rows_s = self.prompt_row_s * shape.prompt_rows + self.prompt_context_s * shape.prompt_context
        return rows_s if shape.output_rows else self.step_s + rows_s


class StepTimes:
    """A fit of StageCost to the latest steps, by least squares of the *relative* error with decaying weights.

    With relative errors a decode step counts as much as a prefill step that takes fifty times as long, and a step that
    took ten times too long has little weight: the fit is for undisturbed steps.
    """

    __slots__ = ("_cost", "_moments", "_prior", "_products", "_weight", "_weight_sum", "num_outputs", "num_prompts")

    def __init__(self, predicted: StageCost | None = None) -> None:
        """`predicted`: the plan's prediction for this stage; None: there is none."""
        self._prior = predicted
        self._moments = [[0.0] * _NUM_TERMS for _ in range(_NUM_TERMS)]
        self._products = [0.0] * _NUM_TERMS
        self._weight = 1.0
        self._weight_sum = 0.0
        self._cost = predicted
        self.num_outputs = 0
        """Steps with output rows so far."""
        self.num_prompts = 0
        """Steps with prompt rows so far."""

    def observe(self, shape: StepShape, seconds: float) -> None:
        """Note the time of a step; 0 is ignored."""
        if seconds <= 0.0:
            return
        self.num_outputs += shape.output_rows > 0
        self.num_prompts += shape.prompt_rows > 0
        parts = [(index, value / seconds) for index, value in enumerate(_features(shape)) if value]
        self._weight /= _DECAY
        self._weight_sum += self._weight
        for index, value in parts:
            weighted = self._weight * value
            self._products[index] += weighted
            moments = self._moments[index]
            for other, other_value in parts:
                moments[other] += weighted * other_value
        self._cost = None
        if self._weight > _RESCALE:
            self._rescale()

    def cost(self) -> StageCost:
        """The fit to the observations so far; without any, the prediction, or zeros without one."""
        if self._cost is None:
            self._cost = StageCost(**dict(zip(_NAMES, self._fit(), strict=True)))
        return self._cost

    def _fit(self) -> list[float]:
        """Fit, leaving out the most negative term until none is negative: more rows never take less time."""
        if not self._weight_sum:
            return [0.0] * _NUM_TERMS
        moments, products = self._with_prior()
        terms = [index for index in range(_NUM_TERMS) if moments[index][index] > 0.0]
        while True:
            values = _solve([[moments[i][j] for j in terms] for i in terms], [products[i] for i in terms])
            shares = [value * sqrt(moments[index][index]) for index, value in zip(terms, values, strict=True)]
            if min(shares, default=0.0) >= 0.0:
                break
            terms.pop(shares.index(min(shares)))
        fitted = dict(zip(terms, values, strict=True))
        return [fitted.get(index, self._unseen(index)) for index in range(_NUM_TERMS)]

    def _with_prior(self) -> tuple[list[list[float]], list[float]]:
        """The normal equations with a prior: each term is drawn to its prediction or to zero, as if by so many
        steps."""
        moments, products = [list(row) for row in self._moments], list(self._products)
        strength = (_PRIOR_STEPS if self._prior else _NO_PRIOR_STEPS) * self._weight
        for index in range(_NUM_TERMS):
            pull = strength * moments[index][index] / self._weight_sum
            moments[index][index] += pull
            products[index] += pull * self._prior_value(index)
        return moments, products

    def _prior_value(self, index: int) -> float:
        return astuple(self._prior)[index] if self._prior else 0.0

    def _unseen(self, index: int) -> float:
        """The value of a term that was left out: its prediction if no step had it, 0 if its fit was negative."""
        return 0.0 if self._moments[index][index] > 0.0 else self._prior_value(index)

    def _rescale(self) -> None:
        factor, self._weight = 1.0 / self._weight, 1.0
        self._weight_sum *= factor
        self._products = [value * factor for value in self._products]
        self._moments = [[value * factor for value in row] for row in self._moments]


_NAMES = ("step_s", "output_row_s", "output_context_s", "prompt_row_s", "prompt_context_s")
_NUM_TERMS = len(_NAMES)


def _features(shape: StepShape) -> Sequence[float]:
    """The terms in the order of StageCost."""
    return (1.0, *shape)


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a positive definite system by Gaussian elimination. Mutates: both arguments."""
    size = len(right)
    for pivot in range(size):
        for row in range(pivot + 1, size):
            factor = matrix[row][pivot] / matrix[pivot][pivot]
            for column in range(pivot, size):
                matrix[row][column] -= factor * matrix[pivot][column]
            right[row] -= factor * right[pivot]
    for row in reversed(range(size)):
        known = sum(matrix[row][column] * right[column] for column in range(row + 1, size))
        right[row] = (right[row] - known) / matrix[row][row]
    return right
