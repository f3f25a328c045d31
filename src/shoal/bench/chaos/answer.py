"""What one request came to, and whether that is what it would have been."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from shoal.arrays import Array

_RELATIVE_TOLERANCE = 1e-3
"""Of a graph's outputs: rows are computed in other company after a loss, and ONNX Runtime's sums then differ in their
last bits (docs/log.md, other rows, other bits); through many layers in more than those."""


@dataclass(slots=True, kw_only=True)
class ChaosAnswer:
    """What one request came to. Mutable: filled in while it runs. Times on the clock that it is given."""

    started_s: float
    ended_s: float = 0.0
    arrivals_s: list[float] = field(default_factory=list[float])
    """of each piece of text"""
    text: str = ""
    finish_reason: str | None = None
    num_tokens: int = 0
    token_logprobs: list[float] = field(default_factory=list[float])
    outputs: dict[str, Array] = field(default_factory=dict[str, Array])
    """of a graph: some elements of each output, always the same ones"""
    error: str | None = None

    @property
    def latency_s(self) -> float:
        """Seconds from sending the request to the end of its answer."""
        return self.ended_s - self.started_s

    def equals(self, other: ChaosAnswer) -> bool:
        """Whether a client could not tell them apart, but for log-probabilities' last bits."""
        return (
            self.text == other.text
            and self.finish_reason == other.finish_reason
            and self.num_tokens == other.num_tokens
            and len(self.token_logprobs) == len(other.token_logprobs)
            and self.outputs.keys() == other.outputs.keys()
            and all(_are_close(mine, other.outputs[name]) for name, mine in self.outputs.items())
        )

    def difference(self, other: ChaosAnswer) -> float:
        """The largest between log-probabilities or elements of outputs, of answers that are equal."""
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
