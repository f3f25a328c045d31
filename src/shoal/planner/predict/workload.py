"""The load for which a plan is made."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A closed loop of equal requests: when one ends, the next begins. Raises ConfigError if a value is out of
    range."""

    streams: int = 1
    """Concurrent requests, >= 1."""
    prompt_tokens: int = 128
    """Prompt tokens of each request, >= 1."""
    output_tokens: int = 64
    """Output tokens of each request, >= 1. Source of both defaults: the benchmarks' workload."""
    hypotheses: int = 1
    """Rows of each request in a decode step: the hypotheses of a beam search, >= 1."""

    def __post_init__(self) -> None:
        for name in ("streams", "prompt_tokens", "output_tokens", "hypotheses"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but it must be at least 1")

    @property
    def mean_decode_context(self) -> float:
        """Mean context of an output row, including itself: the average of prompt_tokens + 1 to prompt_tokens +
        output_tokens - 1."""
        return self.prompt_tokens + self.output_tokens / 2
