"""The answer to one request, and its comparison with the answer without kills."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from shoal.arrays import Array

_RELATIVE_TOLERANCE = 1e-3
"""Tolerance for a graph's outputs. After a loss, rows are batched differently, which changes the last bits of ONNX
Runtime's sums (docs/log.md, other rows, other bits), and more than those after many layers."""


@dataclass(slots=True, kw_only=True)
class ChaosAnswer:
    """The answer to one request. Mutable: filled in while it runs. Times are those of the clock given to `ask`."""

    started_s: float
    ended_s: float = 0.0
    arrivals_s: list[float] = field(default_factory=list[float])
    """Arrival times of the pieces of text."""
    text: str = ""
    finish_reason: str | None = None
    num_tokens: int = 0
    token_logprobs: list[float] = field(default_factory=list[float])
    outputs: dict[str, Array] = field(default_factory=dict[str, Array])
    """For a graph: some elements of each output, always the same ones."""
    error: str | None = None

    @property
    def latency_s(self) -> float:
        """Seconds from sending the request to the end of its answer."""
        return self.ended_s - self.started_s

    def equals(self, other: ChaosAnswer) -> bool:
        """Whether both answers are the same for a client, up to rounding of log-probabilities and outputs."""
        return (
            self.text == other.text
            and self.finish_reason == other.finish_reason
            and self.num_tokens == other.num_tokens
            and len(self.token_logprobs) == len(other.token_logprobs)
            and self.outputs.keys() == other.outputs.keys()
            and all(_are_close(mine, other.outputs[name]) for name, mine in self.outputs.items())
        )

    def difference(self, other: ChaosAnswer) -> float:
        """The largest difference of log-probabilities or output elements of two equal answers."""
        pairs = zip(self.token_logprobs, other.token_logprobs, strict=True)
        outputs = (_distance(mine, other.outputs[name]) for name, mine in self.outputs.items())
        return max((*(abs(mine - theirs) for mine, theirs in pairs), *outputs), default=0.0)


def _are_close(mine: Array, theirs: Array) -> bool:
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return False
    if mine.dtype.kind != "f":
        return bool((mine == theirs).all())
    scale = float(np.abs(theirs).max(initial=0.0))
    return bool(np.allclose(mine, theirs, rtol=_RELATIVE_TOLERANCE, atol=_RELATIVE_TOLERANCE * scale, equal_nan=True))


def _distance(mine: Array, theirs: Array) -> float:
    if mine.dtype.kind != "f":
        return 0.0
    return float(np.nanmax(np.abs(mine.astype(np.float64) - theirs), initial=0.0))
