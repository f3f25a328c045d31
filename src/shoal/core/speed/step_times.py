"""How long a stage takes for a step, learned from the steps that it has run.

A step's time is a sum: a part that every step pays, a part for a row, and a part for a row and a token of its context.
One kernel computes all rows, and yet two kinds of rows are told apart. An output row is the only one of its sequence in
the step: it is sampled, and reads a context of its own. A prompt row has others of its sequence beside it: they read
their context together, and at most the last is sampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from math import sqrt
from typing import NamedTuple

_DECAY = 0.99
"""Weight of the past at every step: about a hundred steps count, a few seconds of decoding. A judgment."""
_RESCALE = 1e6
"""Weights grow instead of the past's being multiplied; they are brought back down here, far from losing digits."""
_PRIOR_STEPS = 8.0
"""What a prediction weighs, in steps: in what has been seen it is soon outvoted, in what has not it stands."""
_NO_PRIOR_STEPS = 0.05
"""The same without a prediction: only enough to share out what the steps seen so far cannot tell apart."""


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
            chunks: of each sequence in the step its rows, and its tokens of context once the step has run.
            encoded_rows: of each clip that the step encodes.
        """
        output_rows = output_context = prompt_rows = prompt_context = 0
        for rows, context in chunks:
            if rows == 1:
                output_rows += 1
                output_context += context
            else:
                prompt_rows += rows
                prompt_context += rows * context - rows * (rows - 1) // 2
        for rows in encoded_rows:  # which see each other
            prompt_rows += rows
            prompt_context += rows * rows
        return cls(output_rows, output_context, prompt_rows, prompt_context)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """Seconds that one stage takes, by what is in a step; all >= 0."""

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
        """What its prompt rows add: all of it where there are no others."""
        rows_s = self.prompt_row_s * shape.prompt_rows + self.prompt_context_s * shape.prompt_context
        return rows_s if shape.output_rows else self.step_s + rows_s


class StepTimes:
    """Fits a StageCost to the latest steps, by least squares of the *relative* error with fading weights.

    Relative, so that a decode step counts as much as a prefill step fifty times its length, and so that a step that
    took ten times too long says little: what is fitted is how long a step takes when nothing disturbs it.
    """

    __slots__ = ("_cost", "_moments", "_prior", "_products", "_weight", "_weight_sum", "num_outputs", "num_prompts")

    def __init__(self, predicted: StageCost | None = None) -> None:
        """`predicted`: what the plan expects of this stage, if it does."""
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
        """A step has taken so long. One that took no time says nothing."""
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
        """The fit to what was observed so far; without observations the prediction, or nothing but zeros."""
        if self._cost is None:
            self._cost = StageCost(**dict(zip(_NAMES, self._fit(), strict=True)))
        return self._cost

    def _fit(self) -> list[float]:
        """Leave out the most negative term until none is: more rows never take less time."""
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
        """Each term is drawn to its prediction, or to zero, as if so many typical steps had said so."""
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
        """A term that no step had keeps its prediction; one that turned out negative is nothing."""
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
    """Gaussian elimination of a positive definite system. Mutates: both."""
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
