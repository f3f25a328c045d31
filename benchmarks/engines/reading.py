"""What one measurement of one engine says."""

from __future__ import annotations

from dataclasses import dataclass, field

from memory import Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One number and what it cost."""

    value: float
    """in the unit of the comparison"""
    computed_tokens_per_s: float | None = None
    """prompt tokens included; None: speed is not what was measured"""
    memory: Memory = field(default_factory=Memory)


Readings = dict[str, Reading]
"""One reading a load, such as `16 streams`."""
