"""The load that a plan is made for."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A closed loop of equal requests: as soon as one ends the next begins. Raises ConfigError out of range."""

    streams: int = 1
    """requests under way at any time, >= 1"""
    prompt_tokens: int = 128
    """of each request, >= 1"""
    output_tokens: int = 64
    """of each request, >= 1. Source of both: the benchmarks' workload"""
    hypotheses: int = 1
    """rows of each request in a step of outputs: those of a search, >= 1"""

    def __post_init__(self) -> None:
        for name in ("streams", "prompt_tokens", "output_tokens", "hypotheses"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but it must be at least 1")

    @property
    def mean_decode_context(self) -> float:
        """Tokens that an output row looks back on, itself included: prompt_tokens + 1 to prompt_tokens + output_tokens
        - 1, on average."""
        return self.prompt_tokens + self.output_tokens / 2
