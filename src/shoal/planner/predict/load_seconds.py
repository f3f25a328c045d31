"""The time that a lost worker is away, for predictions before any loss was observed."""

from __future__ import annotations

START_S = 0.6
"""Seconds until a new process runs and has its links, without weights. Source: `shoal bench chaos`, idle between kills
(docs/simulate.md)."""
FORK_S = 0.1
"""The same for a worker on its head's machine, which is forked. Source: benchmarks/drill.py."""
_LOAD_BYTES_PER_S = 1e9
"""Bytes of weights per second that a worker maps or reads after its start. Source: benchmarks/drill.py."""


def load_seconds(weight_bytes: int, *, is_forked: bool = False) -> float:
    """Seconds from a worker's loss until a new one is ready in its place; the others keep their weights.

    Args:
        weight_bytes: bytes of the worker's weights.
        is_forked: whether it is on its head's machine, where workers are forked (decision 0047).
    """
    return (FORK_S if is_forked else START_S) + weight_bytes / _LOAD_BYTES_PER_S
